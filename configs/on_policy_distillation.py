r"""On-policy distillation: another model with the same tokenizer is the teacher.

python -m experiments.train --config configs/on_policy_distillation.py \
    --config.distill.teacher=FOLDER --workdir DIR

Reverse KL on the student's own responses. The teacher reads the problem alone; with
--config.distill.hint=True the solution, too. The default teacher is a run of
configs/idft.py. Source: arXiv:2306.13649.
"""

from configs import idft


def get_config(preset=''):
  c = idft.get_config(preset)
  c.name, c.loss.name = 'on_policy_distillation', 'distill'
  c.distill.teacher, c.distill.hint = 'runs/idft/model', False
  c.distill.kind = 'reverse'
  c.hint.analysis = 'none'
  c.train.pack = False  # own responses are not packed
  return c
