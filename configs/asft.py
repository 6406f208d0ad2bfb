r"""ASFT in rounds: DFT and a KL over the whole vocabulary to the base model.

python -m experiments.train --config configs/asft.py --workdir DIR
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'asft', 'dft'
  c.reference.kl_weight = 0.1
  return c
