"""Hugging Face folders <-> the parameter tree."""

from ddt_jax.weights.hugging_face import load
from ddt_jax.weights.hugging_face import save
from ddt_jax.weights.names import hf_names

__all__ = ['hf_names', 'load', 'save']
