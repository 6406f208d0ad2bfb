"""Eight fake devices on the CPU, a compilation cache, and quiet libraries.

pytest imports this file before any test, and so before JAX, which reads these
variables when it is imported. Values that the caller has set are kept.
"""

import gc
import os
import pathlib
import sys

DEVICES = '--xla_force_host_platform_device_count'

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if DEVICES not in os.environ.get('XLA_FLAGS', ''):
  flags = [os.environ.get('XLA_FLAGS', ''), f'{DEVICES}=8']
  os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
# By default XLA starts one thread for each fake device. Two collectives in flight can
# then wait for each other's threads, until XLA aborts the process.
os.environ.setdefault('PJRT_NPROC', '16')
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    str(pathlib.Path.home() / '.cache' / 'ddt_jax' / 'tests'),
)
# JAX caches only programs that compile for a second or longer. Most of the tests'
# programs compile faster.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

MOST_MAPS = 30_000
MAPS = pathlib.Path('/proc/self/maps')


def pytest_runtest_teardown(item, nextitem):
  """Frees compiled programs between files once there are many.

  Each takes some memory maps. Linux allows a process 65,530, and LLVM aborts it there.
  """
  same = nextitem is not None and nextitem.path == item.path
  if same or not MAPS.exists() or MAPS.read_bytes().count(b'\n') < MOST_MAPS:
    return
  sys.modules['jax'].clear_caches()
  gc.collect()
