r"""SFT on the reference solutions: reference.py with another token weight.

python -m experiments.train --config configs/sft.py --workdir DIR
"""

from configs import reference


def get_config():
  c = reference.get_config()
  c.name = c.loss.name = 'sft'
  return c
