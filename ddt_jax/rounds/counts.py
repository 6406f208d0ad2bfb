"""Counts and means of one round, for its summary.json and the report."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StageCounts:
  """Responses that one stage produced.

  Attributes:
    responses: all of them.
    accepted: right, complete, and without a leak of the hint.
    correct: right by the verifier.
    abstained: not judged by the verifier.
    skipped: problems without a response, for want of room in the model's
      context or of an analysis to rewrite from.
    mentions: texts that speak of a given solution or repeat the template's
      example, see `leaks.Finder`.
    tokens: that were drawn for them; of chains, those of rejected proposals too.
  """

  responses: int
  accepted: int
  correct: int
  abstained: int
  skipped: int
  mentions: int
  tokens: int


@dataclasses.dataclass(frozen=True)
class SourceStats:
  """Training examples of one source.

  Attributes:
    examples: their number.
    phi: mean over examples of their mean phi, nats per token; None without
      examples.
    tokens: mean length of a response, in tokens; None without examples.
  """

  examples: int
  phi: float | None
  tokens: float | None


@dataclasses.dataclass(frozen=True)
class PairCounts:
  """How many problems gave pairs, and why the others gave none.

  Attributes:
    pairs: of all problems.
    paired: problems with at least one pair.
    only_right: problems with right responses and no wrong one.
    only_wrong: problems with wrong responses and no right one.
    neither: problems whose responses were all cut off, or not judged.
  """

  pairs: int
  paired: int
  only_right: int
  only_wrong: int
  neither: int

  def __str__(self) -> str:
    return (
        f'{self.pairs} pairs from {self.paired} problems; no pair:'
        f' {self.only_right} with right answers alone, {self.only_wrong} with wrong'
        f' ones alone, {self.neither} with neither')


@dataclasses.dataclass(frozen=True)
class RoundSummary:
  """One round of `curate.curate` in numbers.

  Attributes:
    problems: of the round.
    unanswerable: problems without an answer, which nobody can verify.
    own: the model's own answers.
    hinted: rewritten references.
    solved: source -> problems that got a training example from it.
    dropped: reason -> examples that were left out.
    sources: source -> what was trained on.
    skipped_for: reason -> problems that were not rewritten for it, the
      commonest first.
    timings: stage -> seconds.
    pairs: where the round trains on pairs of responses, else None.
    projected: ends of the chains that began at rewritten references; None in a
      file without them.
  """

  problems: int
  unanswerable: int
  own: StageCounts
  hinted: StageCounts
  solved: dict[str, int]
  dropped: dict[str, int]
  sources: dict[str, SourceStats]
  skipped_for: dict[str, int]
  timings: dict[str, float]
  pairs: PairCounts | None = None
  projected: StageCounts | None = None
