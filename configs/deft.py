r"""DEFT in rounds: p^C with the collision probability C of the whole distribution.

python -m experiments.train --config configs/deft.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'deft'
  return c
