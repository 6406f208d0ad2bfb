r"""OPSD: a fixed teacher that has read the solution; JSD, clipped at each token.

python -m experiments.train --config configs/opsd.py --workdir DIR \
    [--config.distill.skip=8] [--config.distill.most_entropy=1]

The teacher is the model before training. The authors draw at
--config.curate.temperature=1.1. Source: arXiv:2601.18734. Analyses: see sdft.py.
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'opsd', 'distill'
  c.distill.kind, c.distill.clip = 'jsd', 0.05
  if preset:
    c.hint.analysis = 'none'
  c.train.pack = False  # own responses are not packed
  return c
