r"""DPO in rounds: right answers of the model preferred to its own wrong ones.

python -m experiments.train --config configs/dpo.py --workdir DIR \
    [--config.curate.samples=16] [--config.preference.nll_weight=1]

pass@1 in %: target 51.0 -> 38.0, generalisation 31.0 -> 15.3, retained 96.3 -> 95.3
(300 problems each); experiments/README.md says why.
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name = c.loss.name = 'dpo'
  c.curate.samples = 8
  c.hint.enabled = False  # both sides of a pair are the model's own answers
  c.optim.lr = c.optim.lr if preset else 1e-4
  c.train.pack = False  # pairs are not packed
  return c
