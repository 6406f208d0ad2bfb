"""Options of an objective: the keyword arguments of its function in `schemes`."""

import inspect
from typing import Any

from ddt_jax import errors
from ddt_jax.objectives import schemes

COMMON = ('denominator', 'weight_grad')  # options of `token_loss` for any objective


def options_of(name: str) -> dict[str, Any]:
  """Options of an objective, with their defaults.

  Args:
    name: a key of `WEIGHTS`.

  Returns:
    {option: default}; `inspect.Parameter.empty` where there is no default.

  Raises:
    errors.InputError: an unknown name.

  Example:
    >>> options_of('idft')
    {'beta': 1.0, 'gamma_min': 0.1, 'gamma_max': 2.0, 'curriculum': 1.0}
  """
  if name not in schemes.WEIGHTS:
    raise errors.no_choice('loss.name', name, sorted(schemes.WEIGHTS))
  # From the signature, so that a new scheme is declared in one place.
  parameters = inspect.signature(schemes.WEIGHTS[name]).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def traced_options(name: str, **offered: Any) -> dict[str, Any]:
  """Returns the offered values that are options of this objective.

  A training step offers the values that it computes at each step. `idft` has the
  option `curriculum`, `sft` has none.

  Args:
    name: a key of `WEIGHTS`.
    **offered: values by option, which may be traced.

  Returns:
    {option: value}, a part of `offered`.

  Raises:
    errors.InputError: an unknown name.

  Example:
    >>> traced_options('idft', curriculum=0.5), traced_options('sft', curriculum=0.5)
    ({'curriculum': 0.5}, {})
  """
  known = options_of(name)
  return {key: value for key, value in offered.items() if key in known}


def needs(name: str, **options: Any) -> dict[str, Any]:
  """Statistics that an objective reads beyond log_p and entropy.

  Args:
    name: a key of `WEIGHTS`.
    **options: of `token_loss` and of the scheme; others have their defaults.

  Returns:
    A dict of collision, varentropy (bool) and top_k (int), without those that it
    does not read.

  Raises:
    errors.InputError: an unknown name.

  Example:
    >>> needs('deft'), needs('eaft', k=5), needs('idft', beta=0.5)
    ({'collision': True}, {'top_k': 5}, {})
  """
  known = options_of(name)
  if name not in schemes.NEEDS:
    return {}
  return schemes.NEEDS[name](
      **known | {k: v for k, v in options.items() if k in known})


def reference_option(name: str) -> str | None:
  """The option by which an objective takes another model's log p, or None.

  Example:
    >>> reference_option('psft'), reference_option('idft')
    ('old_log_p', None)
  """
  known = options_of(name)
  return next((o for o in schemes.REFERENCE_OPTIONS if o in known), None)


def check_options(name: str, options: dict[str, Any]) -> None:
  """Raises TypeError for an option that the objective does not have."""
  known = options_of(name)
  # A TypeError: configs pass through `pick`, so a wrong name here is a bug in code.
  for option in options:
    if option not in known:
      raise TypeError(
          f'objective {name!r} has no option {option!r}; its options:'
          f' {", ".join(known) or "none"}'
      )


def pick(name: str, **options: Any) -> dict[str, Any]:
  """Arguments of `token_loss` for one objective, out of the options of all.

  The section `loss` of a config holds the options of all objectives, so that a
  change of its name is enough: `configs/sft.py` keeps beta, which only idft has.
  Commands pass `**objectives.pick(**c.loss)`.

  Args:
    name: a key of `WEIGHTS`.
    **options: of `token_loss` and of any scheme.

  Returns:
    Keyword arguments of `token_loss`: name, its own options, the scheme's.

  Raises:
    errors.InputError: an unknown name, or an option that no objective has.

  Example:
    >>> pick('sft', beta=0.5, denominator='kept')
    {'name': 'sft', 'denominator': 'kept'}
  """
  taken = {*COMMON, *options_of(name)}
  known = {*COMMON, *(o for other in schemes.WEIGHTS for o in options_of(other))}
  for option in options:
    if option not in known:
      raise errors.InputError(
          f'loss has {option!r}, an option of no objective; known are'
          f' {", ".join(sorted(known))}'
      )
  return {'name': name} | {k: v for k, v in options.items() if k in taken}
