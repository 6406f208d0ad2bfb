"""The rounds of a run in tables: where their training data come from."""

from collections.abc import Mapping, Sequence

from ddt_jax.report import table
from ddt_jax.rounds import counts

_SOURCES = {
    'own': 'own answers', 'hinted': 'rewritten references',
    'projected': 'projected answers',
    'reference': 'references',
    'chosen': 'right answers of pairs', 'rejected': 'wrong answers of pairs',
}


_ROUNDS = {
    'problems': 'of the round',
    'own': 'problems solved by an own answer of the model, which is trained on',
    'rewritten': 'problems solved by Hinted Decoding: the reference in the model\'s own'
                 ' words',
    'projected': 'rewritten texts moved by exact chains',
    'reference': 'unsolved problems, for which the reference is trained on'
                 ' (curate.fallback)',
    'none': 'problems that give no training example',
    'skipped': 'not rewritten: no analysis to start from, or no room',
    'not judged': 'responses on which the verifier abstained',
    'tokens sampled': 'of own answers and rewritten texts',
    'pairs': 'of a right and a wrong answer',
    'paired': 'problems with at least one pair',
    'no wrong': 'problems with right answers alone',
    'no right': 'problems with wrong answers alone',
    'neither': 'problems whose answers were all cut off, or not judged',
    'too long': 'pairs that do not fit a row (data.max_tokens)',
}
_TRAINED = {
    'examples': 'texts that the round trained on',
    'mean phi (nats per token)': 'under the model that the round began with; 0 for its'
                                 ' own text',
    'tokens per answer': 'mean',
}


def notes(rounds: Sequence[counts.RoundSummary]) -> str:
  """Explains the columns of `rounds_table`, without a full stop at the end."""
  if any(r.pairs for r in rounds):
    return (
        'Rounds: paired: problems with a right and a wrong answer; no wrong, no'
        ' right: problems with right or with wrong ones alone; neither: all were cut'
        ' off or not judged; too long: pairs that do not fit a row and are left out;')
  return (
      'Rounds: problems by the origin of their solution; skipped: rewriting got no'
      ' analysis to start from;')


def rounds_table(rounds: Sequence[counts.RoundSummary]) -> table.Table:
  """Problems of each round, by the origin of their solution or by their pairs."""
  if any(r.pairs for r in rounds):
    return _pairs_table(rounds)
  rows, projected = [], any(r.solved.get('projected') for r in rounds)
  for i, r in enumerate(rounds, 1):
    # Problems without any training example: neither answered, rewritten nor given.
    unsolved = r.problems - sum(r.solved.values())
    rows.append([str(i), *(f'{n:,}' for n in (
        r.problems, r.solved['own'], r.solved['hinted'],
        *([r.solved.get('projected', 0)] if projected else []),
        r.solved['reference'], unsolved, r.own.skipped + r.hinted.skipped,
        r.own.abstained + r.hinted.abstained,
        r.own.tokens + r.hinted.tokens + (r.projected.tokens if r.projected else 0),
    ))])
  return table.Table([
      'round', 'problems', 'own', 'rewritten', *(['projected'] if projected else []),
      'reference', 'none', 'skipped', 'not judged', 'tokens sampled'], rows,
      about=_ROUNDS)


def kl_table(
    kl_to_base: Sequence[Mapping[str, float]] | None
) -> table.Table | None:
  """KL of the base to the model between rounds; None where it was not measured.

  Args:
    kl_to_base: see `results.RunResults`.
  """
  # Before the first round ends it is 0 alone.
  if not kl_to_base or len(kl_to_base) < 2:
    return None
  return table.Table(
      ['KL to base (nats per token)', 'before', *(
          f'after round {i}' for i in range(1, len(kl_to_base)))],
      [[split, *(f'{found[split]:.4f}' for found in kl_to_base)]
       for split in kl_to_base[0]])


def sources_table(rounds: Sequence[counts.RoundSummary]) -> table.Table:
  """Training examples of each round, by their author."""
  rows = [
      [f'round {i}: {_SOURCES[source]}', f'{stats.examples:,}',
       '' if stats.phi is None else f'{stats.phi:+.3f}', f'{stats.tokens:.1f}']
      for i, r in enumerate(rounds, 1)
      for source, stats in r.sources.items() if stats.examples
  ]
  return table.Table(['training data', 'examples', 'mean phi (nats per token)',
                      'tokens per answer'], rows, about=_TRAINED)


def _pairs_table(rounds: Sequence[counts.RoundSummary]) -> table.Table:
  """Problems of each round, by the sides that their answers take."""
  rows = [
      [str(i), *(f'{n:,}' for n in (
          r.problems, r.pairs.pairs, r.pairs.paired, r.pairs.only_right,
          r.pairs.only_wrong, r.pairs.neither, r.dropped['too long'],
          r.own.abstained, r.own.tokens))]
      for i, r in enumerate(rounds, 1)]
  return table.Table([
      'round', 'problems', 'pairs', 'paired', 'no wrong', 'no right',
      'neither', 'too long', 'not judged', 'tokens sampled'], rows, about=_ROUNDS)
