r"""EAFT in rounds: each token weighed by the entropy of the likeliest tokens.

python -m experiments.train --config configs/eaft.py --workdir DIR [--config.loss.k=0]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'eaft'
  return c
