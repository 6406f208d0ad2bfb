"""Every block of experiments/RECIPES.md and of the README's entry does what it says."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import ddt
from ddt_jax import embedded
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.embedded import problems
from ddt_jax.model.config_fields import Fields
from experiments import tpu_vm
from experiments import train
from experiments.run import checks
from experiments.run import options
from tests.support import command_sources
from tests.support import paths
from tests.support import student
from tests.support import unfused

BLOCKS = {
    name: (language, code) for file in ('experiments/RECIPES.md', 'README.md')
    for name, language, code in re.findall(
        r'<!-- (?:recipe: )?([\w-]+) -->\n```(\w+)\n(.*?)```',
        (paths.ROOT / file).read_text(), re.DOTALL)}
COMMANDS = [name for name, (language, _) in BLOCKS.items() if language == 'bash'
            and name not in ('main', 'test')]
# Small settings, appended to the commands that are run for real.
TINY = {
    'train': {
        'rounds': 1, 'curate.per_round': 12, 'curate.samples': 1, 'train.batch': 8,
        'curate.max_new_tokens': 32, 'hint.max_analysis_tokens': 32,
        'evaluation.samples': 0, 'evaluation.problems': 4, 'report.examples': 4,
        'validation.problems': 4, 'log.tensorboard': False},
    'curate': {
        'curate.per_round': 8, 'curate.samples': 1, 'evaluation.problems': 4,
        'curate.max_new_tokens': 64, 'hint.max_analysis_tokens': 64,
        'data.max_tokens': 256, 'model.dtype': 'float32'},
    'score': {'own.samples': 8, 'own.max_new_tokens': 32, 'report.examples': 4},
    'rewrite': {'curate.max_new_tokens': 32, 'hint.max_analysis_tokens': 32},
}
FLAGS = {'rewrite': ['--problems=2', '--betas=3', '--sweeps=0']}


def block(name, language):
  found, code = BLOCKS[name]
  assert found == language
  return code


def calls(name):
  """(command, its words) of a block; what runs on a TPU VM is a call of its own."""
  code = block(name, 'bash').replace('\\\n', ' ').replace('$lr', '1e-4')
  for line in code.splitlines():
    if 'python -m experiments.' not in line:
      continue
    words = shlex.split(line.partition('python -m experiments.')[2], comments=True)
    inner = words.index('--') if '--' in words else len(words)
    yield words[0], words[1:inner]
    if inner < len(words):
      assert words[inner + 1:inner + 3] == ['python', '-m']
      yield words[inner + 3].removeprefix('experiments.'), words[inner + 4:]


def config_of(words):
  """The config of a call, with its changes."""
  file, _, preset = words[words.index('--config') + 1].partition(':')
  scope = {}
  exec((paths.ROOT / file).read_text(), scope)
  c = scope['get_config'](preset) if preset else scope['get_config']()
  known = dict(options.flat(c))
  for word in words:
    if field := re.match(r'--config\.([\w.]+)=(.*)', word, re.DOTALL):
      kind = type(known[field[1]])  # a KeyError: there is no such field
      c.update_from_flattened_dict({field[1]: kind(field[2])})
  return c


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_have_flags_fields_and_values_that_are_accepted(name):
  found = list(calls(name))
  assert found
  for command, words in found:
    if command == 'tpu_vm':
      continue  # dry, below
    known = command_sources.flags(command)
    for word in words:
      if word.startswith('--') and not word.startswith('--config.'):
        assert word[2:].partition('=')[0] in known
    if command in ('train', 'curate', 'rewrite'):
      c = config_of(words)
      if ':' in c.data.kind:
        c.data.kind = 'math'  # its file is below
      c.hint.template = c.hint.template.replace('mine.toml', 'short')
      checks.check_options(c, sharding.make_mesh(**c.mesh))


@pytest.mark.parametrize('name', ['gpu', 'colab'])
def test_runs_on_a_gpu_are_planned(name, capsys):
  *_, (_, words) = calls(name)
  c = config_of(words)
  c.data.path = ''  # which needs no tokenizer
  train.check(c)
  said = capsys.readouterr().out
  assert 'Qwen/Qwen2.5' in said and 'none yet' in said


def test_the_spot_machine_is_planned(capsys):
  (_, outer), (_, inner) = calls('tpu')
  assert tpu_vm.main(
      [*outer, '--dry_run', '--', 'python', '-m', 'experiments.train', *inner]) == 0
  said = capsys.readouterr().out
  assert '--spot' in said and 'v5litepod-16' in said and 'config.rounds=3' in said


def test_small_settings_are_fields():
  for command, changes in TINY.items():
    config = 'score' if command == 'score' else 'idft'
    assert config_of([
        '--config', f'configs/{config}.py',
        *(f'--config.{k}={v}' for k, v in changes.items())]).name == config


# Code ---------------------------------------------------------------------------


def expected(logits, targets, mask):
  total, count, _ = objectives.token_loss(
      'idft', ddt.token_stats(logits, targets), mask)
  return total / count


def world():
  logits, _, targets, mask = unfused.golden()
  tokens = np.arange(len(targets))[None]
  return logits, targets, mask, {
      'tokens': tokens, 'targets': targets[None], 'mask': mask[None]}


def test_the_loss_of_the_readme():
  logits, targets, mask, batch = world()
  head = jnp.eye(logits.shape[-1])  # hidden states that are the logits
  scope = {'my_model': lambda params, tokens: (params[None], head)}
  exec(block('entry', 'python'), scope)
  ours, gradient = jax.value_and_grad(scope['loss'])(logits, batch)
  value, exact = jax.value_and_grad(expected)(logits, targets, mask)
  np.testing.assert_allclose(ours, value, rtol=1e-5)
  np.testing.assert_allclose(gradient, exact, atol=1e-6)


def test_the_step_in_an_optax_loop():
  logits, targets, mask, batch = world()
  head = jnp.eye(logits.shape[-1])
  scope = {'my_model': lambda params, tokens: (params[None], head)}
  exec(block('optax', 'python'), scope)
  state = scope['optimizer'].init(logits)
  new, _, value = scope['train_step'](logits, state, batch)
  np.testing.assert_allclose(value, expected(logits, targets, mask), rtol=1e-5)
  gradient = jax.grad(expected)(logits, targets, mask)
  updates, _ = optax.adamw(1e-5).update(gradient, state, logits)
  np.testing.assert_allclose(new, optax.apply_updates(logits, updates), atol=1e-7)


def test_the_loss_in_a_tunix_trainer():
  logits, targets, mask, _ = world()
  kept = []
  trainer = types.SimpleNamespace(with_loss_fn=kept.append)
  exec(block('tunix', 'python'), {'trainer': trainer})
  # Position t predicts token t + 1; the last one predicts nothing.
  padded = jnp.concatenate([logits, logits[:1]])[None]

  def model(tokens, positions, cache, attention_mask):
    return padded, cache

  found = kept[0](model, jnp.concatenate([targets[:1], targets])[None],
                  jnp.concatenate([mask[:1], mask])[None], None, None)
  np.testing.assert_allclose(found, expected(logits, targets, mask), rtol=1e-5)


def trainer_of_trl(monkeypatch):
  module = types.ModuleType('trl')
  module.SFTTrainer = object
  monkeypatch.setitem(sys.modules, 'trl', module)
  scope = {}
  exec(block('trl-idft', 'python'), scope)
  return scope['IDFTTrainer']()


def test_the_loss_in_a_trl_trainer(monkeypatch):
  torch = pytest.importorskip('torch')
  logits, targets, mask, _ = world()
  z = torch.tensor(np.concatenate([logits, logits[:1]])[None], requires_grad=True)
  labels = np.where(mask > 0, targets, -100)
  inputs = {'labels': torch.tensor(np.concatenate([[-100], labels])[None])}
  found, outputs = trainer_of_trl(monkeypatch).compute_loss(
      lambda **kept: types.SimpleNamespace(logits=z), inputs, return_outputs=True)
  found.backward()
  value, gradient = jax.value_and_grad(expected)(logits, targets, mask)
  np.testing.assert_allclose(found.item(), value, rtol=1e-5)
  np.testing.assert_allclose(z.grad[0, :-1], gradient, atol=1e-6)
  assert outputs.logits is z and not z.grad[0, -1].any()


# Additions ----------------------------------------------------------------------


def patched(name):
  """{file: its text with the diff of a recipe applied}; each place must be unique."""
  found = {}
  for section in re.split(r'^--- a/\S+\n', block(name, 'diff'), flags=re.MULTILINE)[1:]:
    file, *hunks = re.split(r'^@@\n', section, flags=re.MULTILINE)
    file = file.strip().removeprefix('+++ b/')
    text = (paths.ROOT / file).read_text()
    for hunk in hunks:
      lines = [line or ' ' for line in hunk.splitlines()]
      old, new = (''.join(f'{line[1:]}\n' for line in lines if line[0] in kept)
                  for kept in (' -', ' +'))
      assert text.count(old) == 1, f'{file} has changed: {old}'
      text = text.replace(old, new)
    found[file] = text
  return found


def run_as(module, source):
  """The names of a module whose source is another one."""
  scope = {'__name__': module}
  exec(compile(source, module, 'exec'), scope)
  return scope


def test_an_objective_is_added():
  files = patched('objective')
  schemes = run_as('ddt_jax.objectives.schemes',
                   files['ddt_jax/objectives/schemes.py'])
  stats = ddt.token_stats(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0]))
  np.testing.assert_allclose(
      schemes['WEIGHTS']['focal'](stats, power=2.0), [0.75**2], rtol=1e-6)
  c = run_as('configs.idft', files['configs/idft.py'])['get_config']()
  assert c.loss.power == 2.0


def test_a_data_set_is_added():
  scope = run_as('experiments.run.inputs', *patched('dataset').values())
  tokenizer = student.tokenizer()
  config, _ = student.load()
  found, fitted, _ = scope['load_data'](
      tokenizer, chat.turn_end(tokenizer, config.eos_ids), evaluation_problems=10,
      name='doubles', path='', max_tokens=64, overlong='error')
  assert len(found.train) == len(fitted.examples) == 80
  p = found.evaluation['target'][0]
  assert verify.verify(p.solution, p.answer).correct


def test_a_family_is_added():
  families = run_as('ddt_jax.model.families', *patched('family').values())
  hf = json.loads((embedded.STUDENT / 'config.json').read_text()) if hasattr(
      embedded.STUDENT, 'joinpath') else json.loads(
          open(os.path.join(embedded.STUDENT, 'config.json')).read())
  parsed = families['parse'](Fields(hf | {'model_type': 'my_llama'}))
  assert parsed['model_type'] == 'my_llama' and not parsed['qkv_bias']


def test_a_verifier_of_ones_own(tmp_path, monkeypatch):
  (_, words), = calls('verifier-command')
  kind = next(w for w in words if 'data.kind' in w).partition('=')[2]
  module, _, name = kind.partition(':')
  (tmp_path / f'{module}.py').write_text(block('verifier', 'python'))
  monkeypatch.syspath_prepend(str(tmp_path))
  verify.check_kind(kind)
  function = getattr(sys.modules[module], name)
  assert function('Paris, of course', 'Paris,') and function('', 'x') is None


def test_a_template_of_ones_own(tmp_path):
  (tmp_path / 'mine.toml').write_text(block('template', 'toml'))
  template = prompts.load(str(tmp_path / 'mine.toml'))
  turns = template.hinted_chat('1 + 1?', 'It is 2.')
  assert '1 + 1?' in turns[-1]['content'] and 'It is 2.' in turns[-1]['content']


# For real -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name, made', [
    ('score', ['scores/report.html', 'scores/0-my/00000.jsonl']),
    ('compare', ['compared/report.html']), ('rewrite', ['corpus.jsonl']),
    ('resume', ['runs/mine/report.html', 'half/config.json']),
    ('rate', ['comparison.html']),
    ('verifier-command', ['runs/idft/report.html']), ('template-command', [])])
def test_commands_run_as_they_stand(name, made, tmp_path):
  for folder in ('configs', 'ddt_jax', 'experiments'):
    (tmp_path / folder).symlink_to(paths.ROOT / folder)
  for file in ('my.jsonl', 'a.jsonl', 'b.jsonl'):
    (tmp_path / file).write_text(''.join(
        json.dumps({'problem': p.problem, 'solution': p.solution, 'answer': p.answer})
        + '\n' for p in problems.problems('train', 24)))
  (tmp_path / 'checks.py').write_text(block('verifier', 'python'))
  (tmp_path / 'mine.toml').write_text(block('template', 'toml'))
  cases = ''.join(
      f'experiments.{command}) more="{" ".join(flags)}";;' for command, flags in (
          (command, [f'--config.{k}={v}' for k, v in changes.items()]
           + FLAGS.get(command, [])) for command, changes in TINY.items()))
  script = (
      f'run() {{ case "$1" in {cases} *) more="";; esac;'
      f' {sys.executable} -m "$@" $more; }}\n'
      + block(name, 'bash').replace('python -m', 'run').replace('=MODEL', '=embedded'))
  done = subprocess.run(
      ['bash', '-ec', script], cwd=tmp_path, text=True, capture_output=True,
      timeout=900, env=os.environ | {'PYTHONPATH': str(paths.ROOT), 'XLA_FLAGS': ''})
  assert not done.returncode, done.stderr[-3000:]
  assert all((tmp_path / file).exists() for file in made)


@pytest.mark.slow
def test_trl_trains_with_the_lines_as_they_stand(tmp_path, monkeypatch):
  pytest.importorskip('trl')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'corpus.jsonl').write_text(''.join(json.dumps({
      'messages': p.conversation, 'id': p.id, 'source': 'own', 'phi': 0.0}) + '\n'
      for p in problems.problems('train', 8)))
  scope = {}
  exec(block('trl-sft', 'python').replace("'MODEL'", repr(str(embedded.STUDENT)))
       .replace('num_train_epochs=3', 'max_steps=2, use_cpu=True, report_to=[]')
       .replace('trainer.train()', ''), scope)
  batch = next(iter(scope['trainer'].get_train_dataloader()))
  # Responses are trained and prompts are not.
  assert (batch['labels'] == -100).any() and (batch['labels'] != -100).any()
  assert not (batch['labels'][:, 0] != -100).any()
  assert scope['trainer'].train().training_loss > 0
  exec(block('trl-idft', 'python'), scope)

  def loss_of_a_step(rows, accumulated):
    options = dict(
        per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated)
    trainer = scope['IDFTTrainer'](
        str(embedded.STUDENT), train_dataset=scope['corpus'],
        args=dataclasses.replace(scope['trainer'].args, max_steps=1, **options))
    return trainer.train().training_loss

  # A batch in one piece and in two has the same loss.
  whole = loss_of_a_step(4, 1)
  assert whole > 0
  np.testing.assert_allclose(loss_of_a_step(2, 2), whole, rtol=1e-4)
