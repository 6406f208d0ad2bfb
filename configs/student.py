"""The embedded student, pre-trained from random weights on its world's texts.

python -m experiments.pretrain_student --config configs/student.py --out DIR
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.seed = 0  # of the random weights, the texts and their order
  c.model = dict(              # Qwen2 with a tied head
      width=128,               # of the hidden states
      mlp_width=256,           # of the MLP's hidden layer
      num_layers=3,            # blocks
      num_heads=4,             # of queries
      num_kv_heads=2,          # of keys and values
      max_positions=1024,      # tokens of a context
      rope_theta=10000.0,      # base of the rotary frequencies
      init_std=0.07,           # standard deviation of the random weights
  )
  c.text = dict(               # number of chats by kind, see embedded/problems.py
      answers=120_000,         # stories and skills, in the student's own style
      books=20_000,            # stories in the bookkeeper's style, on request
      rewrites=5_000,          # tasks of rewriting, as in Hinted Decoding
  )
  c.optim = dict(
      lr=1e-2,                 # of Muon, for the matrices of the layers
      adam_lr=3e-3,            # of Adam, for all other parameters
      warmup_ratio=0.05,       # share of the steps
      tokens_per_batch=6144,   # padding included
      weight_decay=0.05,       # decoupled
      clip=1.0,                # of the gradient's global norm
  )
  c.evaluation = dict(
      problems_each=1000,      # of each split
      samples=4,               # answers to a problem
  )
  return c
