r"""SFT in rounds: idft.py with all token weights 1.

python -m experiments.train --config configs/sft.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'sft'
  return c
