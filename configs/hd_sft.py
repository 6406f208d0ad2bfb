r"""Hinted Decoding of every reference, and SFT on what is right, in rounds.

python -m experiments.train --config configs/hd_sft.py --workdir DIR \
    [--config.loss.name=idft] [--config.hint.beta=0]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'hd_sft', 'sft'
  c.curate.samples = 0
  c.curate.fallback = 'drop'
  return c
