r"""Methods x learning rates x seeds on the embedded student: the study.

python -m experiments.study --config configs/study.py [--workdir DIR]
python -m experiments.study --config configs/study.py:quick   # minutes, to try it

Each cell is one round on the same problems. Its corpus is made once for each seed,
by the model before training, and shared by all methods that train on it.
"""

import ml_collections

from configs import idft

# Half decades; pairs need smaller ones.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
PAIR_RATES = (1e-5, 3e-5, 1e-4, 3e-4)


def get_config(preset=''):
  c = ml_collections.ConfigDict()
  c.name = 'study'
  c.problems = 2000     # training problems of a seed, another draw for each
  c.seeds = 2           # of every method at every rate
  c.more_seeds = 5      # of the main methods, at the chosen rate and its neighbours
  c.rates = RATES       # of methods without rates of their own
  c.main = ('sft', 'sft_kl', 'idft', 'rft', 'hd_sft', 'hd_idft', 'sdft', 'dpo')
  c.corpora = corpora()
  c.methods = methods()
  c.run = run()
  if preset == 'quick':
    quick(c)
  elif preset:
    raise ValueError(f'there is no preset {preset!r}; choose quick, or none')
  return c


def run():
  """What all cells share: fields of configs/idft.py."""
  c = idft.get_config()
  c.rounds = 1
  c.curate.problems = 'epochs'
  c.evaluation.problems, c.evaluation.samples = 128, 16  # pass@k for k up to 16
  c.validation.every = c.validation.accuracy_every = 10**6  # at the end alone
  c.kl_to_base.problems = 64
  c.report.examples, c.report.shown, c.report.problems = 500, 0, 0
  c.log.every, c.log.tensorboard = 2, False
  c.checkpoint.every, c.checkpoint.keep = 10**6, 1  # a cell is short: at its end alone
  return c


def corpora():
  """Name -> fields of configs/idft.py that differ; made by the untouched model."""
  none = dict(samples=0, fallback='drop')
  return dict(
      # The reference solutions as they are.
      given=dict(
          curate=dict(samples=0, fallback='reference'), hint=dict(enabled=False)),
      # Right answers of the model's own; what it cannot solve is left out.
      own=dict(curate=dict(samples=4, fallback='drop'), hint=dict(enabled=False)),
      # Every reference rewritten by Hinted Decoding; wrong ones are left out.
      hinted=dict(curate=none),
      # The same, then moved by chains towards the model's own right answers.
      projected=dict(curate=none | dict(project=dict(sweeps=4, chains=1))),
      # Right against wrong answers of the model's own.
      pairs=dict(
          loss=dict(name='dpo'), curate=dict(samples=8, fallback='drop'),
          hint=dict(enabled=False)),
  )


def methods():
  """Name -> its config, the corpus ('': own responses during training), changes.

  A method takes the sections loss, preference, reference, distill and curriculum
  of configs/CONFIG.py, and distillation the sections curate and hint as well.
  """
  return dict(
      sft=dict(config='sft', corpus='given'),
      sft_kl=dict(config='sft_kl', corpus='given'),
      dft=dict(config='dft', corpus='given'),
      eaft=dict(config='eaft', corpus='given'),
      asft=dict(config='asft', corpus='given'),
      phi_mask=dict(config='phi_mask', corpus='given'),
      idft=dict(config='idft', corpus='given'),
      idft_curriculum=dict(
          config='idft', corpus='given', set=dict(
              curriculum=dict(warmup_ratio=0.2, transition_ratio=0.1))),
      idft_gamma1=dict(
          config='idft', corpus='given', set=dict(loss=dict(gamma_max=1.0))),
      rft=dict(config='sft', corpus='own'),
      hd_sft=dict(config='sft', corpus='hinted'),
      hd_idft=dict(config='idft', corpus='hinted'),
      projected_sft=dict(config='sft', corpus='projected'),
      sdft=dict(config='sdft', corpus=''),
      sdft_frozen=dict(
          config='sdft', corpus='', set=dict(reference=dict(kind='frozen'))),
      opsd=dict(config='opsd', corpus=''),
      dpo=dict(config='dpo', corpus='pairs', rates=PAIR_RATES),
      simpo=dict(config='simpo', corpus='pairs', rates=PAIR_RATES),
  )


def quick(c):
  """Few problems, two rates, one seed: every part of the study in minutes."""
  c.problems, c.seeds, c.more_seeds = 192, 1, 1
  c.rates = (3e-4, 1e-3)
  for name in ('dpo', 'simpo'):
    c.methods[name].rates = (3e-5, 1e-4)
  for name in [name for name in c.methods if name not in c.main]:
    del c.methods[name]
  del c.corpora['projected']
  c.run.evaluation.problems, c.run.validation.problems = 32, 64
  c.run.kl_to_base.problems, c.run.report.examples = 16, 64
