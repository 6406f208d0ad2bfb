"""Batched decoding: slots that are refilled on the device.

Requests are checked and recorded on the host (`request`, `decode_options`,
`ledger`); `host_loop` prefills them into a queue, and `device_loop` decodes them
step by step. `loop_state` has the arrays of that loop, `cache_plan` their sizes.
"""

from ddt_jax.engine.decode_options import DecodeOptions
from ddt_jax.engine.host_loop import STEPS
from ddt_jax.engine.host_loop import HostSync
from ddt_jax.engine.host_loop import check
from ddt_jax.engine.host_loop import generate
from ddt_jax.engine.host_loop import run
from ddt_jax.engine.ledger import Generated
from ddt_jax.engine.request import Request
from ddt_jax.engine.request import make_requests

__all__ = [
    'DecodeOptions', 'Generated', 'HostSync', 'Request', 'STEPS', 'check',
    'generate', 'make_requests', 'run',
]
