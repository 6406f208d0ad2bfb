r"""What each preset needs on slices of TPUs, as a table in Markdown.

python -m experiments.presets_table
python -m experiments.presets_table --topologies v5e:4x4
python -m experiments.presets_table --topologies v5e:2x4,v5p:2x2x1

Memory, the largest number of rows and the time are estimates, by formulas fitted to
the TPU compiler (`run.footprint`, `tpu.estimate`). The last columns are what the
compiler itself said, of `tpu/compiled.json`; such a line comes from

python -m experiments.compile_tpu --config configs/idft.py:PRESET --topology T \
    --parts=train --keep=PRESET
"""

import math
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# As many devices as the largest slice has chips; before JAX is imported.
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=32')

from absl import app  # noqa: E402
from absl import flags  # noqa: E402
import jax  # noqa: E402

from configs import idft  # noqa: E402
from configs import presets  # noqa: E402
from ddt_jax import sharding  # noqa: E402
from experiments.run import fitting  # noqa: E402
from experiments.run import footprint  # noqa: E402
from experiments.run import model_files  # noqa: E402
from experiments.run import options  # noqa: E402
from experiments.tpu import chips  # noqa: E402
from experiments.tpu import compiled  # noqa: E402
from experiments.tpu import estimate  # noqa: E402

# v5e-8, v5e-16, v5p-8 (its name counts two cores a chip) and v6e-8.
TOPOLOGIES = ('v5e:2x4', 'v5e:4x4', 'v5p:2x2x1', 'v6e:2x4')
_GIB = 2**30


def line(preset: str, topology: str, known: dict) -> str:
  """The row of a preset on a slice.

  Args:
    preset, topology: their names.
    known: see `compiled.read`.
  """
  chip = chips.of(topology)
  count = math.prod(map(int, topology.partition(':')[2].split('x')))
  mesh = sharding.make_mesh(devices=jax.devices()[:count])
  c = idft.get_config(preset)
  config = model_files.shape(c.model.path)
  fitting.choose(c, config, mesh, chip.hbm)
  config = fitting.shaped(c, config)
  need = sum(footprint.training(c, config, mesh).values())
  times = estimate.seconds(c, config, mesh, chip)
  slower = max(times, key=times.get)
  fits = need <= chip.hbm
  cells = [
      preset, topology, f'{need / _GIB:.1f} of {chip.hbm / _GIB:.4g}',
      f'{c.model.remat}, {c.train.micro_batches}' if fits else 'does not fit',
      str(most_rows(c, config, mesh, chip)),
      f'{times[slower]:.2f} s, {slower}' if fits else '',
  ]
  if found := known.get(f'{preset} {topology}'):
    cells += [f'{found["gib"]:.1f}', f'{found["seconds"]:.2f} s, {found["by"]}']
  else:
    cells += ['not compiled', '']
  return f'| {" | ".join(cells)} |'


def most_rows(c, config, mesh, chip: chips.Chip) -> int:
  """Rows of `data.max_tokens` that a chip trains at once, with remat=full; or 0."""
  c = c.copy_and_resolve_references()
  c.model.remat, c.train.micro_batches = 'full', 1
  config, devices = fitting.shaped(c, config), mesh.size
  rows = 0
  while True:
    c.train.batch = (rows + 1) * devices
    if sum(footprint.training(c, config, mesh).values()) > chip.hbm:
      return rows
    rows += 1


def main(argv):
  del argv
  known = compiled.read()
  print('| preset | slice | GiB a chip | remat, micro-batches | rows a chip, most'
        ' | a step at least | compiled: GiB | at least |')
  print('|---|---|---:|---|---:|---|---:|---|')
  for preset in presets.MODELS:
    for topology in flags.FLAGS.topologies:
      print(line(preset, topology, known), flush=True)


if __name__ == '__main__':
  flags.DEFINE_list('topologies', list(TOPOLOGIES), 'Slices of TPUs.')
  app.run(main, flags_parser=options.parse)
