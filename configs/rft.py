r"""Rejection sampling: SFT on the model's own right answers, in rounds.

python -m experiments.train --config configs/rft.py --workdir DIR \
    [--config.curate.samples=8] [--config.curate.keep=2]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'rft', 'sft'
  c.curate.samples = 4
  c.curate.fallback = 'drop'
  c.hint.enabled = False
  return c
