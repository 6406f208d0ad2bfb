r"""SDFT: the model learns from itself after it has read the solution.

python -m experiments.train --config configs/sdft.py --workdir DIR \
    [--config.reference.kind=frozen]

Forward KL on the student's own responses, fresh every step; the teacher is a moving
average of the student. Source: arXiv:2601.19897. The embedded student analyses a
solution first, as it was trained to; without that it learns to answer with analyses.
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'sdft', 'distill'
  c.reference.kind, c.reference.rate = 'ema', 0.01
  if preset:
    c.hint.analysis = 'none'
  c.train.pack = False  # own responses are not packed
  return c
