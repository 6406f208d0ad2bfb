"""A line of metrics from the training steps since the last line."""

from collections.abc import Sequence
import time

from ddt_jax import objectives
from ddt_jax.training import pair_loss
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress

NEARLY_NOTHING = 0.05  # mean weight, or effective sample size by the tokens


def little_trained(weight: float, ess: float) -> str:
  """Says so where the objective trains on nearly nothing; '' otherwise.

  Args:
    weight: mean weight of a token.
    ess: effective sample size as a share of the tokens, see
      `objectives.summarise`.

  Example:
    >>> little_trained(0.9, 0.8)
    ''
  """
  if min(weight, ess) >= NEARLY_NOTHING:
    return ''
  return (
      f'Nearly nothing is trained: a token weighs {weight:.3f} on average, and the'
      f' effective sample size is {100 * ess:.1f} % of the tokens. The texts are'
      ' foreign to the model: let it rewrite them (hint.enabled, and'
      ' curate.fallback=drop), or train with loss.name=sft.')


def summarise(
    pending: Sequence[train_step.Metrics],
    progress: Progress,
    *,
    since: float,
    lr: float,
    patience: int,
) -> tuple[Progress, dict[str, float], str]:
  """Summarises the pending steps and adds them to the totals of the run.

  Waits for the device: metrics of steps are futures until they are fetched.

  Args:
    pending: metrics of the steps since the last line, oldest first; at least one.
    progress: the run's; its `round_step` and `step` are at the last of these steps.
    since: `time.monotonic()` when the first of these steps began. The clock is
      read again once the metrics are here, so the device's work is counted.
    lr: learning rate of the last of these steps.
    patience: number of updates skipped in a row that ends the run.

  Returns:
    (progress, scalars, text): the progress with new totals (skipped, tokens,
    seconds); the scalars to write for `progress.step`: means per supervised token
    as in `objectives.summarise`, loss per unit of the mask's weight (of a loss of
    pairs: as in `pair_loss.summarise`, loss per pair), means per step of grad_norm
    and curriculum, lr, skipped (of the run) and tokens_per_s; a short text for the
    progress bar.

  Raises:
    FloatingPointError: `patience` updates in a row were skipped.

  Example:
    >>> step = dict(finite=True, count=2.0, tokens=2.0, loss=1.0, nll=3.0, phi=-1.0,
    ...             weight=2.0, weight_squared=2.0, grad_norm=0.5, curriculum=1.0)
    >>> progress, scalars, text = summarise(
    ...     [step], Progress(round_step=1, step=1), since=time.monotonic() - 1,
    ...     lr=1e-5, patience=3)
    >>> progress.tokens, scalars['nll'], scalars['loss']
    (2, 1.5, 0.5)
    >>> text
    'loss 0.500, NLL 1.500, phi -0.500, 2 tokens/s'
  """
  skipped_in_a_row = train_step.check_finite(
      pending, progress.skipped_in_a_row, patience
  )
  sums, n = train_step.add(pending), len(pending)
  # After `add`, which waits for the device: dispatch alone takes almost no time.
  seconds = time.monotonic() - since
  progress = progress.replace(
      skipped_in_a_row=skipped_in_a_row,
      skipped=progress.skipped + n - int(sums['finite']),
      tokens=progress.tokens + int(sums['tokens']),
      seconds=progress.seconds + seconds,
  )
  of_pairs = 'pairs' in sums
  means = pair_loss.summarise(sums) if of_pairs else objectives.summarise(sums)
  scalars = means | {
      'loss': float(sums['loss'] / max(sums['count'], 1.0)),
      'grad_norm': float(sums['grad_norm'] / n),
      'curriculum': float(sums['curriculum'] / n),
      'lr': float(lr),
      'skipped': progress.skipped,
      'tokens_per_s': float(sums['tokens'] / seconds),
  }
  detail = 'NLL {nll:.3f}, phi {phi:.3f}'
  if of_pairs:
    detail = 'margin {rewards/margins:.3f}, accuracy {rewards/accuracies:.0%}'
  text = f'loss {{loss:.3f}}, {detail}, {{tokens_per_s:,.0f}} tokens/s'
  return progress, scalars, text.format(**scalars)
