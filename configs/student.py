"""The embedded student, pre-trained from nothing on its world's text.

python -m experiments.pretrain_student --config configs/student.py --out DIR
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.model = dict(
      width=128, mlp_width=256, num_layers=3, num_heads=4, num_kv_heads=2,
      max_positions=1024, rope_theta=10000.0, init_std=0.07,
  )
  c.text = dict(answers=120_000, books=20_000, rewrites=5_000)
  # lr: of Muon, on the layers' matrices; adam_lr: of everything else.
  c.optim = dict(
      lr=1e-2, adam_lr=3e-3, warmup_ratio=0.05, tokens_per_batch=6144,
      weight_decay=0.05, clip=1.0,
  )
  c.evaluation = dict(problems_each=1000, samples=4)
  return c
