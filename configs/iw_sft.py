r"""Importance-weighted SFT in rounds: one weight a response, by p / p of the base.

python -m experiments.train --config configs/iw_sft.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'iw_sft'
  return c
