"""A run's results in words and tables.

A gain or a loss is claimed only where the 95 % intervals before and after do
not overlap. Both are measured on the same problems, so the difference is known
better than the two intervals suggest: too little is claimed rather than too much.
"""

from collections.abc import Sequence
import dataclasses
import time

from ddt_jax import significance
from ddt_jax.report import results
from ddt_jax.report import run_rounds
from ddt_jax.report import table
from ddt_jax.training import log

ABOUT_PHI = (
    'phi measures how natural a token is to the model: log p of the token plus'
    ' the entropy of the model\'s prediction, in nats (1 nat = 1.44 bit). It'
    ' compares how likely the token was with how likely the model\'s own tokens'
    ' are on average. Text that the model wrote has a mean phi of 0. A token far'
    ' below 0 surprises the model more than its own uncertainty explains, and'
    ' training on many such tokens makes a model forget. phi measures fit, not'
    ' truth: a wrong sentence can have a phi of 0.')

_MEASURES = (
    'pass@1: share of problems solved by the greedy answer, in %. avg@k: mean'
    ' over k sampled answers, in %. [low, high]: 95 % interval over the'
    ' problems; another seed may change the numbers by more. Change: in'
    ' percentage points; "within noise" where the intervals overlap.')

_DISTANCE = (
    'KL to base: how far the model has moved from the model before training, on'
    ' texts that the latter drew. On a new task it predicts forgetting.')

_UNITS = (
    'not judged: responses, not problems, on which the verifier abstained. NLL'
    ' (negative'
    ' log-likelihood) and phi: nats per token. Mean phi near 0: the text is'
    ' natural to the model; below 0: it is foreign.')

_LARGE = 10  # points; a change within the noise that reads like one

_NOT_YET = (
    'All numbers are of the model before training: it is measured again at the end'
    ' of the round.')

# Heads of the tables, for those who point at them.
_ACCURACY = {
    'problems': 'that were measured, the same before and after',
    'measure': 'pass@1: the greedy answer; avg@k: mean of k sampled answers',
    'before': 'the model before training, in %, with the 95 % interval over problems',
    'after': 'the model after the last round, likewise',
    'change': 'in percentage points',
}
_ANSWERS = {
    'tokens per answer': 'of greedy answers; by an arrow: before and after training',
    'hit the length limit': 'greedy answers that did not end'
                            ' (evaluation.max_new_tokens)',
    'not judged by the verifier': 'it abstains rather than guesses; such answers count'
                                  ' as not solved',
}
_CORPUS = {
    'before': 'the solutions of the data under the model before training',
    'after': 'the same under the model after the last round',
}


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One measure of one split, before and after training.

  Attributes:
    split: its name.
    metric: 'pass@1', or 'avg@4' with the number of samples.
    problems: their number.
    before, after: shares in [0, 1].
  """

  split: str
  metric: str
  problems: int
  before: significance.Interval
  after: significance.Interval

  @property
  def points(self) -> float:
    """The change, in percentage points."""
    return 100 * (self.after.value - self.before.value)

  @property
  def outcome(self) -> str:
    """'rose' or 'fell' where the intervals are apart, else 'within noise'."""
    if self.after.low > self.before.high:
      return 'rose'
    if self.after.high < self.before.low:
      return 'fell'
    return 'within noise'


def comparisons(found: results.RunResults) -> list[Comparison]:
  """pass@1 and avg@k of every split, in order; empty without an evaluation."""
  # Before the first round ends there is nothing to compare with.
  if not found.evaluation or len(found.evaluation) < 2:
    return []
  compared, last = [], found.evaluation[-1]
  for split, before in found.evaluation[0].items():
    after = last[split]
    compared.append(Comparison(
        split, 'pass@1', before.problems, before.pass_at_1, after.pass_at_1))
    if before.avg_at_k and after.avg_at_k:
      compared.append(Comparison(
          split, f'avg@{before.samples}', before.problems, before.avg_at_k,
          after.avg_at_k))
  return compared


def headline(found: results.RunResults) -> str:
  """Change of the greedy accuracy in one sentence; needs an evaluation."""
  greedy = [c for c in comparisons(found) if c.metric == 'pass@1']
  return f'Accuracy (pass@1) {_outcomes(greedy)}.'


def verdict(found: results.RunResults, command: str = '') -> str:
  """The effect of training in a sentence or two; claims nothing within noise.

  Args:
    found: the run.
    command: that resumes it if it was stopped, '' where it is not known.
  """
  if found.status is not None:
    said = f'{_position(found.status)} {_so_far(found)}'
    stopped = found.status.stopped is not None
    return f'{said} The command: {command}' if stopped and command else said
  return _outcome(found)


def _so_far(found: results.RunResults) -> str:
  if comparisons(found):
    return f'So far: {_outcome(found)}'
  if not found.evaluation:
    return 'Accuracy is not evaluated.'
  splits = ', '.join(
      f'{split} {100 * measured.pass_at_1.value:.1f} %'
      for split, measured in found.evaluation[0].items())
  return f'Before training (pass@1): {splits}.'


def _position(status: results.Status) -> str:
  """Says how far a run is and when it should end, or that it was stopped."""
  state = (f'round {status.round + 1} of {status.rounds}, step {status.step:,} of'
           f' {status.steps:,}.')
  if status.stopped is not None:
    return (f'Stopped on {_moment(status.stopped)}. The same command resumes. The'
            f' numbers are of {_moment(status.written)}: {state}')
  text = f'Not finished. On {_moment(status.written)}: {state}'
  if status.remaining is None:
    return text
  return (f'{text} It should end about {_moment(status.written + status.remaining)},'
          f' after another {table.duration(status.remaining)}, if it is still at'
          ' work.')


def _moment(seconds: float) -> str:
  """Date and time of the place, given seconds since 1970."""
  return time.strftime('%Y-%m-%d %H:%M %Z', time.localtime(seconds))


def _outcome(found: results.RunResults) -> str:
  compared = comparisons(found)
  if not compared:
    return f'Accuracy was not evaluated. {_corpus_sentence(found)}'
  # The sampled accuracy is the finer measure: name the splits where its outcome
  # differs from the greedy one's.
  greedy = {c.split: c for c in compared if c.metric == 'pass@1'}
  differing = [c for c in compared if c.outcome != greedy[c.split].outcome]
  if not differing:
    return headline(found)
  return (f'{headline(found)} By sampled answers ({differing[0].metric}) it '
          f'{_outcomes(differing)}.')


def notes(found: results.RunResults) -> str:
  """Explains the measures and the tables of a run."""
  said = [] if found.measured_after else [_NOT_YET]
  said += [_MEASURES, run_rounds.notes(found.rounds), _UNITS]
  return ' '.join([*said, _DISTANCE] if found.kl_to_base else said)


def warnings(found: results.RunResults) -> list[str]:
  """What makes the results of a run worth little, in a sentence or two each."""
  said, training = [], found.training
  if training.weight is not None and (
      advice := log.little_trained(training.weight, training.ess)):
    said.append(advice)
  for i, r in enumerate(found.rounds, 1):
    attempted = r.hinted.responses
    if attempted and 2 * r.hinted.skipped > attempted:
      reason = next(iter(r.skipped_for), 'not recorded')
      said.append(
          f'Round {i}: {r.hinted.skipped:,} of {attempted:,} references were not'
          f' rewritten; the commonest reason: {reason}. Try another hint.template,'
          ' hint.prefill, or hint.analysis=none.')
  return said


def accuracy_table(found: results.RunResults) -> table.Table | None:
  """pass@1 and avg@k with intervals, in %; None without an evaluation."""
  rows = [[c.split, f'{c.problems:,}', c.metric, interval(c.before),
           interval(c.after), f'{c.points:+.1f}', c.outcome]
          for c in comparisons(found)]
  header = ['split', 'problems', 'measure', 'before', 'after', 'change', '']
  return table.Table(header, rows, words=(0, 6), about=_ACCURACY) if rows else None


def answers_table(found: results.RunResults) -> table.Table | None:
  """Length and completeness of greedy answers; None without an evaluation."""
  if not found.evaluation:
    return None
  ends = found.evaluation[:1]
  if found.measured_after:
    ends += found.evaluation[-1:]
  rows = [
      [split, *(' \u2192 '.join(format(getattr(end[split], count), how) for end in ends)
                for count, how in (
                    ('mean_tokens', '.1f'), ('unfinished', ','), ('abstained', ',')))]
      for split in found.evaluation[0]]
  return table.Table(['split', *_ANSWERS], rows, about=_ANSWERS)


def corpus_table(found: results.RunResults) -> table.Table:
  """The reference solutions under the model before and after training."""
  first, last = found.corpus.before, found.corpus.after
  rows = [[label, f'{before:.3f}', f'{after:.3f}', f'{after - before:+.3f}']
          for label, before, after in (
              ('mean NLL (nats per token)', first.nll, last.nll),
              ('mean phi (nats per token)', first.phi, last.phi),
              ('mean token weight', first.weight, last.weight))
          if before is not None]
  header = ['reference solutions', 'before', 'after', 'change']
  columns = len(header) if found.measured_after else 2
  return table.Table(
      header[:columns], [row[:columns] for row in rows], about=_CORPUS)


def progress_table(found: results.RunResults) -> table.Table | None:
  """pass@1 of every split after every round; None without an evaluation."""
  if not found.evaluation:
    return None
  rows = [
      [split, *(interval(splits[split].pass_at_1)
                for splits in found.evaluation)]
      for split in found.evaluation[0]
  ]
  return table.Table(['pass@1', 'before', *(
      f'after round {i}' for i in range(1, len(found.evaluation)))], rows)


def tables(
    found: results.RunResults, *, details: bool = True
) -> list[tuple[str, table.Table]]:
  """Headings and tables of a report, without those that would be empty.

  Args:
    found: the run.
    details: whether to include answers and accuracy by round, too.
  """
  every = [('Accuracy', accuracy_table(found))]
  if details:
    if found.evaluation and len(found.evaluation) > 2:
      every.append(('Accuracy by round', progress_table(found)))
    every.append(('Answers', answers_table(found)))
  every += [
      ('Rounds', run_rounds.rounds_table(found.rounds)),
      ('Training data', run_rounds.sources_table(found.rounds)),
      ('Reference solutions', corpus_table(found)),
      ('Distance from the model before training',
       run_rounds.kl_table(found.kl_to_base)),
  ]
  return [(heading, content) for heading, content in every if content]


def _outcomes(compared: Sequence[Comparison]) -> str:
  """'rose on target (+9.0 points); fell on retained (-4.0 points)'."""
  parts = []
  for words, chosen in (
      ('rose', lambda c: c.outcome == 'rose'), ('fell', lambda c: c.outcome == 'fell'),
      ('stayed within the noise',
       lambda c: c.outcome == 'within noise' and abs(c.points) < _LARGE),
      ('has too few problems to tell a change',
       lambda c: c.outcome == 'within noise' and abs(c.points) >= _LARGE)):
    if splits := [f'{c.split} ({c.points:+.1f} points)' for c in compared if chosen(c)]:
      parts.append(f'{words} on {" and ".join(splits)}')
  return '; '.join(parts)


def _corpus_sentence(found: results.RunResults) -> str:
  before, after = found.corpus.before, found.corpus.after
  return ('On the reference solutions NLL went from '
          f'{before.nll:.3f} to {after.nll:.3f} and phi from '
          f'{before.phi:+.3f} to {after.phi:+.3f} nats per token.')


def interval(share: significance.Interval) -> str:
  """A share and its interval in %, as '51.0 [45.4, 56.6]'."""
  value, low, high = (100 * x for x in share)
  return f'{value:.1f} [{low:.1f}, {high:.1f}]'
