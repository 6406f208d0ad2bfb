"""Files that a saved model has beside its weights."""

import dataclasses
import functools
import json
import shutil

import pytest
import transformers

from ddt_jax import embedded
from ddt_jax import weights
from tests.support import paths

load = functools.cache(weights.load)


@pytest.fixture
def base(tmp_path):
  """A copy of the student, whose files a test changes."""
  return shutil.copytree(embedded.STUDENT, tmp_path / 'base')


def save(base, out, *, eos_ids=None, **options):
  config, params = load(embedded.STUDENT)
  if eos_ids is not None:
    config = dataclasses.replace(config, eos_ids=eos_ids)
  weights.save(out, config, params, source=base, **options)
  return out


def generation(out):
  return json.loads((out / 'generation_config.json').read_text())


def test_the_base_files_are_kept_byte_for_byte(base, tmp_path):
  # Spaces and order that no writer of today would choose.
  (base / 'tokenizer_config.json').write_text(
      (base / 'tokenizer_config.json').read_text() + '\n \n')
  (base / 'added_tokens.json').write_text('{}')
  (base / 'LICENSE').write_text('Apache-2.0')
  (base / 'training_args.bin').write_text('not kept')
  out = save(base, tmp_path / 'out')
  assert {f.name for f in out.iterdir()} == {
      'LICENSE', 'added_tokens.json', 'chat_template.jinja', 'config.json',
      'generation_config.json', 'model.safetensors', 'tokenizer.json',
      'tokenizer_config.json'}
  for file in out.iterdir():
    if file.name not in ('config.json', 'generation_config.json'):
      assert file.read_bytes() == (base / file.name).read_bytes(), file.name


def test_a_tokenizer_in_an_old_form_is_written_in_the_new_one_too(base, tmp_path):
  tokenizer = transformers.AutoTokenizer.from_pretrained(base)
  (base / 'tokenizer_config.json').unlink()
  (base / 'vocab.json').write_text('{}')
  out = save(base, tmp_path / 'out', tokenizer=tokenizer)
  assert (out / 'vocab.json').read_text() == '{}'
  again = transformers.AutoTokenizer.from_pretrained(out)
  text = '<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n'
  assert again.encode(text) == tokenizer.encode(text)
  assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize('theirs, ours, expected', [
    ({'top_k': 20, 'eos_token_id': 2}, (2,), {'top_k': 20, 'eos_token_id': 2}),
    ({'top_k': 20, 'eos_token_id': [2, 5]}, (5, 2),
     {'top_k': 20, 'eos_token_id': [2, 5]}),
    # A base model whose own stop token does not end a turn of its template.
    ({'top_k': 20, 'eos_token_id': 2}, (2, 7),
     {'top_k': 20, 'eos_token_id': [2, 7]}),
    ({'top_k': 20}, (7,), {'top_k': 20, 'eos_token_id': 7}),
    ({'eos_token_id': None}, (7,), {'eos_token_id': 7}),
])
def test_the_generation_config_is_kept_and_lists_all_stop_tokens(
    base, tmp_path, theirs, ours, expected
):
  (base / 'generation_config.json').write_text(json.dumps(theirs))
  out = save(base, tmp_path / 'out', eos_ids=ours)
  assert generation(out) == expected
  if theirs == expected:  # nothing to add: its very bytes
    assert (out / 'generation_config.json').read_bytes() == (
        base / 'generation_config.json').read_bytes()


@pytest.mark.parametrize('ours, expected', [
    ((2,), {'pad_token_id': 0, 'eos_token_id': 2}),
    ((2, 7), {'pad_token_id': 0, 'eos_token_id': [2, 7]}),
    ((), {'pad_token_id': 0}),
])
def test_without_a_generation_config_one_is_made_of_the_config(
    base, tmp_path, ours, expected
):
  out = save(base, tmp_path / 'out', eos_ids=ours)
  assert generation(out) == expected
  theirs = transformers.GenerationConfig.from_pretrained(out)
  assert theirs.eos_token_id == expected.get('eos_token_id')


def test_the_source_gives_the_dtype(base, tmp_path):
  half = save(base, tmp_path / 'half', dtype='bfloat16')
  assert weights.source_dtype(half) == 'bfloat16'
  assert weights.source_dtype(save(half, tmp_path / 'again')) == 'bfloat16'
  assert weights.source_dtype(save(base, tmp_path / 'whole')) == 'float32'
  # Without a source, a round trip is bit-exact.
  config, params = weights.load(half)
  weights.save(tmp_path / 'alone', config, params)
  assert weights.source_dtype(tmp_path / 'alone') == 'float32'


def test_a_model_without_a_source_has_what_its_config_says(tmp_path):
  config, params = load(paths.GOLDEN / 'models' / 'llama-tiny')
  weights.save(tmp_path, config, params)
  assert sorted(f.name for f in tmp_path.iterdir()) == [
      'config.json', 'generation_config.json', 'model.safetensors']
