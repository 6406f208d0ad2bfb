"""What a preset leaves open is chosen for the devices; what cannot fit is refused."""

import jax
import pytest

from configs import idft
from configs import presets
from configs import reference
from configs import rft
from configs import sft
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.model import published
from experiments.run import checks
from experiments.run import fitting
from experiments.run import footprint
from experiments.run import model_files
from tests.support import commands

GIB = 2**30


def chosen(name, limit, config=idft, **mesh):
  c = config.get_config(name)
  shape = model_files.shape(c.model.path)
  mesh = sharding.make_mesh(**(c.mesh.to_dict() | mesh))
  said = fitting.choose(c, shape, mesh, limit)
  return c, shape, mesh, said


@pytest.mark.parametrize('config, lr', [
    (idft, 8e-6), (sft, 1e-6), (reference, 6e-5), (rft, 6e-5)])
def test_the_rate_is_the_papers_for_the_data(config, lr):
  c, _, _, said = chosen('qwen2.5-7b', None, config)
  assert c.optim.lr == lr and any(f'optim.lr={lr:g}' in line for line in said)


def test_a_rate_that_is_given_stays():
  c = idft.get_config('qwen2.5-7b')
  c.optim.lr = 3e-6
  said = fitting.choose(c, model_files.shape(c.model.path), sharding.make_mesh(), None)
  assert c.optim.lr == 3e-6 and not any('optim.lr' in line for line in said)


def test_less_memory_means_more_recomputation_and_more_micro_batches():
  roomy, tight, tightest = (
      chosen('qwen2.5-0.5b', limit * GIB)[0] for limit in (90, 10, 3))
  assert (roomy.model.remat, roomy.train.micro_batches) == ('dots', 1)
  assert (tight.model.remat, tight.train.micro_batches) != ('dots', 1)
  assert tightest.model.remat == 'full' and tightest.train.micro_batches > 1
  for c in (roomy, tight, tightest):
    assert c.train.batch % (8 * c.train.micro_batches) == 0
    checks.check_options(c, sharding.make_mesh(**c.mesh))


def test_decoding_takes_the_fewest_devices_with_enough_slots():
  roomy, tight = (chosen('qwen2.5-7b', limit * GIB)[0] for limit in (90, 24))
  assert roomy.decoding.tensor == 1 and roomy.decoding.slots >= 64
  assert tight.decoding.tensor > 1


@pytest.mark.parametrize('name', presets.MODELS)
def test_nothing_is_left_open_and_nothing_like_the_student(name):
  c = idft.get_config(name)
  assert not fitting.like_the_student(c)
  c, shape, mesh, said = chosen(name, 90 * GIB)
  assert not fitting.is_open(c, *fitting.OPEN)
  fitting.refuse(c, shape, mesh, 90 * GIB)
  text = fitting.describe(c, shape, mesh, 90 * GIB, said)
  size = sum(x.size for x in jax.tree.leaves(
      jax.eval_shape(lambda: model.init(shape, jax.random.key(0)))))
  for part in (f'{size:,} parameters', '131,072 in all', 'of 90.00 GiB', 'optim.lr'):
    assert part in text


def test_a_real_model_with_the_students_options_is_told_so():
  c = idft.get_config()
  assert not fitting.like_the_student(c)
  c.model.path = 'FOLDER'
  line, = fitting.like_the_student(c)
  for part in ('optim.lr=0.0003', 'data.max_tokens=256', 'hint.template=short',
               '--config FILE:real'):
    assert part in line
  c.model.path = 'smollm2'
  line, = fitting.like_the_student(c)
  assert "data.marker=\\boxed{" in line and '--config FILE:smollm2' in line
  c.data.path = 'my.jsonl'
  assert '--config FILE:real' in fitting.like_the_student(c)[0]


def test_the_preset_of_small_sums_is_not_for_data_of_ones_own():
  c = idft.get_config('smollm2')
  assert not fitting.like_the_student(c)
  c.data.path = 'my.jsonl'
  line, = fitting.like_the_student(c)
  for part in ("data.marker=' is'", 'curate.max_new_tokens=32', '--config FILE:real',
               '--config.model.path=smollm2'):
    assert part in line


def test_what_cannot_fit_is_refused_with_the_knobs():
  c, shape, mesh, _ = chosen('qwen3-8b', 15.75 * GIB)
  with pytest.raises(errors.InputError) as e:
    fitting.refuse(c, shape, mesh, int(15.75 * GIB))
  for part in ('GiB a device', 'there are 15.8', 'mesh.fsdp', 'train.batch=8',
               'data.max_tokens=2048'):
    assert part in str(e.value)


def test_the_state_is_that_of_the_optimizer():
  c, shape, mesh, _ = chosen('qwen2.5-0.5b', None)
  held = footprint.state(c, shape, mesh)
  # Norms and biases are on every device; the rest is split over eight.
  assert held['parameters'] == pytest.approx(4 * 494_032_768 / 8, rel=0.01)
  assert held['moments'] == 2 * held['parameters']
  assert 'reference' not in held
  c.reference.kl_weight = 0.1
  assert footprint.state(c, shape, mesh)['reference'] == held['parameters']


def test_every_known_model_has_a_preset_of_its_own():
  for name, path in presets.MODELS.items():
    assert published.known(path) and presets.of_model(path) == name
  assert presets.of_model('some/model') == 'real'


@pytest.mark.parametrize('preset', ['gemma3-1b', 'llama3.1-8b'])
def test_check_prints_the_plan_without_network(preset):
  done = commands.run(
      'experiments.train', '--config', f'configs/idft.py:{preset}', '--check',
      HF_HUB_OFFLINE='1')
  for part in (presets.MODELS[preset], 'optim.lr=8e-06', 'memory', 'data.path'):
    assert part in done.stdout


def test_a_run_without_data_says_so_before_it_loads_a_model():
  done = commands.run(
      'experiments.train', '--config', 'configs/idft.py:qwen3-1.7b', check=False,
      HF_HUB_OFFLINE='1')
  assert done.returncode == 2 and '--config.data.path=FILE' in done.stderr
