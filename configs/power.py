r"""Power weights p^a in rounds: idft.py with an exponent that is constant.

python -m experiments.train --config configs/power.py --workdir DIR [--config.loss.a=10]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'power'
  return c
