"""The decoder: its shape, its parameters and its pure forward pass."""

from ddt_jax.model.attention import PADDING
from ddt_jax.model.config import REMAT
from ddt_jax.model.config import ModelConfig
from ddt_jax.model.decoder import Cache
from ddt_jax.model.decoder import forward
from ddt_jax.model.decoder import head
from ddt_jax.model.decoder import init
from ddt_jax.model.decoder import init_cache
from ddt_jax.model.decoder import logits
from ddt_jax.model.decoder import next_logits
from ddt_jax.model.decoder import unstacked

__all__ = [
    'Cache', 'ModelConfig', 'PADDING', 'REMAT', 'forward', 'head', 'init',
    'init_cache', 'logits', 'next_logits', 'unstacked',
]
