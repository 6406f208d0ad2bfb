"""Batched decoding: slots that are refilled on the device.

  request         a request, its limit and its id
  decode_options  the options of a run
  cache_plan      sizes of the cache, refused if they do not fit
  loop_state      the arrays of the loop
  device_loop     on the device: prefill, admission, decode steps
  ledger          on the host: texts so far, results
  journaling      texts that are being drawn: shown and kept
  refill          on the host: prefills waiting requests into the queue
  host_loop       on the host: refills the queue between runs of the device loop
"""

from ddt_jax.engine.decode_options import DecodeOptions
from ddt_jax.engine.host_loop import STEPS_PER_SYNC
from ddt_jax.engine.host_loop import HostSync
from ddt_jax.engine.host_loop import check
from ddt_jax.engine.host_loop import generate
from ddt_jax.engine.host_loop import run
from ddt_jax.engine.journaling import Journal
from ddt_jax.engine.journaling import progress_bar
from ddt_jax.engine.ledger import Generated
from ddt_jax.engine.request import Request
from ddt_jax.engine.request import make_requests

__all__ = [
    'DecodeOptions', 'Generated', 'HostSync', 'Journal', 'Request',
    'STEPS_PER_SYNC', 'check', 'generate', 'make_requests', 'progress_bar', 'run',
]
