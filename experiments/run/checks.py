"""Every option of a training config is tried before any work."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import hinting
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import sampling
from ddt_jax import sharding
from ddt_jax import verify
from ddt_jax.data import batches
from ddt_jax.data import lengths
from ddt_jax.rounds import answers
from ddt_jax.rounds import select
from ddt_jax.training import distill
from ddt_jax.training import optimizer
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.vocab_head import divergences
from experiments.run import adapters

DTYPES = {  # by their usual names
    'float32': 'float32', 'fp32': 'float32', 'f32': 'float32',
    'bfloat16': 'bfloat16', 'bf16': 'bfloat16',
    'float16': 'float16', 'fp16': 'float16', 'half': 'float16',
}
OBJECTIVES = (*objectives.WEIGHTS, *pair_loss.NAMES, distill.NAME)
CHOICES = {
    'model.dtype': tuple(DTYPES),
    'model.remat': (*model.REMAT, 'auto'),
    'data.bad_rows': ('error', 'skip'),
    'data.overlong': lengths.OVERLONG,
    'curate.problems': select.PROBLEMS,
    'curate.fallback': select.FALLBACKS,
    'hint.analysis': answers.ANALYSES,
    'hint.schedule': hinting.SCHEDULES,
    'hint.order': sampling.ORDERS,
    'loss.name': OBJECTIVES,
    'loss.denominator': objectives.DENOMINATORS,
    'loss.weight_grad': objectives.WEIGHT_GRADS,
    'optim.schedule': optimizer.SCHEDULES,
    'decoding.cache_dtype': ('', *DTYPES, 'int8'),
    'train.mask_mode': batches.MASK_MODES,
    'train.across_rounds': ('restart', 'continue'),
    'reference.kind': reference.KINDS,
    'distill.responses': distill.RESPONSES,
    'distill.kind': divergences.KINDS,
    'checkpoint.export': ('last', 'best'),
}
# Values that leave a field open: `experiments.run.fitting` chooses at the start.
OPEN = {
    'optim.lr': -1, 'model.remat': 'auto', 'train.micro_batches': 0,
    'decoding.slots': 0, 'decoding.tensor': 0,
}
FINITE = sys.float_info.max
MANY = 2**31 - 1  # counts and seeds reach JAX as int32
RANGES = {  # least, most
    'seed': (0, MANY), 'rounds': (1, MANY),
    'train.batch': (1, MANY), 'train.epochs': (1, MANY),
    'train.max_steps': (0, MANY), 'validation.patience': (0, MANY),
    'train.micro_batches': (1, MANY), 'train.max_skipped_in_a_row': (1, MANY),
    'data.max_tokens': (2, MANY), 'data.validation': (0, 1),
    'data.evaluation': (0, 1), 'data.gym.problems': (1, MANY),
    'data.gym.seed': (0, MANY),
    'curate.project.sweeps': (0, MANY), 'curate.project.chains': (1, MANY),
    'curate.project.restarts': (0, 1),
    'curate.temperature': (0, FINITE), 'curate.min_phi': (-FINITE, FINITE),
    'hint.max_analysis_tokens': (1, MANY), 'hint.temperature': (0, FINITE),
    'curriculum.warmup_ratio': (0, 1), 'curriculum.transition_ratio': (0, 1),
    'optim.lr': (0, FINITE), 'optim.warmup_ratio': (0, 1),
    'optim.decay_ratio': (0, 1), 'optim.eps': (0, FINITE),
    'optim.weight_decay': (0, FINITE), 'optim.clip': (0, FINITE),
    'kl_to_base.problems': (0, MANY), 'kl_to_base.max_new_tokens': (1, MANY),
    'preference.beta': (1e-12, FINITE), 'preference.gamma': (0, FINITE),
    'preference.label_smoothing': (0, 0.5), 'preference.nll_weight': (0, FINITE),
    'reference.kl_weight': (0, FINITE), 'reference.every': (1, MANY),
    'reference.rate': (1e-12, 1),
    'distill.every': (1, MANY), 'distill.skip': (0, MANY),
    'validation.every': (0, MANY), 'validation.accuracy_every': (0, MANY),
    'validation.problems': (0, MANY), 'checkpoint.every': (0, MANY),
    'checkpoint.keep': (1, MANY), 'checkpoint.keep_every': (0, MANY),
    'log.every': (0, MANY), 'lora.rank': (0, MANY), 'lora.alpha': (1e-12, FINITE),
    'evaluation.problems': (0, MANY), 'evaluation.samples': (0, MANY),
    'evaluation.max_new_tokens': (1, MANY), 'evaluation.temperature': (0, FINITE),
    'verifier.workers': (1, MANY), 'verifier.timeout_s': (1e-3, 1e6),
    'scoring.rows': (1, MANY), 'scoring.tokens': (1, MANY),
    'decoding.slots': (1, MANY), 'report.examples': (1, MANY),
    'report.shown': (0, MANY), 'report.problems': (0, MANY),
}


def cache_dtype(name: str) -> str | None:
  """The value of decoding.cache_dtype for `engine.generate`; None: model.dtype."""
  return DTYPES.get(name, name) or None


def check_options(c, mesh: jax.sharding.Mesh) -> None:
  """Tries each option, on one token where it computes something.

  Raises:
    errors.InputError: naming the option.
  """
  for name, known in CHOICES.items():
    if (value := get(c, name)) not in known:
      raise errors.no_choice(name, value, known)
  for name, (least, most) in RANGES.items():
    value = get(c, name)
    if name in OPEN and value == OPEN[name]:
      continue
    if not least <= value <= most:  # NaN is in no range
      raise errors.InputError(
          f'{name}={value}: at least {least},'
          f' at most {most if isinstance(most, int) else format(most, "g")}')
  if not c.name or '\0' in c.name:
    raise errors.InputError(f'name={c.name!r} cannot name a folder')
  verify.check_kind(c.data.kind)
  distill.Distillation(**c.distill)
  if c.loss.name in pair_loss.NAMES:
    _check_pairs(c)
  elif c.loss.name == distill.NAME:
    _check_distillation(c)
  else:
    _check_token_loss(c)
  reference.Reference(**c.reference)
  left = {'lr': 0.0} if c.optim.lr == OPEN['optim.lr'] else {}
  optimizer.make(total_steps=1, **c.optim.to_dict() | left)
  select.Options(**c.curate)
  answers.check_sampling(
      'evaluation', c.evaluation.temperature, c.evaluation.top_p)
  if (rewriting := answers.Rewriting(**c.hint)).enabled:
    rewriting.prompt_template()
    if not c.curate.score:
      raise errors.InputError(
          'curate.score=False is for references alone, and hint.enabled rewrites'
          ' them: add --config.hint.enabled=False')
  _check_best(c)
  adapters.check(**c.lora)
  sharding.decoding_mesh(mesh, c.decoding.tensor or 1)
  # Each micro-batch is sharded by rows, so each device needs a whole number of
  # them.
  parts = (c.train.micro_batches or 1) * mesh.shape['data'] * mesh.shape['fsdp']
  if c.train.batch % parts:
    raise errors.InputError(
        f'train.batch={c.train.batch} is no multiple of {parts}, micro_batches'
        ' times the data and fsdp axes of the mesh'
    )


def _check_token_loss(c) -> None:
  """Computes the loss of one token."""
  one = ddt.token_stats(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), top_k=2)
  loss = objectives.pick(**c.loss)
  option = objectives.reference_option(loss['name'])
  objectives.token_loss(
      stats=one, mask=jnp.ones(1), **loss,
      **{option: one.log_p} if option else {})


def _check_best(c) -> None:
  """Raises InputError where nothing can be the best validation that is asked for."""
  for name, wanted in (
      ('checkpoint.export', c.checkpoint.export == 'best'),
      ('validation.patience', c.validation.patience > 0)):
    if wanted and c.loss.name != 'sft' and not (
        c.validation.accuracy_every and c.validation.problems):
      raise errors.InputError(
          f'{name}={get(c, name)}: with loss.name={c.loss.name} only accuracy says'
          ' which parameters are best, and validation.accuracy_every or'
          ' validation.problems is 0')
  for fits, why in (
      (c.validation.every, 'validation.every=0 validates never'),
      (c.loss.name != distill.NAME, 'the steps of distillation draw their own data,'
       ' and a round has all of them'),
      (c.train.across_rounds == 'restart' or c.rounds == 1,
       'train.across_rounds=continue plans the steps of all rounds')):
    if c.validation.patience and not fits:
      raise errors.InputError(f'validation.patience={c.validation.patience}: {why}')


def _check_pairs(c) -> None:
  """Computes the loss of one pair; refuses options that pairs do not have."""
  # The other options of token weights are tried as well: pairs do not read them.
  objectives.pick(**c.loss.to_dict() | {'name': 'sft'})
  pair_loss.Preference(c.loss.name, **c.preference)
  for name, fits, wanted in (
      ('curate.samples', c.curate.samples > 1, 'at least 2, a right and a wrong one'),
      ('curate.temperature', c.curate.temperature > 0,
       'above 0, or all answers to a problem are the same'),
      ('curate.min_phi', c.curate.min_phi <= -1e9, '-1e9: phi does not filter them'),
      ('curate.drop_lowest', not c.curate.drop_lowest, '0: phi does not filter them'),
      ('hint.enabled', not c.hint.enabled, 'False, since both are own answers'),
      ('train.pack', not c.train.pack, 'False'),
      ('train.mask_mode', c.train.mask_mode == 'correct', 'correct'),
      ('reference.kl_weight', not c.reference.kl_weight, '0'),
  ):
    if not fits:
      raise errors.InputError(
          f'{name}={get(c, name)}: pairs (loss.name={c.loss.name}) need {wanted};'
          f' configs/{c.loss.name}.py sets what they need')


def _check_distillation(c) -> None:
  """Raises InputError for options that distillation does not have."""
  if c.train.pack:
    raise errors.InputError(
        'train.pack=True: own responses of distillation are not packed')
  if c.reference.kl_weight:
    raise errors.InputError(
        f'reference.kl_weight={c.reference.kl_weight}: the loss of distillation is'
        ' a divergence already; reference.kind says which model is the teacher')


def get(c, name: str) -> Any:
  """The value of a field by its dotted name."""
  return functools.reduce(getattr, name.split('.'), c)
