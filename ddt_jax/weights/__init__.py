"""Hugging Face folders <-> the parameter tree."""

from ddt_jax.weights.hugging_face import hf_names
from ddt_jax.weights.hugging_face import load
from ddt_jax.weights.hugging_face import save

__all__ = ['hf_names', 'load', 'save']
