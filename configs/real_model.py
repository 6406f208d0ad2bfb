r"""IDFT on a real model: idft.py but for what suits the embedded student alone.

python -m experiments.train --config configs/real_model.py --workdir DIR \
    --config.model.path=MODEL --config.data.path=my.jsonl

For an accelerator. The README lists the same options (recipe 3).
"""

from configs import idft


def get_config():
  c = idft.get_config()
  c.name = 'real_model'
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.data.max_tokens = 2048
  c.data.question = '{problem} Put the final answer in \\boxed{}.'
  c.curate.max_new_tokens = 1024
  c.evaluation.max_new_tokens = 1024
  c.hint.template = 'worked_example'
  c.hint.max_analysis_tokens = 1024
  c.optim.lr = 1e-5
  return c
