r"""Speed and memory on one GPU, in one call.

python -m experiments.bench.gpu --out=FILE.json [--minutes=5] [--compile_minutes=2] \
    [--parts=train,head] [--small]

Random weights at the sizes of Qwen2.5-0.5B and 1.5B, in bfloat16: training steps on
packed rows, the vocabulary head, decoding, scoring, attention alone by each program.
The most important come first. They compile at the same time, --threads of them, and
are timed one by one, see `gpu_schedule`. A measurement that fails prints its error, and
the next one follows. Ctrl-C and SIGTERM end the command with what it has so far.
FILE.json is written after each. --small runs everything at sizes of nothing, on any
machine.

XLA's search for the best code of each fusion takes minutes for some float32 programs.
XLA_FLAGS='--xla_gpu_experimental_enable_fusion_autotuner=false
--xla_gpu_enable_triton_gemm=false' turns it off, and leaves products to cuBLAS. The
flags are written to FILE.json.
"""

import functools
import os
import signal
import sys

from absl import flags

from ddt_jax.model import flash
from experiments.bench import gpu_attention
from experiments.bench import gpu_parts
from experiments.bench import gpu_scale
from experiments.bench import gpu_schedule
from experiments.run import lifecycle

_OUT = flags.DEFINE_string('out', '', 'File that the results are written to.')
_MINUTES = flags.DEFINE_float('minutes', 5, 'No measurement begins later than this.')
_COMPILE_MINUTES = flags.DEFINE_float(
    'compile_minutes', 2,
    'Nothing is timed before this or until all is compiled. What then still compiles'
    ' disturbs the timings, and is timed last.')
_THREADS = flags.DEFINE_integer('threads', 6, 'Measurements that compile together.')
_SMALL = flags.DEFINE_bool('small', False, 'Sizes of nothing, to try the command.')
_PARTS = flags.DEFINE_list(
    'parts', [],
    'Only measurements whose names begin with one of these, in this order.')


def measurements(scale: gpu_scale.Scale) -> gpu_schedule.Measurements:
  """Functions that prepare a measurement, by name, the most important first."""
  first, *others = scale.models
  partial, alone = functools.partial, gpu_attention.measure
  found = {
      f'train {first}, {name}': partial(gpu_parts.train, scale, first, name)
      for name in ('idft', 'sft')}
  for size in others:
    found[f'train {size}, idft'] = partial(gpu_parts.train, scale, size, 'idft')
  for way, objective in (('tiles', 'idft'), ('tiles', 'sft'), ('held', 'idft')):
    found[f'head {first}, {way}, {objective}'] = partial(
        gpu_parts.head, scale, first, way, objective)
  for name, hinted in (('hinted', True), ('plain', False)):
    found[f'decode {first}, {name}'] = partial(
        gpu_parts.decode, scale, first, hinted)
  found[f'score {first}'] = partial(gpu_parts.score, scale, first)
  for program in ('triton', 'blocks'):
    found[f'attention {first}, packed, {program}'] = partial(
        alone, scale, first, program, True)
  for program in ('cudnn', 'cudnn repeatable', 'triton', 'blocks'):
    found[f'attention {first}, one segment, {program}'] = partial(
        alone, scale, first, program, False)
  for size in others:
    found[f'attention {size}, packed, triton'] = partial(
        alone, scale, size, 'triton', True)
    found[f'head {size}, tiles, idft'] = partial(
        gpu_parts.head, scale, size, 'tiles', 'idft')
    found[f'score {size}'] = partial(gpu_parts.score, scale, size)
  for name, tiles in candidates().items():
    found[f'tiles {name}'] = partial(alone, scale, first, 'triton', True, tiles)
  return found


def candidates() -> dict[str, flash.Tiles]:
  """Other block sizes of the Triton kernels, to compare with the default."""
  blocks, default = flash.Blocks, flash.Tiles()
  return {
      'y 64x64': default._replace(y=blocks(64, 64, 4, 3)),
      'y 128x128': default._replace(y=blocks(128, 128, 8, 2)),
      'dq 128x64': default._replace(dq=blocks(128, 64, 8, 2)),
      'dkv 64x128': default._replace(dkv=blocks(64, 128, 8, 2)),
      'stages 2': flash.Tiles(*(b._replace(stages=2) for b in default)),
  }


def main():
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  scale = gpu_scale.small() if _SMALL.value else gpu_scale.real()
  todo = measurements(scale)
  if _PARTS.value:
    todo = {
        k: f for part in _PARTS.value for k, f in todo.items() if k.startswith(part)}
  found = gpu_schedule.run(
      todo, _OUT.value, minutes=_MINUTES.value,
      compile_minutes=_COMPILE_MINUTES.value, threads=_THREADS.value)
  print(f'\n{found["device"]}, jax {found["jax"]}, {found["platform"]}')
  for name, figures in found['results'].items():
    print(gpu_schedule.line(name, figures))
  if found['left_out']:
    print(f'no time was left for: {", ".join(found["left_out"])}')
    sys.stdout.flush()
    # What still compiles cannot be stopped, and an ordinary end would wait for it.
    os._exit(0)


if __name__ == '__main__':
  lifecycle.launch(main)
