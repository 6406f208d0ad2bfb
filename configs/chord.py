r"""CHORD weights p (1 - p) in rounds: tokens that the model is undecided about.

python -m experiments.train --config configs/chord.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'chord'
  return c
