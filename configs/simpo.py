r"""SimPO in rounds: DPO's pairs, mean log-probabilities and no reference.

python -m experiments.train --config configs/simpo.py --workdir DIR \
    [--config.preference.beta=2.5] [--config.preference.gamma=1.25]
"""

from configs import dpo


def get_config(preset=''):
  c = dpo.get_config(preset)
  c.name = c.loss.name = 'simpo'
  c.preference.beta = 2.0
  return c
