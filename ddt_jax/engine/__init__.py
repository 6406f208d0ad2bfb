"""Batched decoding: slots that are refilled on the device."""

from ddt_jax.engine.host_loop import STEPS
from ddt_jax.engine.host_loop import Visit
from ddt_jax.engine.host_loop import generate
from ddt_jax.engine.host_loop import run
from ddt_jax.engine.ledger import Generated

__all__ = ['Generated', 'STEPS', 'Visit', 'generate', 'run']
