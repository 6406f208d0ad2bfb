"""Runs as Hugging Face folders: what others read, and what is refused."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import transformers

from configs import idft
from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.training import checkpoint
from experiments import export
from experiments.run import workdir
from tests.support import commands
from tests.support import paths

# vLLM needs these; its tensors may be in several files and their index.
VLLM = {'config.json', 'generation_config.json', 'tokenizer.json',
        'tokenizer_config.json'}


def trained(base=embedded.STUDENT):
  """Parameters that differ from the base's, sharded over eight devices."""
  _, params = weights.load(base, mesh=sharding.make_mesh(fsdp=4, tensor=2))
  return jax.tree.map(lambda x: x * 1.01 + 1e-3, params)


@functools.cache
def student():
  return trained()


def make_run(folder, params=None, *, base='embedded', best=None, **checkpoint_options):
  """The folder of a run that was stopped at step 7."""
  c = idft.get_config()
  c.model.path = str(base)
  c.checkpoint.update(checkpoint_options)
  workdir.keep_config(folder, c)
  state = {'step': jnp.int32(7), 'params': student() if params is None else params}
  checkpoint.Checkpoints(folder).save(7, state, {'step': 7})
  if best is not None:
    checkpoint.Checkpoints(folder, 'best').save(5, {'params': best}, {'step': 5})
  return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('run'))


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_command_writes_all_that_others_read(run, tmp_path):
  out = tmp_path / 'out'
  done = commands.run(
      'experiments.export', f'--workdir={run}', f'--out={out}')
  assert '528,640 parameters in float32, 1 file(s), last' in done.stdout
  assert 'after step 7' in done.stdout
  assert {f.name for f in out.iterdir()} == VLLM | {
      'README.md', 'chat_template.jinja', 'model.safetensors'}
  config, params = weights.load(out)
  assert_equal(params, student())
  # As at the end of a run, which has the arrays and not a checkpoint.
  weights.save(tmp_path / 'direct', config, student())
  for file in ('model.safetensors', 'config.json'):
    assert (out / file).read_bytes() == (tmp_path / 'direct' / file).read_bytes()
  fields = json.loads((out / 'generation_config.json').read_text())
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  assert fields['eos_token_id'] == tokenizer.convert_tokens_to_ids('<|im_end|>')
  assert tokenizer.chat_template == transformers.AutoTokenizer.from_pretrained(
      embedded.STUDENT).chat_template


@pytest.mark.parametrize('dtype, file_gb, files', [
    ('bfloat16', 5, 1), ('fp32', 5e-4, 5), ('bf16', 3e-4, 4)])
def test_dtype_and_size_of_the_files(run, tmp_path, dtype, file_gb, files):
  said = export.run(run, tmp_path / 'out', dtype=dtype, file_gb=file_gb)
  exact = jnp.bfloat16 if 'b' in dtype else jnp.float32
  assert f'in {jnp.dtype(exact)}, {files} file(s)' in said
  found = sorted((tmp_path / 'out').glob('*.safetensors'))
  assert len(found) == files
  assert_equal(weights.load(tmp_path / 'out')[1], jax.tree.map(
      lambda x: x.astype(exact).astype(jnp.float32), student()))
  index = tmp_path / 'out' / 'model.safetensors.index.json'
  assert index.exists() == (files > 1)
  if files > 1:
    assert set(json.loads(index.read_text())['weight_map'].values()) == {
        f.name for f in found}
    for f in found:
      size = sum(x.nbytes for x in safetensors.numpy.load_file(f).values())
      assert size <= file_gb * 1e9


def test_the_dtype_is_by_default_the_bases(tmp_path):
  config, params = weights.load(embedded.STUDENT)
  weights.save(
      tmp_path / 'base', config, params, source=embedded.STUDENT, dtype='bfloat16')
  run = make_run(tmp_path / 'run', base=tmp_path / 'base')
  assert 'in bfloat16' in export.run(run, tmp_path / 'out')
  saved = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert saved['dtype'] == saved['torch_dtype'] == 'bfloat16'


def test_best_or_last_parameters(tmp_path):
  best = jax.tree.map(lambda x: -x, student())
  run = make_run(tmp_path / 'run', best=best, export='best')
  assert 'best parameters, after step 5' in export.run(run, tmp_path / 'best')
  assert_equal(weights.load(tmp_path / 'best')[1], best)
  card = (tmp_path / 'best' / 'README.md').read_text()
  assert 'after step 5 (best validation), float32' in card
  said = export.run(run, tmp_path / 'last', chosen='last')
  assert 'last parameters, after step 7' in said
  assert_equal(weights.load(tmp_path / 'last')[1], student())
  # The run that was to keep the best has not validated yet.
  run = make_run(tmp_path / 'early', export='best')
  assert 'last parameters, after step 7' in export.run(run, tmp_path / 'other')


def test_an_untied_checkpoint_of_a_tied_base(tmp_path):
  base = shutil.copytree(embedded.STUDENT, tmp_path / 'base')
  tensors = safetensors.numpy.load_file(base / 'model.safetensors')
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'] + 1
  safetensors.numpy.save_file(tensors, base / 'model.safetensors', {'format': 'pt'})
  params = trained(base)
  export.run(make_run(tmp_path / 'run', params, base=base), tmp_path / 'out')
  config, again = weights.load(tmp_path / 'out')
  assert not config.tied_head
  assert_equal(again, params)


def test_the_card_names_base_data_method_and_command(run, tmp_path):
  (run / workdir.COMMAND).write_text('python -m experiments.train --config x.py\n')
  export.run(run, tmp_path / 'out')
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: transformers\n')
  for words in (
      '| base | embedded |', '| data | word_problems |', 'name idft, beta 1.0',
      'learning rate 0.0003', '| weights | after step 7, float32 |',
      'no results of these parameters',
      '```bash\npython -m experiments.train --config x.py\n```',
  ):
    assert words in card


def remove_base(run, out):
  c = json.loads((run / 'config.json').read_text())
  c['model']['path'] = str(run / 'gone')
  (run / 'config.json').write_text(json.dumps(c))
  return {}


def other_base(run, out):
  shutil.copytree(embedded.STUDENT, run / 'gone')
  fields = json.loads((run / 'gone' / 'config.json').read_text())
  fields['intermediate_size'] += 1
  (run / 'gone' / 'config.json').write_text(json.dumps(fields))
  return remove_base(run, out)


def fill(run, out):
  out.mkdir()
  (out / 'thesis.tex').write_text('')
  return {}


def no_run(run, out):
  (run / 'config.json').unlink()
  return {}


def no_checkpoint(run, out):
  shutil.rmtree(run / 'checkpoints')
  return {}


def damaged_checkpoint(run, out):
  (run / 'checkpoints' / '00000007' / 'progress.json').write_text('{}')
  return {}


def want_best(run, out):
  return {'chosen': 'best'}


@pytest.mark.parametrize('prepare, said', [
    (fill, 'out is not empty: choose another folder'),
    (no_run, 'holds no run: there is no config.json'),
    (no_checkpoint, 'no undamaged checkpoint yet'),
    (damaged_checkpoint, 'no undamaged checkpoint yet'),
    (want_best, r'no undamaged best checkpoint: .*checkpoint.export=best'),
    (remove_base, 'is no folder and no Hugging Face id'),
    (other_base, 'has other shapes than its checkpoint'),
], ids=lambda x: getattr(x, '__name__', ''))
def test_what_cannot_be_exported_is_refused(run, tmp_path, prepare, said):
  copy, out = shutil.copytree(run, tmp_path / 'copy'), tmp_path / 'out'
  options = prepare(copy, out)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(errors.InputError, match=said) as e:
    export.run(copy, out, **options)
  assert '\n' not in str(e.value)
  assert sorted(tmp_path.rglob('*')) == before  # nothing was written


def test_a_checkpoint_that_the_run_replaces_meanwhile_is_named(
    run, tmp_path, monkeypatch
):
  copy = shutil.copytree(run, tmp_path / 'copy')

  def replaced(*args, **options):
    shutil.rmtree(copy / 'checkpoints')
    raise ValueError('NOT_FOUND')

  monkeypatch.setattr(export.exporting, 'write', replaced)
  with pytest.raises(errors.InputError, match='replaced its checkpoint of step 7'):
    export.run(copy, tmp_path / 'out')


def test_missing_flags_end_in_one_line(tmp_path):
  for flags in ([], [f'--workdir={tmp_path}']):
    done = commands.run('experiments.export', *flags, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith('error: --') and done.stderr.count('\n') == 1


# A model of 200 MB, and the memory that this process needs above what it had.
LARGE = """
import json, pathlib, resource, sys
from experiments import export

def peak():
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large, out = map(pathlib.Path, sys.argv[1:])
export.run(small, out / 'small')  # what every export needs
before = peak()
export.run(large, out / 'large', dtype='float32', file_gb=0.02)
print(json.dumps(peak() - before))
"""


@pytest.mark.slow
def test_a_large_model_needs_the_memory_of_a_file(run, tmp_path):
  base = shutil.copytree(paths.GOLDEN / 'tokenizer', tmp_path / 'base')
  (base / 'config.json').write_text(json.dumps(dict(
      model_type='qwen2', vocab_size=4096, hidden_size=512, intermediate_size=2048,
      num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=8,
      rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=True,
      eos_token_id=2)))
  config = model.ModelConfig.from_hf(base)
  shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  places = sharding.tree_shardings(shapes, sharding.make_mesh(fsdp=4, tensor=2))
  params = jax.jit(
      lambda: model.init(config, jax.random.key(0)), out_shardings=places)()
  assert sum(x.nbytes for x in jax.tree.leaves(params)) > 200e6
  large = make_run(tmp_path / 'large', params, base=base)
  script = tmp_path / 'script.py'
  script.write_text(LARGE)
  (tmp_path / 'out').mkdir()
  done = subprocess.run(
      [sys.executable, script, run, large, tmp_path / 'out'], cwd=paths.ROOT,
      env=commands.environment(), text=True, capture_output=True)
  assert done.returncode == 0, done.stderr[-3000:]
  files = list((tmp_path / 'out' / 'large').glob('*.safetensors'))
  assert len(files) > 9
  assert int(done.stdout.splitlines()[-1]) < 2 * 20e6
  assert_equal(weights.load(tmp_path / 'out' / 'large')[1], params)


@pytest.mark.parity
@pytest.mark.parametrize('dtype, file_gb', [('float32', 5), ('bfloat16', 3e-4)])
def test_transformers_computes_the_logits_of_the_run(run, tmp_path, dtype, file_gb):
  torch = pytest.importorskip('torch')
  export.run(run, tmp_path / 'out', dtype=dtype, file_gb=file_gb)
  theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / 'out', dtype='auto', output_loading_info=True)
  assert not any(info.values()), info
  assert theirs.dtype == getattr(torch, dtype)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  ids = tokenizer.apply_chat_template(
      [{'role': 'user', 'content': 'What is 12 + 30?'}], add_generation_prompt=True,
      return_dict=False, return_tensors='np')
  with torch.no_grad():
    # float32 products of the rounded weights: bfloat16 ones would differ by rounding.
    expected = theirs.float()(torch.tensor(ids)).logits.numpy()
  params = jax.tree.map(
      lambda x: np.asarray(x).astype(jnp.dtype(dtype)).astype(np.float32), student())
  logits, _ = model.forward(
      params, model.ModelConfig.from_hf(embedded.STUDENT), ids)
  np.testing.assert_allclose(logits, expected, atol=2e-4)
  assert theirs.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(
      '<|im_end|>')
