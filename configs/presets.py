"""Presets: the fields that a real model needs, by name.

python -m experiments.train --config configs/idft.py:NAME

A preset changes fields of idft.py. The command line changes them further.
"""

import ml_collections


def smollm2(c: ml_collections.ConfigDict) -> None:
  """SmolLM2-135M-Instruct learns small sums, on two CPU cores.

  It follows neither a form of answer nor a task of rewriting, so the answer is read
  from its own way of speaking, "The answer ... is 7.", and it rewrites at once.
  """
  c.rounds = 1
  c.model.path = 'smollm2'
  c.data.name = 'reasoning_gym:needle_haystack:min_num_statements=2:max_num_statements=2'
  c.data.question = '{problem}'
  c.data.marker = ' is'
  c.data.gym = dict(
      problems=150,
      generalisation='needle_haystack:min_num_statements=3:max_num_statements=4',
      retained='chain_sum:min_terms=2:max_terms=2:min_digits=1:max_digits=1',
      seed=0,
  )
  c.data.max_tokens = 128
  c.data.validation = 0.1
  c.curate.samples = 2
  c.curate.fallback = 'drop'
  c.curate.max_new_tokens = 32
  c.hint.template = 'solution_first'
  c.hint.analysis = 'none'
  c.optim.lr = 5e-5
  c.train.batch = 8
  c.train.epochs = 2
  c.validation.every = 10
  c.validation.accuracy_every = 0
  c.evaluation.problems = 50
  c.evaluation.samples = 0
  c.evaluation.max_new_tokens = 32
  c.report.examples = 60
  c.scoring.rows = 8
  c.decoding.slots = 32
  c.checkpoint.every = 0
  c.log.every = 2


NAMES = {'smollm2': smollm2}


def apply(c: ml_collections.ConfigDict, name: str) -> None:
  """Changes the fields of a preset; '' changes none.

  Raises:
    ValueError: there is no such preset.
  """
  if not name:
    return
  if name not in NAMES:
    raise ValueError(f'there is no preset {name!r}; there are {", ".join(NAMES)}')
  NAMES[name](c)
  c.name = f'{c.name}-{name}'
