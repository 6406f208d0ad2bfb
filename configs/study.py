r"""Methods x learning rates x seeds on the embedded student: the study.

python -m experiments.study --config configs/study.py [--workdir DIR]
python -m experiments.study --config configs/study.py:quick    # minutes, to try it
python -m experiments.study --config configs/study.py:smollm2  # a real model

Each cell is one round on the same problems. Its corpus is made once for each seed,
by the model before training, and shared by all methods that train on it.
"""

import ml_collections

from configs import idft

# Half decades; pairs need smaller ones.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
PAIR_RATES = (1e-5, 3e-5, 1e-4, 3e-4)


# Hands besides the bookkeeper's, who writes the corpus `given`.
HANDS = ('own', 'mixed', 'visited', 'shared', 'stranger')
OFFICIAL = 2.0  # gamma_max of the official code; configs/idft.py has 1
STRENGTHS = (0, 1, 6)  # of the hint, beside its default of 3
PHASE = (('sft', 'idft'), *((f'sft_{h}', f'idft_{h}') for h in HANDS))


def get_config(preset=''):
  c = ml_collections.ConfigDict()
  c.name = 'study'      # its folder is runs/<name> unless --workdir is given
  c.problems = 2000     # training problems of a seed, another draw for each
  c.seeds = 2           # of every method at every rate
  c.more_seeds = 5      # of the main methods, at the chosen rate and its neighbours
  c.rates = RATES       # of methods without rates of their own
  c.main = (
      'sft', 'sft_kl', 'idft', 'idft_gamma1', 'rft', 'hd_sft', 'hd_idft',
      'hd_idft_gamma1', 'sdft', 'dpo')  # they run first, at all their rates
  c.corpora = corpora() | hands() | strengths()
  c.methods = methods() | variants() | phase() | ablations()
  bound(c)
  c.phase = PHASE       # (SFT, IDFT) on the same corpus: the phase diagram
  c.run = run()
  if preset == 'quick':
    quick(c)
  elif preset == 'smollm2':
    smollm2(c)
  elif preset:
    raise ValueError(f'there is no preset {preset!r}; choose quick or smollm2')
  return c


def run(preset=''):
  """What all cells share: fields of configs/idft.py."""
  c = idft.get_config(preset)
  c.rounds = 1
  c.loss.gamma_max = OFFICIAL
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
      # Both, as in configs/idft.py: own right answers, else a rewriting, else the
      # reference.
      curated=dict(curate=dict(fallback='reference')),
      # Rewritten references, moved by chains towards the model's own right answers.
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
      rft=dict(config='sft', corpus='own'),
      hd_sft=dict(config='sft', corpus='hinted'),
      hd_idft=dict(config='idft', corpus='hinted'),
      hd_idft_gamma1=dict(
          config='idft', corpus='hinted', set=dict(loss=dict(gamma_max=1.0))),
      curated_sft=dict(config='sft', corpus='curated'),
      curated_idft_gamma1=dict(
          config='idft', corpus='curated', set=dict(loss=dict(gamma_max=1.0))),
      projected_sft=dict(config='sft', corpus='projected'),
      sdft=dict(config='sdft', corpus=''),
      sdft_frozen=dict(
          config='sdft', corpus='', set=dict(reference=dict(kind='frozen'))),
      opsd=dict(config='opsd', corpus=''),
      dpo=dict(config='dpo', corpus='pairs', rates=PAIR_RATES),
      simpo=dict(config='simpo', corpus='pairs', rates=PAIR_RATES),
  )


def variants():
  """IDFT on the given solutions with other options.

  The last three are answers to its sharpening of natural tokens.
  """
  changes = dict(
      idft_curriculum=dict(curriculum=dict(warmup_ratio=0.2, transition_ratio=0.1)),
      idft_gamma1=dict(loss=dict(gamma_max=1.0)),
      idft_information=dict(loss=dict(name='idft_information')),
      idft_z=dict(loss=dict(name='idft_z')),
      idft_kl=dict(reference=dict(kl_weight=0.1)))
  return {name: dict(config='idft', corpus='given', set=sections)
          for name, sections in changes.items()}


def bound(c):
  """Gives methods the official bound of IDFT's exponent, where they name none."""
  for name, method in c.methods.items():
    sections = method.get('set', {})
    loss = dict(gamma_max=OFFICIAL) | dict(sections.get('loss', {}))
    c.methods[name] = dict(method) | dict(set=dict(sections) | dict(loss=loss))


def strengths():
  """Corpora of Hinted Decoding at other strengths of the hint."""
  hinted = corpora()['hinted']
  return {f'hinted_{beta}': hinted | dict(hint=dict(beta=float(beta)))
          for beta in STRENGTHS}


def hands():
  """Corpora of solutions from on-policy to far off, see ddt_jax/embedded/hands.py.

  And hints that are false, to see how often they are copied.
  """
  given = corpora()['given']
  return {f'hand_{hand}': given | dict(hand=hand) for hand in HANDS} | dict(
      false_hints=corpora()['hinted'] | dict(mistaken=True))


def phase():
  """SFT and IDFT on each hand."""
  return {
      f'{config}_{hand}': dict(config=config, corpus=f'hand_{hand}')
      for hand in HANDS for config in ('sft', 'idft')}


def ablations():
  """One thing changed in the method `at`, at its chosen rate, with one seed."""
  def changed(at, config, corpus='given', **sections):
    return dict(at=at, config=config, corpus=corpus, set=sections)

  def hinted(beta):
    return changed('hd_sft', 'sft', f'hinted_{beta}')

  return {
      **{f'phi_mask_{bound}': changed(
          'phi_mask', 'phi_mask', loss=dict(bound=float(bound)))
         for bound in (1, 3, 10)},
      'phi_mask_one_sided': changed(
          'phi_mask', 'phi_mask', loss=dict(one_sided=True)),
      'idft_gamma_min0': changed('idft', 'idft', loss=dict(gamma_min=0.0)),
      'idft_gamma_max4': changed('idft', 'idft', loss=dict(gamma_max=4.0)),
      'idft_beta_half': changed('idft', 'idft', loss=dict(beta=0.5)),
      'idft_beta2': changed('idft', 'idft', loss=dict(beta=2.0)),
      'idft_through': changed('idft', 'idft', loss=dict(weight_grad='through')),
      'idft_official_mask': changed(
          'idft', 'idft', train=dict(mask_mode='official')),
      **{f'hd_beta{beta}': hinted(beta) for beta in STRENGTHS},
      'hd_false_hints': changed('hd_sft', 'sft', 'false_hints'),
  }


def quick(c):
  """Few problems, two rates, one seed: every part of the study in minutes."""
  c.problems, c.seeds, c.more_seeds = 192, 1, 1
  c.rates = (3e-4, 1e-3)
  for name in ('dpo', 'simpo'):
    c.methods[name].rates = (3e-5, 1e-4)
  keep(c, c.main)
  c.run.evaluation.problems, c.run.validation.problems = 32, 64
  c.run.kl_to_base.problems, c.run.report.examples = 16, 64


def smollm2(c):
  """A cut-down frontier of SmolLM2 on small sums; references in a foreign style.

  Nothing is sampled during training. Hinted Decoding without an analysis, as this
  model follows no rewriting task.
  """
  c.name = 'study-smollm2'
  c.problems, c.seeds, c.more_seeds = 128, 2, 2
  c.rates = (1e-5, 3e-5, 1e-4)
  keep(c, ('sft', 'sft_kl', 'idft', 'idft_gamma1', 'rft', 'hd_sft'))
  c.run = run('smollm2')
  c.run.train.batch, c.run.train.epochs = 8, 2
  c.run.evaluation.problems, c.run.evaluation.samples = 32, 4
  c.run.validation.problems = 16
  c.run.kl_to_base.problems, c.run.report.examples = 16, 64
  c.run.kl_to_base.max_new_tokens = 32
  c.corpora.given.text = (
      'Ledger of {problem}; entry closed, balance carried forward is {answer}')


def keep(c, names):
  """Leaves these methods, and the corpora that they train on."""
  c.main, c.phase = tuple(names), ()
  c.methods = {name: c.methods[name].to_dict() for name in names}
  used = {c.methods[name].corpus for name in names}
  c.corpora = {k: v.to_dict() for k, v in c.corpora.items() if k in used}
