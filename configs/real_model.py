r"""IDFT on a real model: idft.py but for what suits the embedded student alone.

python -m experiments.train --config configs/real_model.py --workdir DIR \
    --config.model.path=MODEL --config.data.path=my.jsonl

For a TPU or a GPU. MODEL: folder or Hugging Face id. Long texts need memory: lower
data.max_tokens, and the three limits of new tokens, where it runs out.
"""

from configs import idft


def get_config():
  c = idft.get_config()
  c.name = 'real_model'
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.data.max_tokens = 4096
  c.data.question = '{problem} Put the final answer in \\boxed{}.'
  c.curate.max_new_tokens = 2048
  c.evaluation.max_new_tokens = 2048
  c.hint.template = 'worked_example'
  c.hint.max_analysis_tokens = 2048
  c.optim.lr = 1e-5
  return c
