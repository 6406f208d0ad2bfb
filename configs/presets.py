"""Presets: the fields that a real model needs, by name.

python -m experiments.train --config configs/idft.py:NAME

A preset changes fields of idft.py. The command line changes them further.
"""

import ml_collections


def smollm2(c: ml_collections.ConfigDict) -> None:
  """SmolLM2-135M-Instruct learns small sums, on two CPU cores.

  It keeps to no form of answer and to no task of rewriting. So its answer is read
  from its own way of speaking, "The answer to this problem is 7.", and it rewrites
  a solution at once, without an analysis.
  """
  c.rounds = 1
  c.model.path = 'smollm2'
  c.data.name = (
      'reasoning_gym:chain_sum:min_terms=2:max_terms=2:min_digits=1:max_digits=1')
  c.data.marker = ' is'
  c.data.max_tokens = 128
  c.data.gym = dict(
      problems=240,  # of which some 150 differ
      generalisation='chain_sum:min_terms=3:max_terms=3:min_digits=1:max_digits=1',
      retained='needle_haystack:min_num_statements=2:max_num_statements=3',
      seed=0,
  )
  c.curate.samples = 4
  c.curate.temperature = 0.7
  c.curate.max_new_tokens = 32
  # The references are the answer alone, which is no text of this model's.
  c.curate.fallback = 'drop'
  c.hint.template = 'solution_first'
  c.hint.analysis = 'none'
  c.optim.lr = 3e-5
  c.train.batch = 8
  c.train.epochs = 3
  c.validation.every = 10
  c.validation.accuracy_every = 0
  c.evaluation.problems = 50
  c.evaluation.samples = 2
  c.evaluation.max_new_tokens = 32
  c.report.examples = 50
  c.scoring.rows = 8
  c.decoding.slots = 64
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
