"""The table of presets on TPUs: its estimates against the compiler's figures."""

import pytest

from configs import idft
from ddt_jax import sharding
from experiments import presets_table
from experiments.run import fitting
from experiments.run import model_files
from experiments.tpu import chips
from experiments.tpu import compiled
from experiments.tpu import estimate


# Milliseconds of a chip, of `experiments.compile_tpu --topology v5e:2x4`.
@pytest.mark.parametrize('path, rows, remat, products, memory', [
    ('Qwen2.5-0.5B', 32, 'full', 379.26, 416.79),
    ('Qwen2.5-0.5B', 64, 'full', 758.53, 934.34),
    ('Qwen2.5-0.5B', 32, 'dots', 337.14, 476.11),
    ('Qwen2.5-1.5B', 16, 'full', 552.69, 410.37),
])
def test_times_are_close_to_the_compilers(path, rows, remat, products, memory):
  c = idft.get_config('real')
  c.train.batch, c.train.micro_batches, c.model.remat = rows, 1, remat
  config = fitting.shaped(c, model_files.shape(path))
  found = estimate.seconds(c, config, sharding.make_mesh(fsdp=8), chips.CHIPS['v5e'])
  assert found['products'] == pytest.approx(products / 1e3, rel=0.06)
  assert found['memory'] == pytest.approx(memory / 1e3, rel=0.15)


def test_a_sliding_window_costs_fewer_blocks():
  # 8 blocks: 36 of 64 in the triangle; 2 a row, but 1 for the first, in a window.
  assert estimate._pairs(4096, None) == 36 * 512**2
  assert estimate._pairs(4096, 512) == 15 * 512**2
  assert estimate._pairs(4096, 1) == 8 * 512**2


def test_a_line_has_the_estimate_and_what_was_compiled():
  found = presets_table.line('qwen2.5-0.5b', 'v5e:2x4', {
      'qwen2.5-0.5b v5e:2x4': {'gib': 9.04, 'seconds': 0.512, 'by': 'memory'}})
  cells = [x.strip() for x in found.strip('|').split('|')]
  assert cells[:2] == ['qwen2.5-0.5b', 'v5e:2x4'] and cells[2].endswith('of 15.75')
  assert int(cells[4]) > 4 and cells[6:] == ['9.0', '0.51 s, memory']
  bad = presets_table.line('qwen3-8b', 'v5e:2x4', {})
  assert 'does not fit' in bad and 'not compiled' in bad


def test_figures_of_a_compilation_are_kept_for_the_table(tmp_path, monkeypatch):
  monkeypatch.setattr(compiled, 'FILE', tmp_path / 'compiled.json')
  compiled.FILE.write_text('{}')
  found = {'hbm_total': 9.5 * 2**30, 'seconds': 0.5, 'roofline': {
      'products': 0.4, 'memory': 0.5}}
  compiled.keep('qwen2.5-0.5b', 'v5e:2x4', found)
  cells = presets_table.line('qwen2.5-0.5b', 'v5e:2x4', compiled.read())
  assert cells.endswith('| 9.5 | 0.50 s, memory |')
