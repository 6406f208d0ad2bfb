r"""Compiles a config's programs for a TPU topology, without a TPU.

python -m experiments.compile_tpu --config configs/idft.py:qwen2.5-7b \
    --topology v5e:4x4
python -m experiments.compile_tpu --config configs/idft.py --topology v5e:4x8 \
    --config.model.path=Qwen2.5-7B --config.model.dtype=bfloat16 \
    --config.model.remat=full --config.data.max_tokens=4096 --config.train.batch=32
python -m experiments.compile_tpu --config configs/idft.py:qwen2.5-0.5b \
    --topology v5e:2x2 --parts=score,decode --context=8192

Compiles five parts: head (the loss by hidden states and head alone), divergence (the
KL from a teacher, likewise), train (one training step), score and decode. Prints for
each the share of one chip: memory by category; FLOPs, bytes and collectives, with
loops multiplied in (`tpu.hlo`); and the roofline, a time that no program with this
work can beat. model.path is a folder, a config.json, or a name of
`ddt_jax.model.published`; no weights are read. Needs the extra [tpu].
"""

import importlib.util
import json
import math
import os
from typing import Any

# JAX reads these when it is imported. No TPU is needed: the arrays of this process are
# on the CPU. Without the next three values the compiler asks Google Cloud's metadata
# server about this machine, which exists only there. Any valid values will do.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
# By default libtpu lets only one process use it, even to compile.
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')

from absl import flags  # noqa: E402
import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from ddt_jax import errors  # noqa: E402
from ddt_jax import model  # noqa: E402
from ddt_jax import sharding  # noqa: E402
from ddt_jax.model import published  # noqa: E402
from experiments.run import checks  # noqa: E402
from experiments.run import fitting  # noqa: E402
from experiments.run import lifecycle  # noqa: E402
from experiments.run import model_files  # noqa: E402
from experiments.run import options  # noqa: E402
from experiments.tpu import chips  # noqa: E402
from experiments.tpu import compiled  # noqa: E402
from experiments.tpu import hlo  # noqa: E402
from experiments.tpu import programs  # noqa: E402

PARTS = ('head', 'divergence', 'train', 'score', 'decode')


def devices(topology: str) -> list[Any]:
  """Abstract devices of a TPU slice, e.g. of v5e:4x8.

  Raises:
    ImportError: the compiler is not installed.
    InputError: there is no such slice.
  """
  bounds = chips.host_bounds(topology)
  if importlib.util.find_spec('libtpu') is None:
    raise ImportError(
        "the TPU compiler is not installed: pip install -e '.[tpu]'")
  try:
    return topologies.get_topology_desc(
        platform='tpu', topology_name=topology, chips_per_host_bounds=bounds,
    ).devices
  # The compiler knows which slices exist; its own words are the best message.
  except jax.errors.JaxRuntimeError as e:
    raise errors.InputError(f'--topology={topology}: {e}') from None


def bytes_a_chip(tree: Any) -> int:
  """Bytes that each chip holds of abstract arrays, by their shardings."""
  return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
  )


def figures(part: programs.Part, chip: chips.Chip) -> dict[str, Any]:
  """The figures of a compiled part, for one chip.

  Returns:
    part: its name.
    hbm, hbm_total, fits: bytes of memory by category, their sum, and whether the
      chip has as many.
    flops, bytes: work in matrix products, and bytes read from and written to HBM.
    kernel_flops: of the products, those in attention kernels, by formula.
    roofline, seconds: the least seconds for each of both, and the larger one.
    in_loops, outside: collectives inside and outside of loops, {kind: {count, bytes}}.
    loops_by_data, counted_as: number of loops whose trips depend on data, and the
      trips that each was counted with.
  """
  memory = part.compiled.memory_analysis()
  parts = {k: bytes_a_chip(v) for k, v in part.arguments.items()}
  parts |= {
      # HBM is laid out in tiles, which small or odd shapes do not fill.
      'padding': max(memory.argument_size_in_bytes - sum(parts.values()), 0),
      'temporaries': memory.temp_size_in_bytes,
      # Outputs that reuse a donated argument take no memory of their own.
      'new outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
      'program': memory.generated_code_size_in_bytes,
  }
  total = sum(parts.values())
  # Not XLA's cost_analysis(): that counts the body of a loop once.
  cost = hlo.cost(part.compiled.as_text(), unknown_trips=part.unknown_trips)
  seconds = {
      'products': cost.flops / chip.flops, 'memory': cost.bytes / chip.bandwidth}

  def moved(looped):
    return {
        kind: {'count': count, 'bytes': size}
        for (kind, inside), (count, size) in sorted(cost.collectives.items())
        if inside == looped
    }

  return {
      'part': part.name, 'hbm': parts, 'hbm_total': total,
      'fits': total <= chip.hbm, 'flops': cost.flops, 'bytes': cost.bytes,
      'kernel_flops': cost.kernel_flops,
      'roofline': seconds, 'seconds': max(seconds.values()),
      'in_loops': moved(True), 'outside': moved(False),
      'loops_by_data': cost.unknown_loops, 'counted_as': part.unknown_trips,
  }


def scaled(x: float, unit: str, base: int = 1000) -> str:
  """'457.40 TFLOP' or, with base 1024, '14.70 GiB'."""
  prefixes = ['', *'kMGTP'] if base == 1000 else ['', 'Ki', 'Mi', 'Gi', 'Ti']
  # max: the logarithm of 0 bytes does not exist.
  power = min(int(math.log(max(x, 1), base)), len(prefixes) - 1)
  return f'{x / base**power:.2f} {prefixes[power]}{unit}'


def show(f: dict[str, Any], chip: chips.Chip) -> None:
  """Prints the figures of a part to read, then as a line of JSON."""
  print(f'\n{f["part"]}')

  def line(name, text):
    print(f'{name:>16}: {text}')

  for name, size in f['hbm'].items():
    line(name, scaled(size, 'B', 1024))
  line('in all', f'{scaled(f["hbm_total"], "B", 1024)} of'
       f' {scaled(chip.hbm, "B", 1024)}, {"fits" if f["fits"] else "DOES NOT FIT"}')
  line('work', f'{scaled(f["flops"], "FLOP")}, {scaled(f["bytes"], "B")}')
  if f['kernel_flops']:
    line('of it', f'{scaled(f["kernel_flops"], "FLOP")} in attention kernels')
  if f['loops_by_data']:
    line('of it', f'{f["loops_by_data"]} loop(s) whose trips depend on data, counted'
         f' with {f["counted_as"]}')
  slower = max(f['roofline'], key=f['roofline'].get)
  times = ', '.join(f'{k} {v * 1e3:.2f}' for k, v in f['roofline'].items())
  line('at least', f'{f["seconds"] * 1e3:.2f} ms, by the {slower} ({times})')
  for where in ('in_loops', 'outside'):
    listed = '; '.join(
        f'{kind} {x["count"]:,.0f}, {scaled(x["bytes"], "B")}'
        for kind, x in f[where].items())
    line(where.replace('_', ' '), listed or 'no collectives')
  print(json.dumps(f), flush=True)


def run(
    c, topology: str, parts: list[str], context: int, keep: str = ''
) -> None:
  """Compiles the parts and prints their figures.

  Args:
    c: the config.
    topology: slice of TPUs, e.g. v5e:4x8.
    parts: some of `PARTS`.
    context: tokens per stream when decoding; 0 is the longest prompt and answer.
    keep: a preset, as which the training step's figures are kept; '' for none.
  """
  if unknown := [p for p in parts if p not in PARTS]:
    raise errors.InputError(
        f'--parts: {", ".join(map(repr, unknown))} is none of {", ".join(PARTS)}')
  chip = chips.of(topology)
  mesh = sharding.make_mesh(**c.mesh, devices=devices(topology))
  checks.check_options(c, mesh)
  path = c.model.path
  if path in model_files.SHIPPED:
    path = model_files.model_folder(path)
  config = model.ModelConfig.from_hf(published.fields(path))
  for line in fitting.choose(c, config, mesh, chip.hbm):
    print(line)
  config = fitting.shaped(c, config)
  shape = ', '.join(f'{a}={n}' for a, n in mesh.shape.items())
  print(
      f'{c.model.path}, {config.dtype}, remat {config.remat}, on {topology}'
      f' ({shape}): {c.train.batch} rows of {c.data.max_tokens} tokens in'
      f' {c.train.micro_batches} micro-batch(es); a chip\'s share:')
  # Functions, so that only the parts that were named are compiled.
  made = {
      'head': lambda: programs.head(c, mesh, config),
      'divergence': lambda: programs.divergence(c, mesh, config),
      'train': lambda: programs.train(c, mesh, config),
      'score': lambda: programs.scorer(c, mesh, config),
      'decode': lambda: programs.decode(
          c, mesh, config,
          context or c.data.max_tokens + c.curate.max_new_tokens),
  }
  for name in parts:
    for part in made[name]():
      show(found := figures(part, chip), chip)
      if keep and name == 'train':
        compiled.keep(keep, topology, found)
    if name == 'decode':
      moved = programs.resharding(
          mesh, sharding.decoding_mesh(mesh, c.decoding.tensor), config)
      print(f'{"from training":>16}: a chip receives at most'
            f' {scaled(moved.received, "B", 1024)} ({", ".join(moved.collectives)})'
            f' and needs {scaled(moved.beside, "B", 1024)} beside them')


def main():
  f = flags.FLAGS
  with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS, jax.errors.JaxRuntimeError):
    run(f.config, f.topology, f.parts, f.context, f.keep)


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  flags.DEFINE_string('topology', 'v5e:2x4', 'Chip and shape of the slice.')
  flags.DEFINE_list('parts', list(PARTS), 'Programs to compile.')
  flags.DEFINE_integer(
      'context', 0,
      'Tokens per stream when decoding; 0: data.max_tokens and an answer.')
  flags.DEFINE_string(
      'keep', '', 'Name of a preset: keep its training step for presets_table.')
  lifecycle.launch(main)
