r"""IDFT on the reference solutions: one round of idft.py, nothing sampled.

python -m experiments.train --config configs/reference.py --workdir DIR \
    [--config.loss.name=sft]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = 'reference'
  c.rounds = 1
  c.curate.samples = 0
  c.curate.fallback = 'reference'
  c.hint.enabled = False
  return c
