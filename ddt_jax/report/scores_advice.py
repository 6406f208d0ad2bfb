"""Verdicts on scored corpora: how far off-policy, and what to do.

Each sentence gives the figures that it follows from, as the tables print them.
"""

from collections.abc import Mapping
import shlex

from ddt_jax import significance
from ddt_jax.report import page
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import diagnosis
from ddt_jax.scoring import filters

EMBEDDED = 'embedded'  # model.path of the student that ships with the project
_APART = 0.75  # AUROC from which a score separates two corpora well
_TIMES = 1.5  # perplexities that differ by this factor are named
_NO_OUTLIER = 'no_token_below_-5'  # key of `filters.ABOUT`

_JUDGEMENTS = {  # keys are the values of `diagnosis.Diagnosis`
    'undecided': 'has too few tokens to tell whether it is on-policy for',
    'deterministic': 'is more deterministic than',
    'on_policy': 'is on-policy for',
    'mixed': 'is on-policy only on average for',
    'mild': 'is mildly off-policy for',
}
_BLIND = (
    'phi compares each token with the model\'s own uncertainty at that place: it'
    ' sees neither whether an answer is right nor whether the model would find it')


# FILE and MODEL become those of the call; the toy model needs no preset.
_GIVEN = ':real --config.data.path=FILE --config.model.path=MODEL'


def _train(name: str) -> str:
  """The command that trains with the config of this name."""
  return f'python -m experiments.train --config configs/{name}.py{_GIVEN}'


_REWRITE = f'python -m experiments.curate --config configs/idft.py{_GIVEN}'
_COMMANDS = {  # what the advice on a diagnosis comes to
    'on_policy': (_train('sft'),),
    'deterministic': (_train('sft'),),
    'mild': (_train('sft'),),
    'few_tokens': (_train('phi_mask'),),
    'some_tokens': (_REWRITE, _train('idft')),
    'far': (_REWRITE,),
    'spread': (_REWRITE,),
}
_HINTED = (
    'rewrite it by Hinted Decoding, in which the model puts each solution that has an'
    ' answer to verify into its own words')
_GAP = 'gap in phi to the model\'s own texts'
_ABOUT = (
    ' (The PIT test asks of each response whether the model could have written it. A'
    ' nat is the unit of natural logarithms.)')


def verdicts(summary: corpus_summary.ScoresSummary) -> list[page.Verdict]:
  """A verdict on each corpus, and a note where the model is the toy student."""
  found = []
  if summary.model == EMBEDDED and set(summary.corpora) - {summary.own}:
    found.append(page.Verdict(
        'These are scores by this project\'s toy model. Name the model that you will'
        ' train with --config.model.path=DIR: a text that is off-policy for one'
        ' model may be on-policy for another.'))
  by_corpus = {name: verdict(name, summary) for name in summary.corpora}
  first = next((name for name, n in summary.corpora.items() if n.responses), None)
  return found + [
      said._replace(text=said.text + _ABOUT * (name == first))
      for name, said in by_corpus.items()]


def verdict(name: str, summary: corpus_summary.ScoresSummary) -> page.Verdict:
  """The verdict on a corpus."""
  numbers = summary.corpora[name]
  if not numbers.responses:
    return page.Verdict(f'{name}: no response could be scored.')
  evidence = (
      f'mean phi {numbers.phi:+.4f} ± {2 * numbers.phi_se:.4f} nats per token; the'
      f' PIT test rejects {table.percent(numbers.rejected)} of'
      f' {numbers.responses:,} responses.')
  if name == summary.own:
    return page.Verdict(f'{name} {_of_own(numbers)} {model_name(summary)}: {evidence}')
  found = diagnosis.diagnose(numbers)
  judgement = _JUDGEMENTS.get(found)
  if judgement is None:
    judgement = ('is off-policy for' if diagnosis.is_far(numbers)
                 else _JUDGEMENTS['mild'])
  sentences = [
      f'{name} {judgement} {model_name(summary)}: {evidence}',
      *_too_short(numbers), f'Advice: {advice(found, numbers)}.',
      *_beside_own(name, summary, found), *_split(numbers)]
  return page.Verdict(' '.join(sentences), commands(found, name, summary))


def commands(
    found: diagnosis.Diagnosis, name: str, summary: corpus_summary.ScoresSummary
) -> list[str]:
  """What to type to follow the advice on a corpus."""
  file = shlex.join([summary.files.get(name, name), *summary.options])
  typed = [
      command.replace('=FILE', f'={file}').replace(
          '=MODEL', f'={shlex.quote(summary.model)}')
      for command in _COMMANDS.get(found, ())]
  if summary.model == EMBEDDED:
    typed = [command.replace('.py:real ', '.py ') for command in typed]
  return typed


def _too_short(numbers: corpus_summary.CorpusSummary) -> list[str]:
  """Why hardly a response is rejected though mean phi is far from 0."""
  if numbers.phi >= diagnosis.DISTILLED or numbers.rejected > significance.LEVEL:
    return []
  return [
      f'Responses this short ({numbers.length:.1f} tokens on average) can rarely be'
      ' told from the model\'s own one by one; the mean over all of them can. So'
      ' --config.write.keep=accepted keeps nearly all rows: it is no filter for such'
      ' data.']


def model_name(summary: corpus_summary.ScoresSummary) -> str:
  """The model with its size, e.g. smollm2 (135M parameters)."""
  size = f'{_short(summary.parameters)} parameters'
  if summary.model == EMBEDDED:
    size = f'this project\'s toy model, {size}'
  return f'{summary.model} ({size})'


def advice(
    found: diagnosis.Diagnosis, numbers: corpus_summary.CorpusSummary
) -> str:
  """What to do with a corpus, and the figures that say so."""
  low, high = diagnosis.interval(numbers)
  lowest = {k: '' if x is None else table.percent(x, 0)
            for k, x in numbers.lowest.items()}
  cause_5 = (f'the 5 % of the tokens with the lowest phi cause {lowest["5 %"]} of the'
             f' {_GAP}')
  return {
      'undecided': (
          f'score more texts: mean phi may be anything from {low:+.3f} to {high:+.3f}'),
      'on_policy': f'train on it as it is. {_BLIND}',
      'deterministic': (
          'train on it as it is, but with care: mean phi is above 0, as'
          ' of texts sampled at a low temperature, so training narrows the model.'
          f' {_BLIND}'),
      'mixed': (
          'look at its sources and at rejected responses first: mean phi is not'
          f' clearly below 0, yet the test rejects {table.percent(numbers.rejected)}, so'
          ' texts above and below 0 offset each other'),
      'few_tokens': (
          f'train with phi_mask{_or_filter(numbers.filters)}: the 1 % of the'
          f' tokens with the lowest phi cause {lowest["1 %"]} of the'
          f' {_GAP}'),
      'mild': (
          'train on it as it is: rewriting would gain little, since'
          f' rewritten data have a mean phi of about {diagnosis.HINTED:g} in the paper'),
      'far': (
          f'{_HINTED}: with a mean phi of {numbers.phi:+.4f} token weights leave'
          f' little to train on; {cause_5}'),
      'some_tokens': (
          f'{_HINTED}. Or try IDFT, which gives unlikely tokens less weight:'
          f' {cause_5}. Less weight is also less learning, so compare both by'
          ' accuracy'),
      'spread': (
          f'{_HINTED}: {cause_5}, so re-weighting tokens helps less than rewriting'),
  }[found]


def _or_filter(parts: Mapping[str, corpus_summary.Filter]) -> str:
  """Names the filter against extreme tokens where it keeps anything."""
  kept = parts[_NO_OUTLIER]
  if not kept.responses:
    return ''
  return (f', or keep "{filters.ABOUT[_NO_OUTLIER]}"'
          f' ({table.percent(kept.responses)} of the'
          f' responses; --config.write.keep={_NO_OUTLIER})')


def _of_own(numbers: corpus_summary.Numbers) -> str:
  """Judges the model's own samples, which are on-policy by construction."""
  near = abs(numbers.phi) <= calibration.STANDARD_ERRORS * numbers.phi_se
  if near and numbers.rejected <= significance.LEVEL:
    return 'is on-policy, as own samples must be, for'
  return ('should be on-policy and is not, so do not trust these scores before'
          ' --config.calibrate=True passes, for')


def _beside_own(name, summary, found) -> list[str]:
  """Differences from own samples that phi does not see."""
  own = summary.corpora.get(summary.own)
  if own is None or not own.responses or found not in (
      'on_policy', 'mild', 'undecided'):
    return []
  sentences = []
  mine, theirs = summary.corpora[name].perplexity, own.perplexity
  if not 1 / _TIMES < mine / theirs < _TIMES:
    sentences.append(
        f'But its perplexity is {mine:.3f} and that of own samples {theirs:.3f}: phi'
        ' does not see that.')
  areas = summary.auroc.get(name, {})
  apart = {k: separation(x) for k, x in areas.items() if separation(x) >= _APART}
  if apart:
    best = max(apart, key=apart.get)
    sentences.append(
        f'But {best} separates it from own samples (AUROC {areas[best]:.3f}).')
  return sentences


def separation(area: float) -> float:
  """How well a score separates two corpora in either direction: 0.5 to 1."""
  return max(area, 1 - area)


def _split(numbers: corpus_summary.CorpusSummary) -> list[str]:
  if not numbers.split:
    return []
  added = numbers.responses + numbers.skipped - numbers.rows
  return [
      f'The chat template is not prefix-stable: {numbers.split:,} conversations are'
      f' split by turns, which adds {added:,} responses (--config.data.split_turns=).']


def _short(count: int) -> str:
  """A number of parameters in three digits or fewer, e.g. 135M."""
  for unit, name in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if count >= 0.95 * unit:
      return f'{count / unit:.3g}{name}' if count < 10 * unit else (
          f'{count / unit:.0f}{name}')
  return str(count)
