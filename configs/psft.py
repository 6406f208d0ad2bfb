r"""Proximal SFT in rounds: PPO's clipped ratio to the parameters of 8 steps ago.

python -m experiments.train --config configs/psft.py --workdir DIR \
    [--config.reference.every=8]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'psft'
  c.reference.kind = 'refreshed'
  return c
