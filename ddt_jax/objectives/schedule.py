"""The curriculum: how strongly IDFT acts at each step of training."""

import jax
import jax.numpy as jnp

_ROUNDING = 1e-6  # of step / total in float32


def curriculum(
    step: int | jax.Array,
    total: int | None,
    *,
    warmup_ratio: float,
    transition_ratio: float,
) -> jax.Array:
  r"""Strength lam of IDFT at a step: 0, then rising linearly, then 1.

  .. math:: \lambda = \mathrm{clip}((\mathrm{step}/\mathrm{total} - a) / b, 0, 1)

  for a warm-up ratio a and a transition ratio b. With b = 0 it jumps from 0 to 1
  at a. At lam = 0 IDFT is DFT, not SFT.

  Args:
    step: counted from 0 over the whole run, resumes included.
    total: steps of the run. None means lam = 1 at every step.
    warmup_ratio: a, the share of steps at lam = 0.
    transition_ratio: b, the share of steps over which lam rises.

  Returns:
    lam, float32 scalar in [0, 1].

  Example:
    >>> curriculum(3, 8, warmup_ratio=0.25, transition_ratio=0.5)
    Array(0.25, dtype=float32)

  Source: the official code of arXiv:2602.12222, whose count restarts on resume;
  this one does not.
  """
  if total is None:
    return jnp.float32(1.0)
  past = jnp.float32(step) / total - warmup_ratio
  # Rounding of step / total must not put the step at a ratio before it.
  past = jnp.where(jnp.abs(past) < _ROUNDING, 0.0, past)
  # A Python number, so this branch is taken when tracing; 0 / 0 would be NaN.
  if transition_ratio == 0:
    return jnp.where(past >= 0, 1.0, 0.0)
  return jnp.clip(past / transition_ratio, 0.0, 1.0)
