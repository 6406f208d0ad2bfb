"""What the numbers of a run say, in words and tables: the report less its looks.

A gain or a loss is claimed only where the 95 % intervals before and after do
not overlap. Both are measured on the same problems, so this errs on the side
of claiming too little.
"""
import dataclasses
from typing import NamedTuple
import unicodedata

from ddt_jax import significance
from ddt_jax.report import results

ABOUT_PHI = (
    'phi says how natural a token is to the model. It is log p of the token '
    'plus the entropy of the model\'s prediction at that place: how likely the '
    'token was, compared with how likely the model\'s own tokens are on '
    'average. Text that the model wrote itself has a mean phi of 0. A token '
    'far below 0 surprises the model more than its own uncertainty explains; '
    'training on many of these makes a model forget. phi is about fit, not '
    'about truth: a wrong sentence can score 0. Unit: nats (1 nat = 1.44 bit).')

NOTES = (
    'pass@1: share of problems solved by the greedy answer, in %. avg@k: mean '
    'over k sampled answers, in %. [low, high]: 95 % interval over the '
    'problems; another seed may move the numbers further. Change: in '
    'percentage points; "within noise" where the intervals overlap. Rounds: '
    'by whom problems were solved; skipped for want of an analysis to rewrite '
    'from; not judged by the verifier. NLL '
    '(negative log-likelihood) and phi: per token, in nats. phi near 0 means '
    'the text is natural to the model, below 0 that it is foreign.')

class Table(NamedTuple):
  """Cells of text; the first column holds names, the others numbers."""
  header: list[str]
  rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One measure of one split, before and after training."""
  split: str
  metric: str  # 'pass@1' or, with the number of samples, 'avg@4'
  problems: int
  before: significance.Interval  # shares in [0, 1]
  after: significance.Interval

  @property
  def points(self) -> float:
    """The change, in percentage points."""
    return 100 * (self.after.value - self.before.value)

  @property
  def outcome(self) -> str:
    """'rose' or 'fell' if the intervals are apart, else 'within noise'."""
    if self.after.low > self.before.high:
      return 'rose'
    if self.after.high < self.before.low:
      return 'fell'
    return 'within noise'


def comparisons(found: results.RunResults) -> list[Comparison]:
  """pass@1 and avg@k of every split, in order; empty without an evaluation."""
  if not found.evaluation:
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
  """What training changed in the greedy answers; needs an evaluation."""
  greedy = [c for c in comparisons(found) if c.metric == 'pass@1']
  return f'Accuracy (pass@1) {_outcomes(greedy)}.'


def verdict(found: results.RunResults) -> str:
  """One line: what training changed, claiming nothing inside the noise."""
  compared = comparisons(found)
  if not compared:
    return f'Accuracy was not evaluated. {_corpus_sentence(found)}'
  # The sampled accuracy is the finer measure: name it where its outcome
  # differs from the greedy one's.
  greedy = {c.split: c for c in compared if c.metric == 'pass@1'}
  differing = [c for c in compared if c.outcome != greedy[c.split].outcome]
  if not differing:
    return headline(found)
  return (f'{headline(found)} By sampled answers ({differing[0].metric}) it '
          f'{_outcomes(differing)}.')


def accuracy_table(found: results.RunResults) -> Table | None:
  """pass@1 and avg@k with intervals, in %; None without an evaluation."""
  rows = [[c.split, f'{c.problems:,}', c.metric, _interval(c.before),
           _interval(c.after), f'{c.points:+.1f}', c.outcome]
          for c in comparisons(found)]
  header = ['split', 'problems', 'measure', 'before', 'after', 'change', '']
  return Table(header, rows) if rows else None


def answers_table(found: results.RunResults) -> Table | None:
  """How the answers look, before -> after; None without an evaluation."""
  if not found.evaluation:
    return None
  rows, last = [], found.evaluation[-1]
  for split, before in found.evaluation[0].items():
    after = last[split]
    rows.append([
        split,
        f'{before.mean_tokens:.1f} \u2192 {after.mean_tokens:.1f}',
        f'{before.unfinished:,} \u2192 {after.unfinished:,}',
        f'{before.abstained:,} \u2192 {after.abstained:,}',
    ])
  return Table(['split', 'tokens per answer', 'hit the length limit',
                'not judged by the verifier'], rows)


def corpus_table(found: results.RunResults) -> Table:
  """Statistics of the training data under the model before and after."""
  rows = [[label, f'{before:.3f}', f'{after:.3f}', f'{after - before:+.3f}']
          for label, before, after in (
              ('mean NLL (nats per token)', found.corpus.before.nll,
               found.corpus.after.nll),
              ('mean phi (nats per token)', found.corpus.before.phi,
               found.corpus.after.phi),
              ('mean token weight', found.corpus.before.weight,
               found.corpus.after.weight))]
  return Table(['reference solutions', 'before', 'after', 'change'], rows)


def rounds_table(found: results.RunResults) -> Table:
  """Where the problems of each round got their solutions from.

  Skipped: rewriting failed for want of an analysis. Not judged: the verifier
  abstained.
  """
  rows = []
  for i, r in enumerate(found.rounds, 1):
    unsolved = r.problems - sum(r.solved.values())
    rows.append([str(i), *(f'{n:,}' for n in (
        r.problems, r.solved['own'], r.solved['hinted'], r.solved['reference'],
        unsolved, r.own.skipped + r.hinted.skipped, r.own.abstained + r.hinted.abstained,
        r.own.tokens + r.hinted.tokens,
    ))])
  return Table(['round', 'problems', 'by itself', 'by hinting', 'references',
                'not at all', 'skipped', 'not judged', 'tokens drawn'], rows)


def sources_table(found: results.RunResults) -> Table:
  """What each round trained on, by who wrote it."""
  names = {'own': 'its own', 'hinted': 'rewritten', 'reference': 'references'}
  rows = []
  for i, r in enumerate(found.rounds, 1):
    for source, stats in r.sources.items():
      if stats.examples:
        rows.append([
            f'round {i}: {names[source]}', f'{stats.examples:,}',
            f'{stats.phi:+.3f}', f'{stats.tokens:.1f}',
        ])
  return Table(['trained on', 'examples', 'mean phi (nats per token)',
                'tokens per answer'], rows)


def progress_table(found: results.RunResults) -> Table | None:
  """pass@1 of every split after every round; None without an evaluation."""
  if not found.evaluation:
    return None
  rows = [
      [split, *(_interval(splits[split].pass_at_1)
                for splits in found.evaluation)]
      for split in found.evaluation[0]
  ]
  return Table(['pass@1', 'before', *(
      f'after round {i}' for i in range(1, len(found.evaluation)))], rows)


def tables(found: results.RunResults) -> list[tuple[str, Table]]:
  """The tables of a report with their headings; those that say something."""
  several = len(found.rounds) > 1
  every = [
      ('Accuracy', accuracy_table(found)),
      ('Accuracy by round', progress_table(found) if several else None),
      ('Answers', answers_table(found)),
      ('Rounds', rounds_table(found)),
      ('What was trained on', sources_table(found)),
      ('Reference solutions', corpus_table(found)),
  ]
  return [(heading, table) for heading, table in every if table]


def facts_table(config: dict, found: results.RunResults) -> Table:
  """What was run on what, and how long it took."""
  training, data = found.training, found.data
  objective = ', '.join(f'{k} {v}' for k, v in config['loss'].items())
  rows = [
      ['run', f'{found.name}, seed {found.seed}'],
      ['model', f'{config["model"]["path"]}, '
                f'{training.parameters:,} parameters'],
      ['objective', objective or 'defaults'],
      ['training', f'{training.steps:,} steps, {training.tokens:,} tokens,'
                   f' {duration(training.seconds)}'],
      ['skipped updates', f'{training.skipped:,}'],
  ]
  if training.best_step is not None:  # None: the run had no validation data
    rows.append(['best checkpoint',
                 f'step {training.best_step:,}, validation NLL '
                 f'{training.best_nll:.3f} nats per token'])
  rows += [
      ['data', f'{data.train:,} training and {data.validation:,} '
               f'validation examples; {data.bad_rows:,} bad rows, '
               f'{data.truncated:,} truncated, {data.dropped:,} dropped'],
      ['end-of-turn token', data.turn_end],
      ['time by stage', ', '.join(f'{stage} {duration(seconds)}' for
                                  stage, seconds in found.timings.items())],
  ]
  return Table(['run', ''], rows)


def duration(seconds: float) -> str:
  """Seconds in words: '8.4 s', '4 min 12 s', '3 h 5 min'."""
  if seconds < 59.95:
    return f'{seconds:.1f} s'
  minutes, seconds = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {seconds} s'
  return f'{minutes // 60} h {minutes % 60} min'


def visible(token: str) -> str:
  """The token, with signs for line ends, tabs and control characters."""
  signs = {'\n': '\u21b5', '\t': '\u21e5'}
  return ''.join(
      signs.get(c, f'\\x{ord(c):02x}') if unicodedata.category(c) == 'Cc' else c
      for c in token)


def _outcomes(compared: list[Comparison]) -> str:
  """'rose on target (+9.0 points); fell on retained (-4.0 points)'."""
  parts = []
  for outcome, words in (('rose', 'rose'), ('fell', 'fell'),
                         ('within noise', 'stayed within the noise')):
    splits = [f'{c.split} ({c.points:+.1f} points)' for c in compared
              if c.outcome == outcome]
    if splits:
      parts.append(f'{words} on {" and ".join(splits)}')
  return '; '.join(parts)


def _corpus_sentence(found: results.RunResults) -> str:
  before, after = found.corpus.before, found.corpus.after
  return ('On the reference solutions NLL went from '
          f'{before.nll:.3f} to {after.nll:.3f} and phi from '
          f'{before.phi:+.3f} to {after.phi:+.3f} nats per token.')


def _interval(share: significance.Interval) -> str:
  value, low, high = (100 * x for x in share)
  return f'{value:.1f} [{low:.1f}, {high:.1f}]'
