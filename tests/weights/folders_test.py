"""Model folders as people have them: read as transformers 5 does, or refused."""

import functools
import json

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import weights
from tests.support import folders
from tests.support import paths

HEAD, EMBEDDING = 'lm_head.weight', 'model.embed_tokens.weight'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n'

golden = functools.cache(
    lambda name='qwen2-tiny': weights.load(paths.GOLDEN / 'models' / name))
forward = jax.jit(model.forward, static_argnames='config')


@pytest.fixture
def folder(tmp_path):
  return folders.Folder(tmp_path / 'copy')


@pytest.fixture
def warned(monkeypatch):
  """The warnings so far."""
  texts = []
  monkeypatch.setattr(
      'absl.logging.warning', lambda text, *args: texts.append(text % args))
  return texts


def assert_same(params, expected):
  assert jax.tree.structure(params) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def refusal(folder) -> str:
  with pytest.raises(errors.InputError) as e:
    weights.load(folder.path)
  assert '\n' not in str(e.value)
  return str(e.value)


def test_a_whole_folder_is_read_without_a_word(folder, warned):
  assert_same(weights.load(folder.path)[1], golden()[1])
  assert not warned


def test_an_opened_folder_reads_the_same_numbers_one_layer_at_a_time(folder):
  config, opened = weights.open(folder.path)
  expected_config, expected = golden()
  assert config == expected_config
  assert_same(jax.tree.map(np.asarray, opened), expected)
  for name in ('q', 'o'):
    stored, whole = (
        x['layers']['attn'][name]['kernel'] for x in (opened, expected))
    assert stored.shape == whole.shape
    np.testing.assert_array_equal(stored[1], whole[1])


def test_parameters_that_are_not_trained_are_held_in_another_dtype(folder):
  _, held = weights.load(folder.path, param_dtype='bfloat16')
  assert_same(held, jax.tree.map(lambda x: x.astype('bfloat16'), golden()[1]))


def add_head(folder, change):
  tensors = folder.tensors()
  head = tensors[EMBEDDING].copy()
  change(head)
  folder.write(tensors | {HEAD: head})
  return head


def flip_one(head):
  head[-1, -1] += 1


def test_another_head_beside_a_tied_config_is_read(folder, warned, tmp_path):
  head = add_head(folder, flip_one)
  config, params = weights.load(folder.path)
  assert not config.tied_head
  np.testing.assert_array_equal(params['head']['kernel'], head)
  assert_same(params['embed'], golden()[1]['embed'])
  assert len(warned) == 1 and HEAD in warned[0] and 'tie_word_embeddings' in warned[0]
  # The next reader needs no tensor to know.
  weights.save(tmp_path / 'saved', config, params)
  assert not model.ModelConfig.from_hf(tmp_path / 'saved').tied_head
  assert_same(weights.load(tmp_path / 'saved')[1], params)


def test_an_equal_head_beside_a_tied_config_is_the_embedding(folder, warned):
  add_head(folder, lambda head: None)
  config, params = weights.load(folder.path)
  assert config == golden()[0] and not warned
  assert_same(params, golden()[1])


def test_a_tied_model_may_come_with_its_head_alone(folder, warned):
  folder.rename(lambda name: HEAD if name == EMBEDDING else name)
  config, params = weights.load(folder.path)
  assert config.tied_head and not warned
  assert_same(params, golden()[1])


def test_a_misshapen_head_beside_a_tied_config_is_named(folder):
  folder.write(folder.tensors() | {HEAD: np.zeros((7, 64), np.float32)})
  assert f'{HEAD} is [7, 64], not [503, 64]' in refusal(folder)


def test_an_untied_config_without_a_head_is_told_of_the_flag(folder):
  folder.config(tie_word_embeddings=False)
  message = refusal(folder)
  assert f'{HEAD} is missing' in message and 'tie_word_embeddings' in message


def test_a_single_file_goes_before_an_index(folder, warned):
  folder.split(keep_whole=True)
  halves = {k: v / 2 for k, v in folder.tensors().items()}
  folder.write(halves)
  assert_same(weights.load(folder.path)[1],
              jax.tree.map(lambda x: x / 2, golden()[1]))
  assert len(warned) == 1 and 'model.safetensors is read; not read: ' in warned[0]
  assert 'model-00002-of-00002.safetensors, model.safetensors.index' in warned[0]


def test_an_index_of_shards_is_read_and_other_files_are_named(folder, warned):
  where = folder.split()
  assert_same(weights.load(folder.path)[1], golden()[1])
  assert not warned
  folder.write({'a': np.zeros(1)}, 'consolidated.safetensors')
  weights.load(folder.path)
  assert warned[0].endswith('not read: consolidated.safetensors')
  # transformers reads the shards, whether the index has all their tensors or not.
  del where['model.norm.weight']
  folder.index(where)
  assert_same(weights.load(folder.path)[1], golden()[1])


def test_a_tensor_in_the_wrong_shard_is_named(folder):
  where = folder.split()
  right = where['model.norm.weight']
  wrong = next(file for file in where.values() if file != right)
  folder.index(where | {'model.norm.weight': wrong})
  message = refusal(folder)
  for part in ('index.json: model.norm.weight', f'in {wrong}', f'{right} has it'):
    assert part in message


def test_a_tensor_that_is_in_no_shard_is_named(folder):
  where = folder.split()
  file = where['model.norm.weight']
  folder.index(where | {'model.other.weight': file})
  assert f'model.other.weight is said to be in {file}, but is not;' in refusal(folder)


def test_a_missing_shard_is_named(folder):
  file = folder.split()['model.norm.weight']
  (folder.path / file).unlink()
  assert file in refusal(folder)


@pytest.mark.parametrize('file', ['adapter_config.json', 'adapter_model.safetensors'])
def test_an_adapter_beside_its_base_is_refused(folder, file):
  (folder.path / file).write_text('{}')
  assert f'adapter stands beside its base ({file}); merge' in refusal(folder)


def test_lora_matrices_among_the_weights_are_refused(folder):
  name = 'base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight'
  folder.write(folder.tensors() | {name: np.zeros((2, 64), np.float32)})
  message = refusal(folder)
  assert f'model.safetensors: {name}' in message and 'merge' in message


@pytest.mark.parametrize('rename', [
    lambda x: f'_orig_mod.{x}',
    lambda x: f'module.{x}',
    lambda x: f'module._orig_mod.{x}',
    lambda x: f'base_model.model.{x}',
    lambda x: f'_orig_mod.base_model.model.{x}',
    lambda x: x.removeprefix('model.'),
    lambda x: '_orig_mod.' + x.removeprefix('model.'),
    lambda x: x.replace('layers.1.', 'layers.1._orig_mod.'),
    lambda x: '_fsdp_wrapped_module.' + x.replace(
        'layers.1.', 'layers.1._checkpoint_wrapped_module.'),
], ids=['compiled', 'data parallel', 'both', 'peft', 'compiled peft', 'base model',
        'compiled base model', 'compiled layer', 'fsdp'])
@pytest.mark.parametrize('sharded', [False, True], ids=['one file', 'shards'])
@pytest.mark.parametrize('name', ['qwen2-tiny', 'qwen2-tiny-untied'])
def test_prefixes_of_trainers_are_read_past(name, rename, sharded, tmp_path, warned):
  folder = folders.Folder(tmp_path / 'copy', name)
  folder.rename(rename)
  if sharded:
    folder.split()
  config, params = weights.load(folder.path)
  assert config == golden(name)[0] and not warned
  assert_same(params, golden(name)[1])


def test_an_unknown_prefix_is_named(folder):
  folder.rename(lambda name: f'student.{name}')
  message = refusal(folder)
  assert '38 tensor(s)' in message and 'model.embed_tokens.weight is missing' in message
  assert 'is student.model.embed_tokens.weight meant? Rename' in message


def test_two_tensors_of_one_name_are_refused(folder):
  tensors = folder.tensors()
  tensors['norm.weight'] = tensors['model.norm.weight'] + 1
  folder.write(tensors)
  message = refusal(folder)
  assert 'norm.weight' in message and 'both stand for model.norm.weight' in message


def test_tensors_that_are_not_used_are_named(folder, warned):
  tensors = folder.tensors()
  for i in range(6):
    tensors[f'model.layers.{3 + i}.mlp.up_proj.weight'] = np.zeros(3, np.float32)
  for name in ('model.layers.0.self_attn.rotary_emb.inv_freq',
               'model.rotary_emb.inv_freq'):  # of older versions
    tensors[name] = np.zeros(8, np.float32)
  folder.write(tensors)
  assert_same(weights.load(folder.path)[1], golden()[1])
  assert len(warned) == 1 and '6 tensor(s) are not used' in warned[0]
  assert 'model.layers.3.mlp.up_proj.weight' in warned[0]
  assert 'and 2 more' in warned[0] and 'inv_freq' not in warned[0]


def test_more_layers_than_tensors_are_refused(folder):
  folder.config(num_hidden_layers=2**30)
  assert 'config.json: num_hidden_layers is 1073741824' in refusal(folder)


@pytest.mark.parametrize('file', [
    'model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer.model'])
def test_a_git_lfs_pointer_is_named_with_its_size(folder, file):
  (folder.path / file).write_bytes(POINTER)
  message = refusal(folder)
  assert f'copy/{file} (12,345 bytes): a Git LFS pointer' in message
  assert f'git lfs pull` in {folder.path}' in message


def test_git_lfs_pointers_of_shards_are_named_together(folder):
  for file in set(folder.split().values()):
    (folder.path / file).write_bytes(POINTER)
  message = refusal(folder)
  assert 'copy/model-00001-of-00002.safetensors (12,345 bytes)' in message
  assert ', model-00002-of-00002.safetensors (12,345 bytes)' in message


def test_a_pointer_that_nobody_reads_is_no_matter(folder):
  (folder.path / 'consolidated.safetensors').write_bytes(POINTER)
  (folder.path / 'pytorch_model.bin').write_bytes(POINTER)
  assert_same(weights.load(folder.path)[1], golden()[1])


def theta_in(field, **more):
  def change(folder):
    config = json.loads((folder.path / 'config.json').read_text())
    for name in ('rope_theta', 'rope_scaling', 'rope_parameters'):
      config.pop(name, None)
    rope = {'rope_type': 'default', 'rope_theta': 500000.0}
    text = json.dumps(config | {field: rope} | more)
    (folder.path / 'config.json').write_text(text)

  return change


def single_file_of_halves(folder):
  folder.split(keep_whole=True)
  folder.write({k: v / 2 for k, v in folder.tensors().items()})


LLAMA3 = {'rope_type': 'llama3', 'factor': 4.0, 'low_freq_factor': 1.0,
          'high_freq_factor': 4.0}


@pytest.mark.parity
@pytest.mark.parametrize('name', ['qwen2-tiny', 'llama-tiny'])
@pytest.mark.parametrize('change', [
    theta_in('rope_scaling'),
    theta_in('rope_scaling', rope_theta=2e4),
    theta_in('rope_parameters', rope_theta=2e4),
    theta_in('rope_parameters', rope_scaling={'rope_type': 'default'}),
    theta_in('rope_parameters', rope_scaling=LLAMA3, rope_theta=3e4),
    theta_in('rope_parameters', rope_parameters=LLAMA3, rope_theta=3e4,
             original_max_position_embeddings=64),
    lambda folder: add_head(folder, lambda head: head.__imul__(-1)),
    lambda folder: add_head(folder, lambda head: None),
    single_file_of_halves,
    lambda folder: folder.rename(lambda x: x.removeprefix('model.')),
    lambda folder: folder.rename(lambda x: HEAD if x == EMBEDDING else x),
], ids=['theta inside', 'theta twice', 'theta in parameters', 'two objects',
        'scaling and parameters', 'outer context', 'another head', 'equal head',
        'single file and index', 'base model', 'head alone'])
def test_logits_are_those_of_transformers(name, change, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  folder = folders.Folder(tmp_path / 'copy', name)
  if EMBEDDING in (tensors := folder.tensors()) and HEAD in tensors:
    del tensors[HEAD]
    folder.write(tensors)
  folder.config(tie_word_embeddings=True)
  change(folder)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
      folder.path, dtype=torch.float32)
  ids = np.load(paths.GOLDEN / 'logits' / f'{name}.npz')['ids_long'][None, :64]
  with torch.no_grad():
    expected = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
  config, params = weights.load(folder.path)
  logits, _ = forward(params, config, ids)
  np.testing.assert_allclose(logits, expected, atol=1e-3)
