"""What the numbers of a run say, in words and tables: the report less its looks.

A gain or a loss is claimed only where the 95 % intervals before and after do
not overlap. Both are measured on the same problems, so this errs on the side
of claiming too little.
"""
import dataclasses
from typing import NamedTuple
import unicodedata

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

_NEEDED = {
    'corpus': ('before', 'after', 'histogram'),
    'data': ('train', 'validation', 'bad_rows', 'truncated', 'dropped',
             'turn_end'),
    'training': ('steps', 'tokens', 'seconds', 'skipped', 'best_step',
                 'best_nll', 'parameters'),
}


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
  before: dict  # value, low, high: shares in [0, 1]
  after: dict

  @property
  def points(self) -> float:
    """The change, in percentage points."""
    return 100 * (self.after['value'] - self.before['value'])

  @property
  def outcome(self) -> str:
    """'rose' or 'fell' if the intervals are apart, else 'within noise'."""
    if self.after['low'] > self.before['high']:
      return 'rose'
    if self.after['high'] < self.before['low']:
      return 'fell'
    return 'within noise'


def check(config: dict, results: dict) -> None:
  """Raises ValueError in words if something the report needs is missing."""
  for part in ('name', 'seed', 'timings', 'examples', 'rounds', *_NEEDED):
    if part not in results:
      raise ValueError(f'results.json has no {part!r}')
  for part, names in _NEEDED.items():
    missing = [name for name in names if name not in results[part]]
    if missing:
      raise ValueError(f'results.json: {part!r} has no {missing[0]!r}')
  for part in ('model', 'loss'):
    if part not in config:
      raise ValueError(f'config.json has no {part!r}')
  evaluation = results.get('evaluation')
  if evaluation and set(evaluation.get('before', ())) != set(
      evaluation.get('after', ())):
    raise ValueError('results.json: the evaluations before and after training '
                     'must cover the same splits')
  histogram = results['corpus']['histogram']
  for name in ('before', 'after'):
    if len(histogram[name]) != len(histogram['edges']) - 1:
      raise ValueError(f'results.json: the phi histogram {name!r} needs one '
                       'count between every two edges')
  for example in results['examples']:
    lengths = {len(example[k]) for k in ('tokens', 'phi_before', 'phi_after')}
    if len(lengths) > 1:
      raise ValueError(f'results.json: example {example["title"]!r} needs one '
                       'phi before and one after for each of its tokens')


def comparisons(results: dict) -> list[Comparison]:
  """pass@1 and avg@k of every split, in order; empty without an evaluation."""
  evaluation = results.get('evaluation') or {'before': {}, 'after': {}}
  return [
      Comparison(split, label, before['n'], before[metric],
                 evaluation['after'][split][metric])
      for split, before in evaluation['before'].items()
      for metric, label in (('pass@1', 'pass@1'), ('avg@k', f'avg@{before["k"]}'))
      if metric in before
  ]


def headline(results: dict) -> str:
  """What training changed in the greedy answers; needs an evaluation."""
  greedy = [c for c in comparisons(results) if c.metric == 'pass@1']
  return f'Accuracy (pass@1) {_outcomes(greedy)}.'


def verdict(results: dict) -> str:
  """One line: what training changed, claiming nothing inside the noise."""
  compared = comparisons(results)
  if not compared:
    return f'Accuracy was not evaluated. {_corpus_sentence(results)}'
  # The sampled accuracy is the finer measure: where it tells another story
  # than the greedy one, the reader hears both.
  differing = [sampled for greedy, sampled in zip(compared[::2], compared[1::2],
                                                  strict=True)
               if sampled.outcome != greedy.outcome]
  if not differing:
    return headline(results)
  return (f'{headline(results)} By sampled answers ({differing[0].metric}) it '
          f'{_outcomes(differing)}.')


def accuracy_table(results: dict) -> Table | None:
  """pass@1 and avg@k with intervals, in %; None without an evaluation."""
  rows = [[c.split, f'{c.problems:,}', c.metric, _interval(c.before),
           _interval(c.after), f'{c.points:+.1f}', c.outcome]
          for c in comparisons(results)]
  header = ['split', 'problems', 'measure', 'before', 'after', 'change', '']
  return Table(header, rows) if rows else None


def answers_table(results: dict) -> Table | None:
  """How the answers look, before -> after; None without an evaluation."""
  evaluation = results.get('evaluation')
  if not evaluation:
    return None
  rows = []
  for split, before in evaluation['before'].items():
    after = evaluation['after'][split]
    rows.append([split, *(
        f'{before[name]:{form}} \u2192 {after[name]:{form}}'
        for name, form in (('mean_tokens', '.1f'), ('unfinished', ','),
                           ('abstained', ',')))])
  return Table(['split', 'tokens per answer', 'hit the length limit',
                'not judged by the verifier'], rows)


def corpus_table(results: dict) -> Table:
  """Statistics of the training data under the model before and after."""
  before, after = results['corpus']['before'], results['corpus']['after']
  rows = [[label, f'{before[k]:.3f}', f'{after[k]:.3f}',
           f'{after[k] - before[k]:+.3f}']
          for label, k in (('mean NLL (nats per token)', 'nll'),
                           ('mean phi (nats per token)', 'phi'),
                           ('mean token weight', 'weight'))]
  return Table(['reference solutions', 'before', 'after', 'change'], rows)


def rounds_table(results: dict) -> Table:
  """Where the problems of each round got their solutions from.

  Skipped: rewriting failed for want of an analysis. Not judged: the verifier
  abstained.
  """
  rows = []
  for i, r in enumerate(results['rounds'], 1):
    solved = r['solved']
    rest = r['problems'] - sum(solved.values())
    rows.append([str(i), *(f'{n:,}' for n in (
        r['problems'], solved['own'], solved['hinted'], solved['reference'], rest,
        r['skipped'], r['own']['abstained'] + r['hinted']['abstained'],
        r['own']['tokens'] + r['hinted']['tokens'],
    ))])
  return Table(['round', 'problems', 'by itself', 'by hinting', 'references',
                'not at all', 'skipped', 'not judged', 'tokens drawn'], rows)


def sources_table(results: dict) -> Table:
  """What each round trained on, by who wrote it."""
  names = {'own': 'its own', 'hinted': 'rewritten', 'reference': 'references'}
  rows = []
  for i, r in enumerate(results['rounds'], 1):
    for source, found in r['sources'].items():
      if found['examples']:
        rows.append([
            f'round {i}: {names[source]}', f'{found["examples"]:,}',
            f'{found["phi"]:+.3f}', f'{found["tokens"]:.1f}',
        ])
  return Table(['trained on', 'examples', 'mean phi (nats per token)',
                'tokens per answer'], rows)


def measured(results: dict) -> list[dict]:
  """The evaluation before training and after each round."""
  return [results['evaluation']['before'],
          *(r['evaluation'] for r in results['rounds'])]


def progress_table(results: dict) -> Table | None:
  """pass@1 of every split after every round; None without an evaluation."""
  if not results.get('evaluation'):
    return None
  measures = measured(results)
  rows = [
      [split, *(_interval(m[split]['pass@1']) for m in measures)]
      for split in measures[0]
  ]
  return Table(['pass@1', 'before', *(
      f'after round {i}' for i in range(1, len(measures)))], rows)


def tables(results: dict) -> list[tuple[str, Table]]:
  """The tables of a report with their headings; those that say something."""
  several = len(results['rounds']) > 1
  found = [
      ('Accuracy', accuracy_table(results)),
      ('Accuracy by round', progress_table(results) if several else None),
      ('Answers', answers_table(results)),
      ('Rounds', rounds_table(results)),
      ('What was trained on', sources_table(results)),
      ('Reference solutions', corpus_table(results)),
  ]
  return [(heading, table) for heading, table in found if table]


def facts_table(config: dict, results: dict) -> Table:
  """What was run on what, and how long it took."""
  training, data = results['training'], results['data']
  objective = ', '.join(f'{k} {v}' for k, v in config['loss'].items())
  rows = [
      ['run', f'{results["name"]}, seed {results["seed"]}'],
      ['model', f'{config["model"]["path"]}, '
                f'{training["parameters"]:,} parameters'],
      ['objective', objective or 'defaults'],
      ['training', f'{training["steps"]:,} steps, {training["tokens"]:,} tokens,'
                   f' {duration(training["seconds"])}'],
      ['skipped updates', f'{training["skipped"]:,}'],
  ]
  if training['best_step'] is not None:  # None: the run had no validation data
    rows.append(['best checkpoint',
                 f'step {training["best_step"]:,}, validation NLL '
                 f'{training["best_nll"]:.3f} nats per token'])
  rows += [
      ['data', f'{data["train"]:,} training and {data["validation"]:,} '
               f'validation examples; {data["bad_rows"]:,} bad rows, '
               f'{data["truncated"]:,} truncated, {data["dropped"]:,} dropped'],
      ['end-of-turn token', data['turn_end']],
      ['time by stage', ', '.join(f'{stage} {duration(seconds)}' for
                                  stage, seconds in results['timings'].items())],
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


def _corpus_sentence(results: dict) -> str:
  before, after = results['corpus']['before'], results['corpus']['after']
  return ('On the reference solutions NLL went from '
          f'{before["nll"]:.3f} to {after["nll"]:.3f} and phi from '
          f'{before["phi"]:+.3f} to {after["phi"]:+.3f} nats per token.')


def _interval(measure: dict) -> str:
  value, low, high = (100 * measure[k] for k in ('value', 'low', 'high'))
  return f'{value:.1f} [{low:.1f}, {high:.1f}]'
