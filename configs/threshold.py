r"""Only tokens with p >= q in rounds, divided by their number.

python -m experiments.train --config configs/threshold.py --workdir DIR \
    [--config.loss.q=0.1] [--config.loss.keep_p=true]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'threshold'
  c.loss.denominator = 'kept'
  return c
