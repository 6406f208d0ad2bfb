"""PEFT folders: round trips, equal logits under `peft`, and folders to refuse."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import weights
from ddt_jax.weights import adapters as adapter_files
from tests.support import families
from tests.support import paths

BASE = paths.GOLDEN / 'models' / 'qwen2-tiny'


@pytest.fixture(scope='module')
def base():
  return weights.load(BASE)


def trained(config, **options):
  """Adapters whose B is not zero, as after some steps."""
  adapters = lora.init(config, jax.random.key(1), **dict(rank=4, alpha=6) | options)
  fill = lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
  return jax.tree.map(fill, adapters)


@pytest.fixture
def folder(base, tmp_path):
  weights.save_adapter(tmp_path, base[0], trained(base[0]), base=str(BASE))
  return tmp_path


@pytest.mark.parametrize('options', [
    {}, dict(targets='o_proj,up_proj', rslora=True)])
def test_what_is_written_is_read_back_bit_for_bit(base, tmp_path, options):
  written = trained(base[0], **options)
  weights.save_adapter(tmp_path, base[0], written, base='org/base')
  read = weights.load_adapter(tmp_path, base[0])
  assert jax.tree.structure(read) == jax.tree.structure(written)
  assert read.scale == written.scale
  jax.tree.map(np.testing.assert_array_equal, read, written)


def test_names_and_fields_are_those_that_vllm_reads(folder):
  fields = json.loads((folder / adapter_files.CONFIG).read_text())
  assert fields['target_modules'] == list(lora.TARGETS)
  assert (fields['r'], fields['lora_alpha'], fields['use_rslora']) == (4, 6.0, False)
  assert fields['base_model_name_or_path'] == str(BASE)
  tensors = safetensors.numpy.load_file(folder / adapter_files.FILE)
  prefix = 'base_model.model.model.layers.1'
  a = tensors[f'{prefix}.self_attn.q_proj.lora_A.weight']
  b = tensors[f'{prefix}.mlp.down_proj.lora_B.weight']
  assert a.shape[0] == 4 and b.shape[1] == 4 and a.dtype == np.float32


@pytest.mark.parity
@pytest.mark.parametrize('options', [
    {}, dict(targets='q_proj,down_proj', rslora=True)])
def test_peft_computes_the_same_logits(base, tmp_path, options):
  import peft
  import torch
  import transformers
  config, params = base
  adapters = trained(config, **options)
  weights.save_adapter(tmp_path, config, adapters, base=str(BASE))
  theirs = peft.PeftModel.from_pretrained(
      transformers.AutoModelForCausalLM.from_pretrained(BASE), tmp_path)
  tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 12))
  with torch.no_grad():
    want = theirs(torch.tensor(tokens)).logits.numpy()
  got, _ = model.forward(lora.attach(params, adapters), config, tokens)
  plain, _ = model.forward(params, config, tokens)
  assert np.abs(got - plain).max() > 0.01
  np.testing.assert_allclose(got, want, atol=3e-4)


@pytest.mark.parity
@pytest.mark.parametrize('name', ['qwen3-8b', 'llama3.1-8b', 'gemma3-1b'])
def test_peft_computes_the_same_logits_in_every_family(name, tmp_path):
  import peft
  import torch
  source, theirs = tmp_path / 'base', families.write(
      tmp_path / 'base', families.SHAPES[name])
  config, params = weights.load(source)
  adapters = trained(config)
  weights.save_adapter(tmp_path / 'adapter', config, adapters, base=str(source))
  theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter')
  tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 40))
  with torch.no_grad():
    want = theirs(torch.tensor(tokens)).logits.numpy()
  got, _ = model.forward(lora.attach(params, adapters), config, tokens)
  merged, _ = model.forward(lora.merge(params, adapters), config, tokens)
  plain, _ = model.forward(params, config, tokens)
  assert np.abs(got - plain).max() > 0.01
  np.testing.assert_allclose(got, want, atol=3e-4)
  np.testing.assert_allclose(merged, want, atol=3e-4)


@pytest.mark.parity
def test_a_folder_that_peft_wrote_is_read(base, tmp_path):
  import peft
  import torch
  import transformers
  config, params = base
  theirs = peft.get_peft_model(
      transformers.AutoModelForCausalLM.from_pretrained(BASE),
      peft.LoraConfig(r=3, lora_alpha=5, target_modules='all-linear',
                      init_lora_weights=False, task_type='CAUSAL_LM'))
  theirs.save_pretrained(tmp_path)
  adapters = weights.load_adapter(tmp_path, config)
  assert (adapters.rank, adapters.alpha) == (3, 5.0)
  tokens = np.arange(10)[None]
  with torch.no_grad():
    want = theirs(torch.tensor(tokens)).logits.numpy()
  got, _ = model.forward(lora.merge(params, adapters), config, tokens)
  np.testing.assert_allclose(got, want, atol=3e-4)


def edit_config(**changes):
  def edit(folder):
    file = folder / adapter_files.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
  return edit


def edit_tensors(change):
  def edit(folder):
    file = folder / adapter_files.FILE
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)
  return edit


A = 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'
HOSTILE = {
    'adapter_config.json is missing':
        lambda f: (f / adapter_files.CONFIG).unlink(),
    'adapter_model.safetensors is missing':
        lambda f: (f / adapter_files.FILE).unlink(),
    "peft_type='IA3'": edit_config(peft_type='IA3'),
    'not the config of a LoRA adapter': edit_config(r='many'),
    'use_dora=True is not supported': edit_config(use_dora=True),
    "bias='all' is not supported": edit_config(bias='all'),
    "rank_pattern={'q_proj': 8} is not supported":
        edit_config(rank_pattern={'q_proj': 8}),
    'not a whole safetensors file': lambda f: (f / adapter_files.FILE).write_bytes(
        (f / adapter_files.FILE).read_bytes()[:-9]),
    'q_proj.lora_A.weight is missing': edit_tensors(lambda t: t.pop(A)),
    r'q_proj.lora_A of layer 0 has the shape (4, 5)':
        edit_tensors(lambda t: t.update({A: t[A][:, :5].copy()})),
    'layers.9.self_attn.q_proj.lora_A.weight is not of a linear layer':
        edit_tensors(lambda t: t.update({A.replace('.0.', '.9.'): t[A]})),
    'shape (4, ': edit_config(r=8),
}


@pytest.mark.parametrize('words', HOSTILE)
def test_other_folders_are_refused_in_one_line(base, folder, words):
  HOSTILE[words](folder)
  with pytest.raises(errors.InputError, match=re.escape(words)) as e:
    weights.load_adapter(folder, base[0])
  assert str(folder) in str(e.value) and '\n' not in str(e.value)
