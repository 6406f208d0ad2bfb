r"""IDFT without the tokens of extreme phi, in rounds.

python -m experiments.train --config configs/phi_mask.py --workdir DIR \
    [--config.loss.one_sided=true]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'phi_mask'
  return c
