"""Jobs that several processes share, each with four fake devices.

`launch` starts them; `python -m tests.processes` is what each of them runs.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import sharding
from ddt_jax import weights

ROOT = pathlib.Path(__file__).parents[1]
MODEL = ROOT / 'tests' / 'golden' / 'models' / 'qwen2-tiny'


def free_address():
  """Where nobody listens yet."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{s.getsockname()[1]}'


def launch(job, folder, *, processes=2, timeout=300):
  """What each of the processes found."""
  address = free_address()
  environment = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  files = [folder / f'{job}{i}.json' for i in range(processes)]
  started = [
      subprocess.Popen(
          [sys.executable, '-m', 'tests.processes', job, address,
           str(processes), str(i), str(file)],
          cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
      ) for i, file in enumerate(files)
  ]
  try:
    for process in started:
      _, said = process.communicate(timeout=timeout)
      assert process.returncode == 0, said[-2000:]
  finally:
    for process in started:
      process.kill()
  return [json.loads(file.read_text()) for file in files]


def decode():
  """Hinted and plain responses, from parameters that lie as in training."""
  config, params = weights.load(MODEL, mesh=sharding.make_mesh())
  pairs = [([3 + i, 7, 11] * (1 + i % 3), [5, 2 + i] * (2 + i)) for i in range(13)]
  how = dict(
      max_new_tokens=20, temperature=0.8, top_p=0.95, eos_ids=range(0, 503, 9),
      key=jax.random.key(5), slots=4,
      mesh=sharding.decoding_mesh(sharding.make_mesh(), tensor=2),
  )
  hinted = hinted_decode.generate(params, config, pairs, beta=1.0, **how)
  plain = engine.generate(params, config, [s for s, _ in pairs], **how)
  return {'hinted': hinted, 'plain': plain}


def main(job, address, processes, process, out):
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(address, int(processes), int(process))
  found = {'decode': decode}[job]()
  pathlib.Path(out).write_text(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
