r"""Presets: the fields that a real model needs, by name.

python -m experiments.train --config configs/idft.py:NAME

A preset changes fields of idft.py. The command line changes them further:

python -m experiments.train --config configs/idft.py:qwen2.5-7b --check
python -m experiments.train --config configs/idft.py:qwen2.5-7b --workdir DIR \
    --config.data.path=my.jsonl
python -m experiments.train --config configs/idft.py:real --workdir DIR \
    --config.model.path=FOLDER_OR_ID --config.data.path=my.jsonl
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
  c.loss.gamma_max = 2.0     # as for real models
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


def real(c: ml_collections.ConfigDict) -> None:
  """Every field whose value in idft.py suits the embedded student alone.

  The recipe is the paper's where it has one; fields that it leaves open and that
  depend on the devices are chosen at the start, see `experiments.run.fitting`.
  Give the data: --config.data.path=FILE.
  """
  c.rounds = 1
  c.model.dtype = 'bfloat16'
  c.model.remat = 'auto'     # the least recomputation that fits
  c.data.name = ''           # no world of its own
  c.data.question = '{problem} Put the final answer in \\boxed{}.'
  c.data.max_tokens = 4096
  c.curate.max_new_tokens = 2048
  c.hint.template = 'worked_example'
  c.hint.max_analysis_tokens = 2048
  c.loss.gamma_max = 2.0     # the paper's, but for 1.5B parameters, where it is 1
  c.optim.lr = -1.0          # the paper's for the data: 6e-5, 8e-6 or 1e-6
  c.train.pack = True
  # Rows of 4,096 tokens: as many as some 256 solutions of 500 tokens, the authors'
  # larger batch. Two a chip of v5e-16.
  c.train.batch = 32
  c.train.micro_batches = 0  # as few as fit
  c.train.epochs = 3
  c.validation.every = 50
  c.validation.accuracy_every = 0  # no copy of the weights beside Adam's moments
  c.evaluation.problems = 200
  c.evaluation.max_new_tokens = 2048
  c.kl_to_base.max_new_tokens = 2048
  c.verifier.workers = 8
  c.decoding.slots = 0       # as many as fit, at most 256
  c.decoding.tensor = 0      # as few devices as hold the weights
  c.checkpoint.every = 200


# Presets that are `real` with a model's path.
MODELS = {
    'qwen2.5-0.5b': 'Qwen/Qwen2.5-0.5B-Instruct',
    'qwen2.5-1.5b': 'Qwen/Qwen2.5-1.5B-Instruct',
    'qwen2.5-7b': 'Qwen/Qwen2.5-7B-Instruct',
    'qwen3-1.7b': 'Qwen/Qwen3-1.7B',
    'qwen3-8b': 'Qwen/Qwen3-8B',
    'llama3.2-1b': 'meta-llama/Llama-3.2-1B-Instruct',
    'llama3.1-8b': 'meta-llama/Llama-3.1-8B-Instruct',
    'gemma3-1b': 'google/gemma-3-1b-it',
}
NAMES = ('smollm2', *MODELS, 'real')


def of_model(path: str) -> str:
  """Returns the preset of a model's path; 'real' for one without, '' embedded.

  Example:
    >>> of_model('Qwen/Qwen3-8B'), of_model('smollm2'), of_model('embedded')
    ('qwen3-8b', 'smollm2', '')
  """
  known = {'embedded': '', 'smollm2': 'smollm2'}
  return (known | {hub: name for name, hub in MODELS.items()}).get(path, 'real')


def apply(c: ml_collections.ConfigDict, name: str) -> None:
  """Changes the fields of a preset; '' changes none.

  Raises:
    ValueError: there is no such preset.
  """
  if not name:
    return
  if name not in NAMES:
    raise ValueError(f'there is no preset {name!r}; there are {", ".join(NAMES)}')
  if name == 'smollm2':
    smollm2(c)
  else:
    real(c)
    c.model.path = MODELS.get(name, '')
  c.name = f'{c.name}-{name}'
