"""Hugging Face and PEFT folders <-> the parameter tree."""

from ddt_jax.weights.adapters import load_adapter
from ddt_jax.weights.adapters import save_adapter
from ddt_jax.weights.loading import check_folder
from ddt_jax.weights.loading import load
from ddt_jax.weights.names import hf_names
from ddt_jax.weights.saving import save

__all__ = [
    'check_folder', 'hf_names', 'load', 'load_adapter', 'save', 'save_adapter',
]
