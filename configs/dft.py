r"""DFT in rounds: idft.py with each token weighed by its probability.

python -m experiments.train --config configs/dft.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'dft'
  return c
