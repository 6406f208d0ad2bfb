r"""SFT with a KL to the base model, in rounds: the baseline to beat on forgetting.

python -m experiments.train --config configs/sft_kl.py --workdir DIR \
    [--config.reference.kl_weight=1]
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'sft_kl', 'sft'
  c.reference.kl_weight = 0.1
  return c
