r"""Speed and memory on one GPU, in one call.

python -m experiments.bench.gpu --out=FILE.json [--minutes=5] [--parts=train,head] \
    [--small]

Random weights at the sizes of Qwen2.5-0.5B and 1.5B, in bfloat16: attention alone by
each program, training steps on packed rows, the vocabulary head, scoring, decoding.
The most important come first. A measurement that fails prints its error, and the next
one follows; after --minutes the rest is left out, and named. FILE.json is written
after each. --small runs everything at sizes of nothing, on any machine.
"""

import functools
import gc
import json
import time
import traceback
from typing import Any

from absl import flags
import jax
import jaxlib

from ddt_jax import storage
from ddt_jax.model import flash
from experiments.bench import gpu_attention
from experiments.bench import gpu_parts
from experiments.bench import gpu_scale
from experiments.run import lifecycle

_OUT = flags.DEFINE_string('out', '', 'File that the results are written to.')
_MINUTES = flags.DEFINE_float('minutes', 5, 'No measurement begins later than this.')
_SMALL = flags.DEFINE_bool('small', False, 'Sizes of nothing, to try the command.')
_PARTS = flags.DEFINE_list(
    'parts', [],
    'Only measurements whose names begin with one of these, in this order.')

Measurements = dict[str, Any]


def measurements(scale: gpu_scale.Scale) -> Measurements:
  """{name: function without arguments}, the most important first."""
  first, *others = scale.models
  partial, alone = functools.partial, gpu_attention.measure
  found = {
      f'attention {first}, packed, triton': partial(
          alone, scale, first, 'triton', True)}
  found |= {
      f'train {first}, {name}': partial(gpu_parts.train, scale, first, name)
      for name in ('idft', 'sft')}
  for size in others:
    found[f'train {size}, idft'] = partial(gpu_parts.train, scale, size, 'idft')
  found[f'attention {first}, packed, blocks'] = partial(
      alone, scale, first, 'blocks', True)
  for program in ('cudnn', 'triton', 'blocks'):
    found[f'attention {first}, one segment, {program}'] = partial(
        alone, scale, first, program, False)
  for way, objective in (('tiles', 'idft'), ('tiles', 'sft'), ('held', 'idft')):
    found[f'head {first}, {way}, {objective}'] = partial(
        gpu_parts.head, scale, first, way, objective)
  found[f'score {first}'] = partial(gpu_parts.score, scale, first)
  for name, hinted in (('plain', False), ('hinted', True)):
    found[f'decode {first}, {name}'] = partial(
        gpu_parts.decode, scale, first, hinted)
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


def run(todo: Measurements, out: str, minutes: float) -> dict[str, Any]:
  """Measures one after the other, and writes the results after each.

  Args:
    todo: see `measurements`.
    out: file of the results; '' for none.
    minutes: none begins later.

  Returns:
    device, versions, results by name (figures, or an `error`) and `left_out`.
  """
  device, began = jax.devices()[0], time.monotonic()
  found = {
      'device': device.device_kind, 'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'platform': device.client.platform_version.strip(),
      'left_out': [], 'results': {},
  }
  for name, measure in todo.items():
    since = time.monotonic()
    if since - began > 60 * minutes:
      found['left_out'].append(name)
      continue
    try:
      figures = measure()
    except Exception as e:  # the rest is worth its time on the device
      traceback.print_exc()
      figures = {'error': f'{type(e).__name__}: {e}'[:500]}
    figures['seconds'] = time.monotonic() - since
    found['results'][name] = figures
    gc.collect()  # frees the device's memory
    print(line(name, figures), flush=True)
    if out:
      storage.publish(storage.path(out), json.dumps(found, indent=1) + '\n')
  return found


def line(name: str, figures: dict[str, Any]) -> str:
  """'name: ms 3.21, tokens/s 12,345'."""
  shown = ', '.join(
      f'{k} {v:,.4g}' if isinstance(v, float) and abs(v) < 1e4 else
      f'{k} {v:,.0f}' if isinstance(v, (int, float)) else f'{k} {v}'
      for k, v in figures.items())
  return f'{name}: {shown}'


def main():
  scale = gpu_scale.small() if _SMALL.value else gpu_scale.real()
  todo = measurements(scale)
  if _PARTS.value:
    todo = {
        k: f for part in _PARTS.value for k, f in todo.items() if k.startswith(part)}
  found = run(todo, _OUT.value, _MINUTES.value)
  print(f'\n{found["device"]}, jax {found["jax"]}, {found["platform"]}')
  for name, figures in found['results'].items():
    print(line(name, figures))
  if found['left_out']:
    print(f'no time was left for: {", ".join(found["left_out"])}')


if __name__ == '__main__':
  lifecycle.launch(main)
