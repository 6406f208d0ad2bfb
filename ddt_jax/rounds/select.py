"""Which responses a round trains on: the rules, and counts of what they do.

A response is *accepted* if the verifier calls it right, it ends with the token
that ends a turn, and it shows nothing of a hint, see `leaks`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import re

import numpy as np

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import leaks

FALLBACKS = ('drop', 'reference', 'reference_if_phi_above')
PROBLEMS = ('fresh', 'epochs')
SOURCES = ('own', 'hinted', 'reference')  # of every round
PROJECTED = 'projected'  # where `Options.project` asks for it


@dataclasses.dataclass(frozen=True)
class Projection:
  """Exact chains from accepted rewritten texts: the config's `curate.project`.

  Attributes:
    sweeps: moves of each chain; 0: no chains, rewritten texts stay as they are.
    chains: of each text. Their ends that differ compete for `Options.keep`.
    restarts: share of moves that draw the whole text anew, in [0, 1].
  """

  sweeps: int = 0
  chains: int = 1
  restarts: float = 0.5

  def __post_init__(self):
    for name, least in (('sweeps', 0), ('chains', 1)):
      if getattr(self, name) < least:
        raise errors.InputError(
            f'curate.project.{name}={getattr(self, name)}: at least {least}')
    if not 0 <= self.restarts <= 1:
      raise errors.InputError(
          f'curate.project.restarts={self.restarts} is not in [0, 1]')


@dataclasses.dataclass(frozen=True)
class Options:
  """How a round's corpus is made: the config's section `curate`.

  Attributes:
    problems: 'fresh', each round has a slice of the problems of its own;
      'epochs', each round has all of them.
    per_round: at most so many problems a round; 0 for all.
    samples: own answers to each problem; 0 for none.
    keep: right own answers of a problem that are kept, distinct ones.
    temperature, top_p: of own answers, see `sampling.distribution`; temperature
      0 is greedy.
    max_new_tokens: limit of own answers and of rewritten ones.
    fallback: for problems without an accepted response: 'drop'; 'reference', its
      solution is trained on; 'reference_if_phi_above', if its mean phi is at
      least min_phi.
    min_phi: nats per token; responses with a lower mean phi are dropped, but
      references only under 'reference_if_phi_above'.
    drop_lowest: share in [0, 1) of the model's own and rewritten responses that
      is dropped for the lowest mean phi.
    score: measure the mean phi of each response. False, where references alone
      are trained on: the round then begins without a forward pass over all of them.
    shard: problems that a kill can cost.
    project: fields of `Projection`.
  """

  problems: str = 'fresh'
  per_round: int = 0
  samples: int = 2
  keep: int = 1
  temperature: float = 1.0
  top_p: float = 1.0
  max_new_tokens: int = 128
  fallback: str = 'drop'
  min_phi: float = -np.inf
  drop_lowest: float = 0.0
  score: bool = True
  shard: int = 250
  project: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name, value, known in (
        ('fallback', self.fallback, FALLBACKS),
        ('problems', self.problems, PROBLEMS),
    ):
      if value not in known:
        raise errors.no_choice(f'curate.{name}', value, known)
    for name, least in (
        ('per_round', 0), ('samples', 0), ('keep', 1), ('shard', 1),
        ('max_new_tokens', 1),
    ):
      if getattr(self, name) < least:
        raise errors.InputError(
            f'curate.{name}={getattr(self, name)}: at least {least}')
    answers.check_sampling('curate', self.temperature, self.top_p)
    Projection(**self.project)
    if not 0 <= self.drop_lowest < 1:
      raise errors.InputError(
          f'curate.drop_lowest {self.drop_lowest} is not in [0, 1)')
    if not self.score and (self.samples or self.fallback != 'reference'):
      raise errors.InputError(
          'curate.score=False is for references alone: it needs curate.samples=0,'
          ' hint.enabled=False and curate.fallback=reference')

  @property
  def projection(self) -> Projection:
    """The fields of `project`, checked."""
    return Projection(**self.project)

  def problems_of_round(
      self, problems: Sequence[records.Problem], r: int, rounds: int
  ) -> list[records.Problem]:
    """The problems of round r, out of `rounds` rounds."""
    slices = rounds if self.problems == 'fresh' else 1
    # With a stride, so that each round sees all parts of an ordered
    # file.
    return list(problems[r % slices::slices][:self.per_round or None])


def is_accepted(
    response: records.Response, end: chat.TurnEnd,
    leaking: Callable[[records.Response], bool] = leaks.mentions,
) -> bool:
  """Tells whether a response of the model may be trained on; see the module."""
  return (
      response.correct is True and response.tokens[-1:] == (end.id,)
      and not leaking(response)
  )


def first_distinct(
    responses: Iterable[records.Response],
    accepted: Callable[[records.Response], bool],
    keep: int,
) -> dict[str, list[records.Response]]:
  """The first `keep` accepted responses of each problem that differ in tokens."""
  chosen: dict[str, list[records.Response]] = {}
  for response in responses:
    mine = chosen.setdefault(response.problem_id, [])
    # Twice the same text would only weigh it twice.
    known = {r.tokens for r in mine}
    if len(mine) < keep and response.tokens not in known and accepted(response):
      mine.append(response)
  return chosen


def by_phi(
    scored: Sequence[records.Response], options: Options
) -> tuple[list[int], dict[str, int]]:
  """Applies min_phi and drop_lowest to scored responses.

  Returns:
    Indices of the responses that are kept, and how many each rule dropped.
  """
  # Only texts of the model compete: `fallback` decides about references.
  of_model = sorted(r.phi for r in scored if r.source != 'reference')
  lowest = -np.inf
  if of_model:
    lowest = of_model[int(options.drop_lowest * len(of_model))]
  kept, dropped = [], {'phi below min_phi': 0, 'lowest phi': 0}
  for i, r in enumerate(scored):
    reference = r.source == 'reference'
    bounded = (
        not reference or options.fallback == 'reference_if_phi_above')
    if bounded and r.phi < options.min_phi:
      dropped['phi below min_phi'] += 1
    elif not reference and r.phi < lowest:
      dropped['lowest phi'] += 1
    else:
      kept.append(i)
  return kept, dropped


def count(
    responses: Sequence[records.Response],
    accepted: Callable[[records.Response], bool],
    leaking: Callable[[records.Response], bool],
) -> counts.StageCounts:
  """How many responses a stage made, and how they were judged."""
  return counts.StageCounts(
      responses=len(responses),
      accepted=sum(map(accepted, responses)),
      correct=sum(r.correct is True for r in responses),
      abstained=sum(r.correct is None for r in responses),
      skipped=len({r.problem_id for r in responses if r.finish == 'skipped'}),
      mentions=sum(map(leaking, responses)),
      tokens=sum(
          len(r.tokens) if r.drawn is None else r.drawn for r in responses),
  )


def solved_by(scored: Iterable[records.Response]) -> dict[str, int]:
  """source -> problems that have a response from it."""
  scored = list(scored)
  solved = {(r.source, r.problem_id) for r in scored}
  return {source: sum(s == source for s, _ in solved) for source in sources(scored)}


def sources(responses: Sequence[records.Response]) -> list[str]:
  """The sources that a round lists, in order; PROJECTED only if it has some."""
  some = any(r.source == PROJECTED for r in responses)
  return [*SOURCES[:2], *([PROJECTED] if some else []), *SOURCES[2:]]


def skipped_for(responses: Iterable[records.Response]) -> dict[str, int]:
  """Why problems were skipped, the commonest reason first: reason -> problems."""
  reasons = Counter(
      # Without the numbers of tokens, which differ from problem to problem.
      re.sub(r'\d+', 'N', r.reason) for r in responses if r.finish == 'skipped')
  return dict(reasons.most_common())


def advice_on_skipped(rewritten: Sequence[records.Response]) -> str:
  """Says how many problems were not rewritten, and what to try where it is most.

  Returns:
    One line, or several with the advice; '' where none was skipped.
  """
  reasons = skipped_for(rewritten)
  if not reasons:
    return ''
  n, (reason, most) = sum(reasons.values()), next(iter(reasons.items()))
  said = (
      f'{n} of {len(rewritten)} were not rewritten; the commonest reason, {most}'
      f' times: {reason}')
  if 2 * n <= len(rewritten):
    return said
  return (
      f'warning: {said}.\nTheir references are trained on instead, or nothing, see'
      ' curate.fallback. Try\n'
      '  another --config.hint.template (short, worked_example, or your own file),\n'
      '  --config.hint.prefill=\'# Analyze\' (each analysis begins with it), or\n'
      '  --config.hint.analysis=none (no analysis: the model has read problem and'
      ' solution).')


def describe(
    kept: Sequence[records.Response], source: str
) -> counts.SourceStats:
  """Number, mean phi and mean length of the kept responses of one source."""
  mine = [r for r in kept if r.source == source]
  return counts.SourceStats(
      examples=len(mine),
      phi=float(np.mean([r.phi for r in mine])) if mine else None,
      tokens=float(np.mean([len(r.tokens) for r in mine])) if mine else None,
  )
