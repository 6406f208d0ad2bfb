"""Where a model comes from, which options are refused, rows that fit in memory."""

import copy
import dataclasses
import json
import shutil

import huggingface_hub
import jax
import pytest

from configs import idft
from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import answers
from experiments.run import checks
from experiments.run import inputs
from experiments.run import model_files
from tests.support import student


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
  assert model_files.model_folder('embedded') == str(embedded.STUDENT)
  assert model_files.model_folder(str(tmp_path)) == str(tmp_path)
  # A folder goes before a hub's id of the same name.
  (tmp_path / 'org' / 'model').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert model_files.model_folder('org/model') == 'org/model'


def test_a_folder_at_home_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'model').mkdir()
  # What reads the folder does not know of ~.
  assert model_files.model_folder('~/model') == str(tmp_path / 'model')


@pytest.mark.parametrize('path', [
    'nowhere', './nowhere', '/no/where', '/nowhere', '~/nowhere', '../nowhere',
    'a/b/c', '',
])
def test_what_is_neither_folder_nor_id_is_refused(path, monkeypatch):
  def download(*args, **kwargs):
    raise AssertionError('the network was asked')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(errors.InputError, match='model.path=') as error:
    model_files.model_folder(path)
  assert repr(path) in str(error.value)


def test_the_folder_of_a_run_is_told_from_its_model(tmp_path):
  (tmp_path / 'model').mkdir()
  (tmp_path / 'metrics.jsonl').touch()
  with pytest.raises(errors.InputError, match=f'model.path={tmp_path}/model'):
    model_files.model_folder(str(tmp_path))
  assert model_files.model_folder(str(tmp_path / 'model'))


def test_without_a_network_an_id_is_refused_in_words(monkeypatch):
  def download(name, *, allow_patterns):
    raise huggingface_hub.errors.LocalEntryNotFoundError(
        'Got: ConnectError: no service\nAn error happened ...')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(errors.InputError) as error:
    model_files.model_folder('org/model')
  for part in ('model.path=org/model', 'ConnectError: no service.',
               '--config.model.path=FOLDER'):
    assert part in str(error.value)
  assert '\n' not in str(error.value)


def test_an_id_is_fetched_without_pickles(monkeypatch):
  asked = {}

  def download(name, *, allow_patterns):
    asked[name] = allow_patterns
    return '/cache/snapshot'

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert model_files.model_folder('org/model') == '/cache/snapshot'
  assert '*.safetensors' in asked['org/model']
  assert not any(p in ('*', '*.bin', '*.pt', '*.py') for p in asked['org/model'])


def test_rows_are_bounded_by_tokens_on_each_device():
  one = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  rows = lambda longest, mesh=one: inputs.scoring_rows(
      mesh, longest, rows=32, tokens=8192)
  assert [rows(n) for n in (64, 256, 512, 4096, 8192, 9000)] == [
      32, 32, 16, 2, 1, 1]
  four = sharding.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
  assert rows(4096, four) == 4 * 2
  split = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
  assert rows(4096, split) == 2 * 2


@pytest.mark.parametrize('field, value, said', [
    ('loss.name', 'idtf', 'idtf'),
    ('loss.beta', 0.0, 'beta'),
    ('optim.schedule', 'cosin', 'optim.schedule'),
    ('train.mask_mode', 'off', 'train.mask_mode'),
    ('curate.fallback', 'refrence', 'curate.fallback'),
    ('hint.template', 'nowhere.toml', 'hint.template'),
    ('train.across_rounds', 'go', 'train.across_rounds'),
    ('train.batch', 33, 'train.batch=33'),
    ('train.epochs', 0, 'train.epochs=0'),
    ('checkpoint.export', 'newest', 'checkpoint.export'),
    ('evaluation.samples', -1, 'evaluation.samples=-1'),
    ('rounds', 0, 'rounds=0'),
    ('curate.temperature', -1.0, 'curate.temperature=-1.0'),
    ('hint.top_p', 0.0, 'hint.top_p=0.0'),
    ('hint.bounds', ('low', 'high'), 'hint.bounds'),
    ('hint.schedule', 'linaer', 'hint.schedule'),
    ('hint.order', 'first', 'order'),
    ('evaluation.top_p', 1.5, 'evaluation.top_p=1.5'),
    ('validation.every', -1, 'validation.every=-1'),
])
def test_an_invalid_option_is_named_before_any_work(field, value, said):
  c = idft.get_config()
  c.train.micro_batches = 2
  checks.check_options(c, sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))
  c.update_from_flattened_dict({field: value})
  with pytest.raises((errors.InputError, FileNotFoundError), match=said):
    checks.check_options(
        c, sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))


def test_data_types_go_by_their_usual_names():
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  for name, dtype in (('bf16', 'bfloat16'), ('fp32', 'float32')):
    _, config, _ = inputs.load_model(
        mesh, path='embedded', dtype=name, remat='none')
    assert config.dtype == dtype
  with pytest.raises(errors.InputError, match="model.dtype='int8'.*bf16"):
    inputs.load_model(mesh, path='embedded', dtype='int8', remat='none')


@pytest.mark.parametrize('file, text, said', [
    ('config.json', '{', 'config.json: not JSON'),
    ('tokenizer.json', '{', 'its tokenizer cannot be read'),
    ('tokenizer.json', 'version https://git-lfs.github.com/spec/v1\nsize 9\n',
     'tokenizer.json .9 bytes.*git lfs pull'),
])
def test_a_model_folder_that_cannot_be_read_is_named(file, text, said, tmp_path):
  shutil.copytree(embedded.STUDENT, tmp_path / 'copy')
  (tmp_path / 'copy' / file).write_text(text)
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  with pytest.raises(errors.InputError, match=f'{tmp_path}/copy.*{said}'):
    inputs.load_model(
        mesh, path=str(tmp_path / 'copy'), dtype='fp32', remat='none')


def student_config():
  return model.ModelConfig.from_hf(str(embedded.STUDENT))


@pytest.mark.parametrize('eos, ids', [
    ([1, 2], (2, 1)), (2, (2,)), (0, (2, 0)), (None, (2,)), ([], (2,)),
])
def test_the_stop_tokens_of_generation_config_count_too(eos, ids, tmp_path):
  file = tmp_path / 'generation_config.json'
  file.write_text(json.dumps({'eos_token_id': eos, 'temperature': 0.6}))
  assert student_config().eos_ids == (2,)
  found = model_files.with_generation_eos(student_config(), str(tmp_path))
  assert found.eos_ids == ids
  file.write_text('{}')
  assert model_files.with_generation_eos(
      student_config(), str(tmp_path)) == student_config()
  file.unlink()
  assert model_files.with_generation_eos(
      student_config(), str(tmp_path)) == student_config()


@pytest.mark.parametrize('text', [
    '{', '[]', '3', '{"eos_token_id": "2"}', '{"eos_token_id": [2, 661]}',
    '{"eos_token_id": [null]}', '{"eos_token_id": -1}', '{"eos_token_id": true}',
])
def test_a_broken_generation_config_is_named(text, tmp_path):
  (tmp_path / 'generation_config.json').write_text(text)
  with pytest.raises(errors.InputError, match='generation_config.json'):
    model_files.with_generation_eos(student_config(), str(tmp_path))


def test_decoding_stops_are_said():
  tokenizer = student.tokenizer()
  end = chat.turn_end(tokenizer)
  assert model_files.stops(tokenizer, student_config(), end) == (
      'decoding stops at <|im_end|> (2)')
  base = dataclasses.replace(student_config(), eos_ids=(0,))
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  options = inputs.decoding_options(
      mesh, base, end, slots=1, tensor=1, cache_dtype='')
  assert options['eos_ids'] == (0, 2)
  assert model_files.stops(tokenizer, base, end).endswith(', <|im_end|> (2)')


def test_rows_longer_than_the_context_are_refused():
  inputs.check_positions(1024, student_config())
  with pytest.raises(errors.InputError, match='data.max_tokens=1025 .* 1024'):
    inputs.check_positions(1025, student_config())


def test_a_hint_that_the_template_refuses_is_named_before_any_work():
  tokenizer = copy.deepcopy(student.tokenizer())
  rewriting = answers.Rewriting(template='short')
  inputs.check_hint(tokenizer, rewriting)
  tokenizer.chat_template = (
      "{{ raise_exception('no system') if messages[0].role == 'system' }}"
      "{{ raise_exception('no users') }}")
  with pytest.raises(errors.InputError, match="hint.template='short'.* no "):
    inputs.check_hint(tokenizer, rewriting)


def test_options_of_a_file_want_a_file():
  for options in ({'evaluation_path': 'x.jsonl'}, {'weights': '1,2'}):
    with pytest.raises(errors.InputError, match='data.path'):
      inputs.load_data(
          student.tokenizer(), student.turn_end(), evaluation_problems=1,
          name='word_problems', path='', max_tokens=64, overlong='truncate', **options)


SYSTEM = {'role': 'system', 'content': 'Be brief.'}
TURNS = ({'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hi'})


def test_a_prompt_that_the_template_refuses_is_named_or_left_out():
  tokenizer = copy.deepcopy(student.tokenizer())
  tokenizer.chat_template = (
      "{% if messages[0].role == 'system' %}"
      "{{ raise_exception('no system turn here') }}{% endif %}"
      + tokenizer.chat_template)
  plain = records.Problem('a', 'Hi', 'Hi', source='my.jsonl:1', messages=TURNS)
  refused = records.Problem(
      'b', 'Hi', 'Hi', source='my.jsonl:2', messages=(SYSTEM, *TURNS))
  assert inputs.renderable(tokenizer, [plain, refused], 'skip') == [plain]
  with pytest.raises(errors.InputError, match='my.jsonl:2: .*no system turn here'):
    inputs.renderable(tokenizer, [plain, refused], 'error')
