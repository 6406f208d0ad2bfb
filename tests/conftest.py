"""Eight fake devices on the CPU, a compilation cache, and quiet libraries.

Set before JAX is imported anywhere; what the caller has set is kept.
"""

import os
import pathlib

DEVICES = '--xla_force_host_platform_device_count'

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if DEVICES not in os.environ.get('XLA_FLAGS', ''):
  flags = [os.environ.get('XLA_FLAGS', ''), f'{DEVICES}=8']
  os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
# With XLA's own choice of a thread per fake device, collectives that are in
# flight together wait for each other now and then, and the process is aborted.
os.environ.setdefault('PJRT_NPROC', '16')
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    str(pathlib.Path.home() / '.cache' / 'ddt_jax' / 'tests'),
)
# Most of the tests' programs compile in less than JAX's default of a second.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
