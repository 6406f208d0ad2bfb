"""A round of the main job on a small random model of each family, with its template."""

import copy

import jax
import numpy as np
import pytest

from configs import idft
from ddt_jax import model
from ddt_jax import weights
from experiments import train
from tests.support import families
from tests.support import student
from tests.support import templates

SHAPES = {
    'qwen3': 'qwen3-8b', 'llama': 'llama3.1-8b', 'gemma3_text': 'gemma3-1b'}


def folder_of(family, path):
  """A folder with random weights, the student's words and the family's template."""
  words = copy.deepcopy(student.tokenizer())
  end = templates.give(words, family)
  words.save_pretrained(path)
  config = model.ModelConfig.from_hf(families.SHAPES[SHAPES[family]] | dict(
      vocab_size=len(words), num_hidden_layers=2, initializer_range=0.05,
      bos_token_id=0, eos_token_id=words.convert_tokens_to_ids(end)))
  weights.save(path, config, model.init(config, jax.random.key(0)))
  return end


@pytest.mark.parametrize('family', [
    pytest.param(family, marks=(
        pytest.mark.slow if family == 'gemma3_text' else pytest.mark.long))
    for family in SHAPES])
def test_a_round_trains_and_exports_a_folder_that_is_read(
    family, tmp_path, monkeypatch
):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  end = folder_of(family, tmp_path / 'base')
  c = idft.get_config()
  c.model.path, c.rounds = str(tmp_path / 'base'), 1
  c.curate.per_round, c.curate.samples, c.curate.max_new_tokens = 16, 1, 8
  c.hint.template, c.hint.analysis = 'solution_first', 'none'
  c.train.pack, c.train.batch, c.optim.lr = True, 8, 1e-3
  c.evaluation.problems, c.evaluation.samples = 4, 0
  c.evaluation.max_new_tokens = 8
  c.validation.every = c.validation.accuracy_every = 0
  c.report.examples, c.decoding.slots = 8, 8
  c.log.tensorboard = False
  train.execute(c, str(tmp_path / 'run'))

  config, trained = weights.load(tmp_path / 'run' / 'model')
  _, base = weights.load(tmp_path / 'base')
  assert config.model_type == family and jax.tree.all(
      jax.tree.map(lambda a, b: a.shape == b.shape, trained, base))
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), trained, base)
  assert min(jax.tree.leaves(moved['layers'])) > 0
  words = student.tokenizer().from_pretrained(tmp_path / 'run' / 'model')
  assert words.chat_template == templates.FAMILIES[family][0]
  assert words.convert_tokens_to_ids(end) in config.eos_ids
