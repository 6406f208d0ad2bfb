"""AdamW with a schedule and clipping: one optax chain."""

from collections.abc import Callable
from typing import Any

import jax
import optax

SCHEDULES = ('cosine', 'wsd', 'constant')


def make(
    *,
    total_steps: int,
    lr: float,
    schedule: str = 'cosine',
    warmup_ratio: float = 0.1,
    decay_ratio: float = 0.2,
    first_step: int = 0,
    updates: int = 0,
    **adamw: Any,
) -> tuple[Callable[[jax.Array], jax.Array], optax.GradientTransformation]:
  """The schedule and the optimizer that follows it; see the two below.

  Args:
    first_step: of the schedule, for an optimizer that has made `updates` already
      and goes on with another schedule; the rate is one of its count of updates.
    updates: see first_step.
    total_steps, lr, schedule, warmup_ratio, decay_ratio: see `make_schedule`.
    **adamw: see `make_optimizer`.
  """
  whole = make_schedule(
      total_steps=total_steps, lr=lr, schedule=schedule,
      warmup_ratio=warmup_ratio, decay_ratio=decay_ratio,
  )

  def rate(count):
    return whole(count + first_step - updates)

  return rate, make_optimizer(rate, **adamw)


def make_schedule(
    *,
    total_steps: int,
    lr: float,
    schedule: str = 'cosine',
    warmup_ratio: float = 0.1,
    decay_ratio: float = 0.2,
) -> Callable[[jax.Array], jax.Array]:
  """Learning rate by step: a linear warm-up from 0, then `schedule`.

  Args:
    total_steps: of the run.
    lr: peak rate.
    schedule: cosine (to 0) | wsd (warm-up, stable, linear decay to 0) |
      constant.
    warmup_ratio: share of the steps; the first step's rate is 0 if there is a
      warm-up.
    decay_ratio: share of the steps that wsd decays over.

  Raises:
    ValueError: unknown schedule, or shares that do not fit.
  """
  if schedule not in SCHEDULES:
    raise ValueError(f'optim.schedule {schedule!r}: choose from {SCHEDULES}')
  tail = decay_ratio if schedule == 'wsd' else 0.0
  if not 0 <= tail <= 1 - warmup_ratio <= 1:
    raise ValueError(
        f'optim.warmup_ratio {warmup_ratio} and decay_ratio {tail} leave no step'
    )
  warmup = int(total_steps * warmup_ratio)
  rest = max(total_steps - warmup, 1)
  decay = max(int(total_steps * decay_ratio), 1)
  after = {
      'cosine': optax.cosine_decay_schedule(lr, rest),
      'constant': optax.constant_schedule(lr),
      'wsd': optax.linear_schedule(lr, 0.0, decay, max(rest - decay, 0)),
  }[schedule]
  return optax.join_schedules(
      [optax.linear_schedule(0.0, lr, max(warmup, 1)), after], [warmup]
  )


def make_optimizer(
    schedule: Callable[[jax.Array], jax.Array],
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip: float = 1.0,
) -> optax.GradientTransformation:
  """Clipping by the global norm, then AdamW.

  Args:
    schedule: step -> learning rate.
    b1, b2, eps: Adam's.
    weight_decay: decoupled, on every parameter, as the paper's recipe has it.
    clip: global norm of the gradient; 0 does not clip.
  """
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)
  if not clip:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip), adamw)
