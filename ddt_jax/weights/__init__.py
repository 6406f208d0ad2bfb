"""Hugging Face, PEFT and GGUF files <-> the parameter tree."""

from ddt_jax.weights import gguf
from ddt_jax.weights import smollm2
from ddt_jax.weights.adapters import load_adapter
from ddt_jax.weights.adapters import save_adapter
from ddt_jax.weights.loading import check_folder
from ddt_jax.weights.loading import load
from ddt_jax.weights.loading import open
from ddt_jax.weights.loading import untied
from ddt_jax.weights.names import abstract
from ddt_jax.weights.names import hf_names
from ddt_jax.weights.saving import save
from ddt_jax.weights.saving import source_dtype

__all__ = [
    'abstract', 'check_folder', 'gguf', 'hf_names', 'load', 'load_adapter', 'open',
    'save', 'save_adapter', 'smollm2', 'source_dtype', 'untied',
]
