"""AdamW with a learning-rate schedule and clipping, as one optax chain."""

from collections.abc import Callable

import jax
import optax

from ddt_jax import errors

SCHEDULES = ('cosine', 'wsd', 'constant')

Schedule = Callable[[jax.Array], jax.Array]


def make(
    *,
    total_steps: int,
    lr: float,
    schedule: str = 'cosine',
    warmup_ratio: float = 0.1,
    decay_ratio: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    first_step: int = 0,
    updates: int = 0,
) -> tuple[Schedule, optax.GradientTransformation]:
  """Builds the schedule and the optimizer that follows it.

  All arguments but total_steps, first_step and updates are the config's section:
  `make(total_steps=n, **c.optim)`.

  Args:
    total_steps, lr, schedule, warmup_ratio, decay_ratio: see `make_schedule`.
    b1, b2, eps, weight_decay, clip: see `make_optimizer`.
    first_step: step of the schedule at which this optimizer starts.
    updates: updates that its state has applied already. Optax indexes a schedule
      by its own count of updates, so that count is shifted by `updates`.

  Returns:
    (rate, optimizer): the learning rate by count of updates, and the optimizer.

  Raises:
    errors.InputError: an option is unknown or out of range.

  Example:
    >>> rate, _ = make(total_steps=10, lr=1.0, schedule='constant', warmup_ratio=0.2)
    >>> [float(rate(count)) for count in range(4)]
    [0.0, 0.5, 1.0, 1.0]
  """
  whole = make_schedule(
      total_steps=total_steps, lr=lr, schedule=schedule,
      warmup_ratio=warmup_ratio, decay_ratio=decay_ratio,
  )

  def rate(count):
    return whole(count + first_step - updates)

  # `rate` is optax's schedule and the loop's log: both show the same number.
  return rate, make_optimizer(
      rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, clip=clip
  )


def make_schedule(
    *,
    total_steps: int,
    lr: float,
    schedule: str = 'cosine',
    warmup_ratio: float = 0.1,
    decay_ratio: float = 0.2,
) -> Schedule:
  """Builds the learning rate by step: linear warm-up from 0, then `schedule`.

  Args:
    total_steps: steps of the run.
    lr: peak rate.
    schedule: cosine (to 0), wsd (stable, then linear decay to 0) or constant.
    warmup_ratio: share of the steps for the warm-up. With a warm-up, the rate of
      the first step is 0.
    decay_ratio: share of the steps for the decay of wsd; others ignore it.

  Returns:
    step -> learning rate.

  Raises:
    errors.InputError: an unknown schedule, a negative rate, or shares that leave
      no step.
  """
  if schedule not in SCHEDULES:
    raise errors.no_choice('optim.schedule', schedule, SCHEDULES)
  if not lr >= 0:
    raise errors.InputError(f'optim.lr {lr} is negative')
  # One config serves all schedules, so cosine may carry a decay_ratio unread.
  tail = decay_ratio if schedule == 'wsd' else 0.0
  if not 0 <= tail <= 1 - warmup_ratio <= 1:
    raise errors.InputError(
        f'optim.warmup_ratio {warmup_ratio} and decay_ratio {tail} leave no step:'
        ' shares are in [0, 1], and their sum too'
    )
  # At least 1 for each below: optax refuses a cosine over 0 steps.
  warmup = int(total_steps * warmup_ratio)
  rest = max(total_steps - warmup, 1)
  decay = max(int(total_steps * decay_ratio), 1)
  after = {
      'cosine': optax.cosine_decay_schedule(lr, rest),
      'constant': optax.constant_schedule(lr),
      'wsd': optax.linear_schedule(lr, 0.0, decay, max(rest - decay, 0)),
  }[schedule]
  # `after` counts from 0 at the end of the warm-up.
  return optax.join_schedules(
      [optax.linear_schedule(0.0, lr, max(warmup, 1)), after], [warmup]
  )


def make_optimizer(
    schedule: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip: float = 1.0,
) -> optax.GradientTransformation:
  """Builds AdamW after clipping by the global norm.

  Args:
    schedule: count of updates -> learning rate.
    b1, b2: decay rates of Adam's moments, in [0, 1).
    eps: added to the root of the second moment, > 0.
    weight_decay: decoupled, on every parameter, as in the paper's recipe.
    clip: largest global norm of the gradient; 0 switches clipping off.

  Raises:
    errors.InputError: an option is out of range.
  """
  for name, value, fits in (
      ('b1', b1, 0 <= b1 < 1), ('b2', b2, 0 <= b2 < 1), ('eps', eps, eps > 0),
      ('weight_decay', weight_decay, weight_decay >= 0), ('clip', clip, clip >= 0),
  ):
    if not fits:
      raise errors.InputError(f'optim.{name} {value} is out of range')
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)
  if not clip:
    return adamw
  # Clipping first: Adam's moments then never see an outlier.
  return optax.chain(optax.clip_by_global_norm(clip), adamw)
