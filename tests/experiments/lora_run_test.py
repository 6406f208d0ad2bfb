"""Runs with adapters: what is saved, exported, resumed, used elsewhere and refused."""

import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from configs import idft
from configs import score
from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.training import checkpoint
from ddt_jax.training import metrics
from experiments import export
from experiments import train
from experiments.run import checks
from experiments.run import inputs
from experiments.run import preview
from experiments.run import run_state
from experiments.run import score_inputs
from experiments.run import workdir
from tests.experiments import pipeline_test
from tests.support import commands
from tests.support import unfused

RANK = 4
TOKENS = np.arange(12)[None]


def config(**changes):
  """One round of two steps on references, eight devices."""
  c = idft.get_config()
  c.update_from_flattened_dict({
      'lora.rank': RANK, 'rounds': 1, 'curate.samples': 0, 'hint.enabled': False,
      'curate.per_round': 16, 'train.batch': 8, 'optim.warmup_ratio': 0.0,
      'evaluation.problems': 2, 'evaluation.samples': 0,
      'evaluation.max_new_tokens': 8, 'validation.every': 2,
      'validation.accuracy_every': 0,
      'report.examples': 8, 'log.tensorboard': False, 'kl_to_base.problems': 2,
      'kl_to_base.max_new_tokens': 8, 'reference.kl_weight': 0.1,
  } | changes)
  return c


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  train.execute(config(), folder)
  return folder


def logits(folder, params=None):
  config, base = weights.load(folder)
  return model.forward(base if params is None else params, config, TOKENS)[0]


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_checkpoint_holds_adapters_alone(run):
  params, _ = checkpoint.Checkpoints(run).open('params')
  names = {sharding.path_name(p).rsplit('/', 1)[1]
           for p, _ in jax.tree_util.tree_leaves_with_path(params)}
  assert names == {'lora_a', 'lora_b'}
  adapters = weights.load_adapter(run / 'adapter', weights.load(embedded.STUDENT)[0])
  values = lora.count(adapters)
  moments, _ = checkpoint.Checkpoints(run).open('opt_state')
  for tree, copies in ((params, 1), (moments, 2)):
    sizes = [int(np.prod(x.shape)) for x in jax.tree.leaves(tree) if x.shape]
    assert sum(sizes) == copies * values
  files = [f for f in (run / 'checkpoints').rglob('*') if f.is_file()]
  # The base alone, without moments. Most bytes are Orbax's own, of any size of model.
  assert sum(f.stat().st_size for f in files) < 528_640 * 4


def test_the_folder_model_is_the_base_with_the_adapter_merged(run):
  base_config, base = weights.load(embedded.STUDENT)
  adapters = weights.load_adapter(run / 'adapter', base_config)
  merged = weights.load(run / 'model')[1]
  equal(merged, lora.merge(base, adapters))
  moved = np.abs(logits(run / 'model') - logits(embedded.STUDENT)).max()
  assert moved > 1e-4
  attached = logits(embedded.STUDENT, lora.attach(base, adapters))
  assert np.abs(attached - logits(run / 'model')).max() < 1e-4


def test_the_export_command_writes_the_same_folders(run, tmp_path):
  said = export.run(run, tmp_path / 'model')
  assert '528,640 parameters in float32' in said
  for file in ('model.safetensors', 'config.json', 'tokenizer.json'):
    assert (tmp_path / 'model' / file).read_bytes() == (
        run / 'model' / file).read_bytes()
  said = export.run(run, tmp_path / 'adapter', adapter=True)
  assert f'adapters of rank {RANK}, 24,576 values' in said and 'after step 2' in said
  for file in ('adapter_model.safetensors', 'adapter_config.json'):
    assert (tmp_path / 'adapter' / file).read_bytes() == (
        run / 'adapter' / file).read_bytes()
  card = (tmp_path / 'model' / 'README.md').read_text()
  assert '| LoRA | rank 4, alpha 32 (scale: alpha / rank), on all-linear |' in card
  fields = json.loads((run / 'adapter' / 'adapter_config.json').read_text())
  assert fields['base_model_name_or_path'] == str(embedded.STUDENT.resolve())


def test_the_kl_to_the_base_is_measured_without_a_second_model(run):
  before, after = (
      json.loads((run / 'measured' / f'{r}.json').read_text())['kl_to_base']
      for r in (0, 1))
  assert set(before.values()) == {0.0}
  assert before.keys() == after.keys() == {'target', 'generalisation', 'retained'}
  assert all(0 < kl < 1 for kl in after.values())


def test_another_base_or_another_config_is_refused_on_resuming(
    run, tmp_path, capsys):
  copy = shutil.copytree(run, tmp_path / 'copy')
  (copy / 'results.json').unlink()  # or else the run is finished, and only reported
  kept = json.loads((copy / 'base.json').read_text())
  (copy / 'base.json').write_text(json.dumps(kept | {'fingerprint': '0' * 16}))
  with pytest.raises(SystemExit):
    train.execute(config(), copy)
  assert 'was started from another base' in capsys.readouterr().err
  # A run of an earlier version has no such section.
  fields = json.loads((copy / 'config.json').read_text())
  del fields['lora']
  (copy / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(errors.InputError, match='config.lora.rank: None -> 4'):
    workdir.keep_config(copy, config())


class Killed(BaseException):
  """Ends a run at once: nothing catches it."""


def test_a_run_that_ends_after_a_checkpoint_resumes_to_the_same_bits(
    run, tmp_path, monkeypatch):
  save = run_state.RunState.save

  def last(*args, **options):
    save(*args, **options)
    raise Killed

  with monkeypatch.context() as patched, pytest.raises(Killed):
    patched.setattr(run_state.RunState, 'save', last)
    train.execute(config(**{'checkpoint.every': 1}), tmp_path)
  assert checkpoint.Checkpoints(tmp_path).steps() == [1]
  train.execute(config(**{'checkpoint.every': 1}), tmp_path)
  for file in ('model/model.safetensors', 'adapter/adapter_model.safetensors'):
    assert (tmp_path / file).read_bytes() == (run / file).read_bytes()


def test_other_commands_apply_a_folder_of_adapters(run):
  c = config(**{'lora.path': str(run / 'adapter')})
  s = inputs.make_untrained(c)
  found = jax.device_get(model.forward(s.params, s.config, TOKENS)[0])
  assert np.abs(found - logits(run / 'model')).max() < 1e-4
  assert np.abs(found - logits(embedded.STUDENT)).max() > 1e-4
  base = inputs.fingerprint(s.base)
  assert inputs.fingerprint(s.params) != base
  assert base == inputs.fingerprint(weights.load(embedded.STUDENT)[1])
  of_scores = score.get_config()
  of_scores.data.paths = 'own'
  of_scores.lora.update(c.lora)
  scored = score_inputs.make(of_scores)
  equal(scored.params, s.params)
  for make in (inputs.make_untrained, score_inputs.make):
    c = config() if make is inputs.make_untrained else of_scores
    c.lora.path = ''
    with pytest.raises(errors.InputError, match='lora.rank=4 without lora.path'):
      make(c)


def test_a_run_starts_from_a_folder_of_adapters(run):
  s = inputs.make(config(**{'lora.path': str(run / 'adapter')}))
  equal(s.adapters, weights.load_adapter(run / 'adapter', s.config))


def test_check_counts_what_is_trained(run):
  c = config(**{'reference.kl_weight': 0.0})
  s, full = inputs.make(c), inputs.make(config(**{'lora.rank': 0}))
  text = preview.text(c, s)
  count = lora.count(s.adapters)
  assert f'528,640 parameters, frozen; adapters of rank 4 train {count:,}' in text
  # The base in float32, and gradients, values and two moments of the adapters.
  whole = 4 * (528_640 + 4 * count)
  assert whole / 8 < preview.state_bytes(c, s) < whole
  assert preview.state_bytes(c, s) < preview.state_bytes(c, full)


def test_a_base_is_held_in_the_compute_dtype():
  s = inputs.make(config(**{'model.dtype': 'bf16'}))
  assert {x.dtype.name for x in jax.tree.leaves(s.base)} == {'bfloat16'}
  assert {x.dtype.name for x in jax.tree.leaves(s.adapters)} == {'float32'}


@pytest.mark.parametrize('changes, said', [
    ({'lora.rank': 0, 'lora.path': 'x'}, 'lora.path=.x. with lora.rank=0'),
    ({'lora.targets': 'q_prj'}, "lora.targets: 'q_prj' .* did you mean 'q_proj'"),
    ({'lora.rank': -1}, 'lora.rank=-1'), ({'lora.alpha': 0.0}, 'lora.alpha=0.0'),
])
def test_options_out_of_range_are_named(changes, said):
  mesh = sharding.make_mesh()
  with pytest.raises(errors.InputError, match=said):
    checks.check_options(config(**changes), mesh)


@pytest.mark.parametrize('changes, said', [
    ({'lora.rank': 8}, r'set --config.lora.rank=4$'),
    ({'lora.alpha': 8.0, 'lora.rslora': True},
     r'set --config.lora.alpha=32.0 --config.lora.rslora=False$'),
    ({'lora.targets': 'q_proj'}, 'set --config.lora.targets=q_proj,k_proj,v_proj,'),
])
def test_options_that_are_not_the_folders_are_named(run, changes, said):
  c = config(**{'lora.path': str(run / 'adapter')} | changes)
  with pytest.raises(errors.InputError, match=said):
    inputs.make(c)


def test_adapters_of_a_run_without_them_are_refused(tmp_path):
  workdir.keep_config(tmp_path / 'run', config(**{'lora.rank': 0}))
  with pytest.raises(errors.InputError, match='--adapter: .* its lora.rank is 0'):
    export.run(tmp_path / 'run', tmp_path / 'out', adapter=True)


@pytest.mark.parity
def test_peft_computes_the_logits_of_the_run(run):
  import peft
  import torch
  import transformers
  theirs = peft.PeftModel.from_pretrained(
      transformers.AutoModelForCausalLM.from_pretrained(embedded.STUDENT),
      run / 'adapter')
  with torch.no_grad():
    want = theirs(torch.tensor(TOKENS)).logits.numpy()
  np.testing.assert_allclose(logits(run / 'model'), want, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sdft', 'dpo'])
def test_distillation_and_pairs_train_adapters(name, tmp_path):
  of_name = importlib.import_module(f'configs.{name}')
  c = of_name.get_config()
  c.update_from_flattened_dict({
      'lora.rank': RANK, 'rounds': 2, 'curate.per_round': 32, 'train.batch': 8,
      'optim.warmup_ratio': 0.0, 'evaluation.problems': 0, 'validation.every': 0,
      'report.examples': 8, 'log.every': 1, 'log.tensorboard': False,
      'reference.kind': 'frozen'})
  train.execute(c, tmp_path)
  lines = metrics.read(tmp_path, 'train')
  assert all(np.isfinite(line['loss']) and line['grad_norm'] > 0 for line in lines)
  config, base = weights.load(embedded.STUDENT)
  adapters = weights.load_adapter(tmp_path / 'adapter', config)
  equal(weights.load(tmp_path / 'model')[1], lora.merge(base, adapters))
  state, _ = checkpoint.Checkpoints(tmp_path).open('reference')
  assert not state  # the base is the teacher; pairs bring their reference along


@pytest.mark.slow
def test_two_processes_train_the_same_adapters(tmp_path):
  options = [f'--config.{key}={value}' for key, value in {
      'lora.rank': RANK, 'rounds': 1, 'curate.samples': 0, 'hint.enabled': False,
      'curate.per_round': 16, 'train.batch': 8, 'optim.warmup_ratio': 0.0,
      'evaluation.problems': 0, 'validation.every': 0, 'report.examples': 8,
      'reference.kl_weight': 0.1,
  }.items()]
  found = []
  for processes in (1, 2):
    folder = tmp_path / str(processes)
    for said, status in commands.finish(commands.start_together(
        'experiments.train', '--config', 'configs/idft.py', f'--workdir={folder}',
        *options, processes=processes)):
      assert status == 0, said[-2000:]
    config, _ = weights.load(embedded.STUDENT)
    found.append(weights.load_adapter(folder / 'adapter', config))
  one, two = found
  unfused.assert_close(two, one, 1e-4)
  assert all(np.abs(b).max() > 0 for _, _, b in one)


@pytest.mark.slow
def test_a_run_with_adapters_killed_at_random_moments_ends_the_same(tmp_path):
  pipeline_test.check_killed(tmp_path, 3, pipeline_test.TWO_ROUNDS | {
      'lora.rank': RANK, 'reference.kl_weight': 0.1})
