r"""DFT on the reference solutions: reference.py with another token weight.

python -m experiments.train --config configs/dft.py --workdir DIR
"""

from configs import reference


def get_config():
  c = reference.get_config()
  c.name = c.loss.name = 'dft'
  return c
