"""The teacher of a config: its tokens, its table, its memory; refused by name."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from configs import sdft
from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import weights
from ddt_jax.embedded import problems
from experiments.run import distilling
from tests.support import paths
from tests.support import student


def small_inputs():
  """What `distilling` reads of a run's inputs, on the embedded student."""
  config, params = student.load()
  return types.SimpleNamespace(
      mesh=student.mesh(), tokenizer=student.tokenizer(), config=config, params=params,
      teacher=None, corpus=types.SimpleNamespace(
          train=list(problems.problems('train', 16))))


def with_table(path, size):
  """A folder with the student, whose vocabulary table has `size` rows."""
  config, params = student.load()
  table = params['embed']['embedding']
  rows = jnp.concatenate([table, jnp.ones((max(size - len(table), 0), table.shape[1]))])
  params = params | {'embed': {'embedding': rows[:size]}}
  if 'head' in params:
    params = params | {'head': {'kernel': rows[:size]}}
  weights.save(path, config, params, tokenizer=student.tokenizer())
  fields = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(fields | {'vocab_size': size}))
  return path


def named(folder):
  c = sdft.get_config()
  c.distill.teacher = str(folder)
  return c


def test_a_teacher_with_other_tokens_is_refused_by_name():
  other = transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')
  with pytest.raises(errors.InputError, match='distill.teacher=DIR: its tokenizer'):
    distilling.check_vocabulary('DIR', student.tokenizer(), other)
  distilling.check_vocabulary('DIR', student.tokenizer(), student.tokenizer())


def test_rows_of_padding_behind_the_students_tokens_are_cut(tmp_path):
  s = small_inputs()
  size = s.config.vocab_size
  teacher = distilling.load_teacher(
      named(with_table(tmp_path / 'padded', size + 8)), s)
  assert teacher.config.vocab_size == size
  jax.tree.map(np.testing.assert_array_equal, teacher.params, s.params)
  tokens = jnp.arange(6)[None]
  found, _ = model.forward(teacher.params, teacher.config, tokens)
  assert found.shape == (1, 6, size)


def test_a_folder_that_is_not_there_is_named():
  with pytest.raises(errors.InputError, match="distill.teacher='runs/no/model' is no"):
    distilling.load_teacher(named('runs/no/model'), small_inputs())


def test_a_smaller_table_is_refused(tmp_path):
  s = small_inputs()
  s.config = dataclasses.replace(s.config, vocab_size=s.config.vocab_size + 8)
  with pytest.raises(errors.InputError, match='the teacher needs as many'):
    distilling.load_teacher(named(embedded.STUDENT), s)


def test_the_teachers_forward_is_counted_before_the_run():
  c, s = sdft.get_config(), small_inputs()
  c.train.batch, c.rounds = 8, 1
  said = distilling.memory(c, s)
  assert said.startswith('teacher   the model itself; rows of')
  assert 'up to 128 of the response' in said and 'GiB a device' in said
  # The hint makes the teacher's rows longer than the student's.
  numbers = [int(x) for x in said.split() if x.isdigit()]
  assert numbers[1] > numbers[0]
