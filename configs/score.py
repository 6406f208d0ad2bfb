r"""Is this data on-policy for my model? Scores of any prompts and responses.

python -m experiments.score --config configs/score.py \
    --config.data.path=my.jsonl [--config.model.path=DIR] [--workdir DIR]

Several inputs side by side: --config.data.paths=a.jsonl,b.jsonl,own
The self-test, before anybody trusts a score: --config.calibrate=True
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.name = 'score'
  c.seed = 0
  c.model = dict(path='embedded', dtype='float32', remat='none')
  # path, or paths with commas between; 'own' among them is the model's own
  # samples. max_tokens: 0 is the model's context. overlong: truncate | drop |
  # error; bad_rows: error | skip. source: a column to tell apart by.
  c.data = dict(
      path='', paths='',
      columns=dict(problem='problem', solution='solution', messages='messages'),
      source='source', question='{problem}', bad_rows='error', max_tokens=0,
      overlong='truncate',
  )
  # Of the distribution that is scored, and of own samples.
  c.temperature = 1.0
  c.own = dict(samples=1000, max_new_tokens=256)
  # lengths: of texts on which the tests' false positives are counted. controls:
  # the samples must fail under weights with so much noise, and shifted by one.
  c.calibrate = False
  c.calibration = dict(
      samples=2000, lengths=(16, 64, 256), controls=False, noise=0.05)
  # Together: so many tokens with their padding, at least so many rows; times
  # the data and fsdp axes of the mesh. shard: rows that a kill can cost.
  c.batch = dict(tokens=4096, rows=1)
  c.shard = 2048
  c.write = dict(prefix='ddt_')
  # On the page, of all corpora together; of each, so many tokens at most.
  c.report = dict(examples=1000, tokens=400)
  c.mesh = dict(data=1, fsdp=-1, tensor=1)
  c.decoding = dict(slots=256, tensor=1)
  return c
