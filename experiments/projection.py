r"""Exact projection against rejection sampling, on the problems of a config.

python -m experiments.projection --config configs/idft.py
python -m experiments.projection --config configs/idft.py --first=100 --moves=4
python -m experiments.projection --config configs/idft.py --workdir DIR \
    --config.model.path=MODEL --config.data.path=my.jsonl

The model answers training problems `--answers` times. Where 10 to 90 % are right,
its right samples are draws of the target itself: they are compared with texts that
Hinted Decoding wrote, and with the ends of chains that began at these. Two controls
compare the samples with each other: one half with the other half, and with the ends
of chains that began at the other half. The problems that it never solved are
projected too, with a table by sweep. Both are printed as Markdown. The workdir gets
every text, and comparison.png; it lets an interrupted call resume.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
from typing import Any
import zlib

from absl import flags
import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import projection
from ddt_jax import significance
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.report import projection_plots
from ddt_jax.report import style
from ddt_jax.rounds import answers
from ddt_jax.rounds import from_hints
from ddt_jax.rounds import leaks
from ddt_jax.rounds import select
from ddt_jax.rounds import stages
from ddt_jax.scoring import calibration
from ddt_jax.scoring import forward
from ddt_jax.scoring import response_scores
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import workdir

_PROBLEMS = flags.DEFINE_integer('first', 1400, 'Training problems, the first ones.')
_SAMPLES = flags.DEFINE_integer('answers', 16, 'Own answers to each.')
_TEXTS = flags.DEFINE_integer('compared', 4, 'Compared texts of each problem.')
_SWEEPS = flags.DEFINE_integer('moves', 8, 'Of the compared chains.')
_NEVER = flags.DEFINE_integer('unsolved', 100, 'Unsolved problems, at most.')

SOLVED = (0.1, 0.9)  # share of right answers of compared problems
BY_SWEEP = (0, 1, 2, 4, 8, 16)
MEASURES = {
    'length': 'length, tokens', 'log_p_sum': 'log q, nats',
    'phi': 'mean phi, nats a token'}


@dataclasses.dataclass(frozen=True)
class Setting:
  """Inputs that all parts of the command share.

  Attributes:
    c, inputs, work: the config, what was made from it, and the stages.
    rewriting: Hinted Decoding's options.
    problems: by id.
    good: whether a text counts.
  """

  c: Any
  inputs: inputs.Inputs
  work: stages.Stages
  rewriting: answers.Rewriting
  problems: dict[str, records.Problem]
  good: from_hints.Accepted

  def own(self) -> dict[str, list[records.Response]]:
    """The model's own answers, at temperature 1: problem id -> responses."""
    c, s = self.c, self.inputs

    def make(first, problems, journal):
      rows = answers.answer(
          s.params, s.config, s.tokenizer, problems, samples=_SAMPLES.value,
          key=jax.random.fold_in(jax.random.key(c.seed), first), temperature=1.0,
          top_p=1.0, max_new_tokens=c.evaluation.max_new_tokens,
          verifier=c.verifier, journal=journal, **s.decoding)
      return [r for row in rows for r in row]

    drawn = self.work.run(
        'own', make, list(self.problems.values()), size=100, each=_SAMPLES.value)
    found: dict[str, list[records.Response]] = {p: [] for p in self.problems}
    for r in drawn:
      found[r.problem_id].append(r)
    return found

  def rewritten(self, name: str, ids: Sequence[str]) -> list[records.Response]:
    """A rewriting for each id in `ids`; an id may occur several times."""
    c, s = self.c, self.inputs

    def make(first, some, journal):
      return answers.rewrite(
          s.params, s.config, s.tokenizer, [self.problems[i] for i in some],
          rewriting=self.rewriting,
          key=jax.random.fold_in(jax.random.key(c.seed + 1), first),
          max_new_tokens=c.evaluation.max_new_tokens,
          decoding={**s.decoding, 'journal': journal}, verifier=c.verifier)

    return self.work.run(
        name, make, list(ids), size=400, runs=self.rewriting.runs)

  def moved(
      self, name: str, starts: Sequence[records.Response], sweeps: int
  ) -> tuple[list[records.Response], list[projection.Projected]]:
    """The starts after so many moves, and the chains.

    The ends are in the order of the starts' problems.
    """
    c, s, size = self.c, self.inputs, 500
    rule = select.Projection(sweeps, restarts=c.curate.project.restarts)
    name = f'{name}-{rule.restarts:g}'

    def traces(first):
      return self.work.folder / name / f'chains-{first}.json'

    def make(first, some, journal):
      ends, found = from_hints.project(
          s.params, s.config, s.tokenizer,
          [self.problems[r.problem_id] for r in some], some,
          rewriting=self.rewriting, chains=rule,
          good=self.good, max_new_tokens=c.evaluation.max_new_tokens,
          # By the name: no two calls may draw with the same numbers.
          key=jax.random.fold_in(jax.random.fold_in(
              jax.random.key(c.seed + 2), zlib.crc32(name.encode())), first),
          decoding={**s.decoding, 'journal': journal}, verifier=c.verifier)
      processes.from_first(storage.publish, traces(first), json.dumps(found))
      return ends

    ends = self.work.run(name, make, list(starts), size=size, runs=sweeps)
    # Texts without room for a move come last in their block.
    order = {r.problem_id: i for i, r in enumerate(starts)}
    ends.sort(key=lambda r: order[r.problem_id])
    rows = [row for first in range(0, len(starts), size) for row in (
        processes.from_first(lambda f=first: json.loads(traces(f).read_text())))]
    return ends, [
        projection.Projected(*row)._replace(
            trace=[projection.Move(*m) for m in row[4]]) for row in rows]

  def tokens_of(self, responses: Sequence[records.Response]) -> int:
    """Tokens drawn for responses, with their analyses."""
    return sum(
        len(r.tokens) + len(self.inputs.tokenizer.encode(
            r.analysis, add_special_tokens=False)) for r in responses)

  def scores(self, responses: Sequence[records.Response]) -> dict[str, np.ndarray]:
    """`response_scores.per_response` of the responses, in order."""
    s = self.inputs
    prompts = answers.prompt_ids(
        s.tokenizer, [self.problems[r.problem_id] for r in responses])
    with engine.progress_bar(len(responses), 'score') as bar:
      beat = engine.Journal(bar=bar, check_stop=lifecycle.check_stop).beat
      stats = list(forward.token_stats(
          s.params, s.config, [
              chat.answered(p, r.tokens)
              for p, r in zip(prompts, responses, strict=True)],
          batch=s.rows, mesh=s.mesh, tail=True, after=beat))
    lengths = [len(x.log_p) for x in stats]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *stats)
    return response_scores.per_response(
        joined, lengths, calibration.randomised_pit(joined, seed=0))


# Problems that the model solves now and then ---------------------------------------


def comparison(setting: Setting, own: dict[str, list[records.Response]]) -> None:
  """Prints the two-sample tests against right own samples."""
  n, sweeps = _TEXTS.value, _SWEEPS.value
  right = {i: list(filter(setting.good, rs)) for i, rs in own.items()}
  some = [i for i, rs in right.items()
          if SOLVED[0] <= len(rs) / _SAMPLES.value <= SOLVED[1] and len(rs) >= n]
  hinted = setting.rewritten('hinted', [i for i in some for _ in range(n)])
  # All or none of a problem's texts, so that each group has the same problems.
  whole = set(some) - {r.problem_id for r in hinted if not setting.good(r)}
  some = [i for i in some if i in whole]
  starts = [r for r in hinted if r.problem_id in whole]
  if not starts:
    raise errors.InputError('no problem to compare: try more problems with --first')
  exact = [r for i in some for r in right[i][:n]]
  ends, chains = setting.moved(f'ends-{sweeps}', starts, sweeps)
  # Two halves of a problem's right samples, which no text is in twice.
  half = {i: min(n, len(right[i]) // 2) for i in some}
  first = [r for i in some for r in right[i][:half[i]]]
  other = [r for i in some for r in right[i][half[i]:2 * half[i]]]
  kept, _ = setting.moved(f'kept-{sweeps}', other, sweeps)
  of_exact, of_first, of_hinted, of_ends, of_other, of_kept = map(
      setting.scores, (exact, first, starts, ends, other, kept))
  print(
      f'{len(starts)} texts of {len(some)} problems that the model solves in'
      f' {SOLVED[0]:.0%} to {SOLVED[1]:.0%} of {_SAMPLES.value} samples; differences'
      f' from its own right samples. Controls: {len(other)} of these samples and as'
      ' many others of the same problems\n\n'
      '| text | measure | mean | difference | p | KS distance | p | told apart |\n'
      '|---|---|---:|---:|---:|---:|---:|---|')
  for measure, words in MEASURES.items():
    print(f'| rejection sampling | {words} | {of_exact[measure].mean():.3f} | | | | | |')
  for name, yardstick, scores in (
      ('rewritten', of_exact, of_hinted),
      (f'projected, {sweeps} sweeps', of_exact, of_ends),
      ('control: other samples', of_first, of_other),
      (f'control: these after {sweeps} sweeps', of_first, of_kept)):
    _print_tests(name, yardstick, scores)
  picture = style.draw(projection_plots.distributions, {
      'rejection sampling': of_exact, 'rewritten': of_hinted,
      f'projected, {sweeps} sweeps': of_ends}, MEASURES)
  processes.from_first(lambda: (
      setting.work.folder / 'comparison.png').write_bytes(picture.light) and None)
  _print_mixing(chains)
  _print_cost(setting, own, right, some, hinted, chains)


def _print_tests(
    name: str, yardstick: dict[str, np.ndarray], scores: dict[str, np.ndarray]
) -> None:
  """Rows of a text: both tests of each measure, at 5 % false discoveries."""
  found = {
      measure: [test(yardstick[measure], scores[measure]) for test in (
          significance.paired_difference, significance.paired_distance)]
      for measure in MEASURES}
  told = significance.false_discoveries(np.array(
      [[test.p_value for test in tests] for tests in found.values()]
  ).ravel()).reshape(-1, 2).any(1)
  for (measure, (mean, shape)), apart in zip(found.items(), told, strict=True):
    print(
        f'| {name} | {MEASURES[measure]} | {scores[measure].mean():.3f} |'
        f' {mean.mean:+.3f} ± {mean.half_width:.3f} | {mean.p_value:.2g} |'
        f' {shape.distance:.3f} | {shape.p_value:.2g} | {"yes" if apart else "no"} |',
        flush=True)


def _print_mixing(chains: Sequence[projection.Projected]) -> None:
  found = projection.mixing(chains)
  cuts = ', '.join(f'{100 * x.value:.0f}' for x in found.by_cut)
  print(
      f'\nMoves accepted: {100 * found.accepted.value:.0f} %; restarts:'
      f' {100 * found.restarts.value:.0f} %; cuts, by the quarter of the text:'
      f' {cuts} %. Effective draws of log q a chain: {found.effective:.1f} of'
      f' {len(chains[0].trace)}; split R-hat: {found.split_r_hat:.2f}.', flush=True)


def _print_cost(setting, own, right, some, hinted, chains) -> None:
  """Tokens drawn for a text, beside those of rejection sampling."""
  chains_of = len(chains) // len(some)
  passed = np.array([len(right[i]) / _SAMPLES.value for i in some])
  length = np.array([np.mean([len(r.tokens) for r in own[i]]) for i in some])
  rewriting = setting.tokens_of(hinted) / sum(map(setting.good, hinted))
  estimate = projection.pass_rate(chains, chains_of)
  print(
      f'Tokens drawn for a text: rejection sampling {np.mean(length / passed):.0f}'
      f' (length / pass rate); rewriting {rewriting:.0f}, analyses and rejected texts'
      f' included; the chains {projection.mixing(chains).drawn_per_text:.0f} more,'
      f' rejected proposals included. Mean pass rate: {100 * passed.mean():.1f} % of'
      f' the samples, {100 * np.nanmean(estimate):.1f} % by the weights of'
      ' restarts.', flush=True)


# Problems that the model never solved ----------------------------------------------


def by_sweep(setting: Setting, own: dict[str, list[records.Response]]) -> None:
  """Prints how texts of unsolved problems change with the number of moves."""
  never = [i for i, rs in own.items() if not any(map(setting.good, rs))]
  never = never[:_NEVER.value]
  hinted = setting.rewritten('never', never)
  texts = list(filter(setting.good, hinted))
  print(
      f'\n{len(texts)} accepted texts of {len(never)} problems of which none of'
      f' {_SAMPLES.value} samples is right\n\n'
      '| sweeps | mean phi | rejected, % | moves accepted, % | tokens drawn a text |\n'
      '|---:|---:|---:|---:|---:|')
  if not texts:
    return
  drawn, done, share, traces = setting.tokens_of(hinted) / len(texts), 0, '', []
  for sweeps in BY_SWEEP:
    if sweeps:
      texts, chains = setting.moved(f'never-{sweeps}', texts, sweeps - done)
      found, done = projection.mixing(chains), sweeps
      drawn += found.drawn_per_text
      share = f'{100 * found.accepted.value:.0f}'
      traces.append(chains)
    scores = setting.scores(texts)
    rejected = significance.false_discoveries(scores['pit_p_value']).mean()
    error = significance.normal_half_width(scores['phi'].std(), len(texts))
    print(
        f'| {sweeps} | {scores["phi"].mean():+.4f} ± {error:.4f} |'
        f' {100 * rejected:.1f} | {share} | {drawn:.0f} |', flush=True)
  passed = projection.pass_rate([
      parts[0]._replace(trace=[m for part in parts for m in part.trace])
      for parts in zip(*traces, strict=True)])
  length = np.mean([len(r.tokens) for i in never for r in own[i]])
  with np.errstate(divide='ignore'):
    cost = np.nanmedian(length / passed)  # nan: a problem without a restart
  print(
      f'\nBy the weights of restarts {100 * np.nanmean(passed):.2f} % of the samples'
      f' would be right: rejection sampling draws {cost:.0f} tokens for a text, the'
      ' median over the problems of length / pass rate.', flush=True)


def print_tables(c, s: inputs.Inputs, work: stages.Stages) -> None:
  """Prints both tables."""
  problems = [p for p in s.corpus.train if p.answer and not p.messages]
  problems = problems[:_PROBLEMS.value]
  rewriting = answers.Rewriting(**c.hint)
  good = functools.partial(
      select.is_accepted, end=s.end,
      leaking=leaks.Finder(problems, rewriting.prompt_template()))
  setting = Setting(c, s, work, rewriting, {p.id: p for p in problems}, good)
  own = setting.own()
  comparison(setting, own)
  by_sweep(setting, own)


def main():
  c = flags.FLAGS.config
  folder = storage.path(
      flags.FLAGS.workdir or workdir.default_folder('projection', c))
  with workdir.owned(c, folder, inputs.make) as s:
    # Other weights at the same path must not get the texts of these.
    made_from = {
        'seed': c.seed, 'parameters': inputs.fingerprint(s.params),
        'problems': _PROBLEMS.value, 'samples': _SAMPLES.value,
        'texts': _TEXTS.value}
    with lifecycle.explained_errors(errors.InputError):
      print_tables(c, s, stages.Stages(
          folder, made_from, check_stop=lifecycle.check_stop))


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', 'Folder of the texts; default runs/projection/NAME-HASH, by'
      ' the config.')
  lifecycle.launch(main)
