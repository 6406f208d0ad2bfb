"""Filters of a scored corpus: the responses that each keeps, and a file of them."""

from collections.abc import Mapping
import json
import re

from etils import epath
import numpy as np

from ddt_jax import errors
from ddt_jax.scoring import scored_corpus

Columns = Mapping[str, np.ndarray]
# Columns of a scored corpus that the rules read.
READS = ('phi', 'tail_5', 'rejected')
ABOUT = {  # name -> what it keeps
    'all': 'everything that was scored',
    'accepted': 'responses that the PIT test accepts',
    'phi>-0.1': 'mean phi above -0.1; or any other number',
    'phi>-0.5': 'mean phi above -0.5',
    'no_token_below_-5': 'no token with phi below -5',
    'without_lowest_tenth': 'all but the tenth with the lowest phi',
}


def rule(name: str, columns: Columns) -> np.ndarray:
  """Whether a filter keeps each response, [responses].

  Args:
    name: a key of `ABOUT`, or phi>NUMBER.
    columns: `READS` of the whole corpus, each [responses].

  Raises:
    errors.InputError: there is no such filter.
  """
  phi = columns['phi']
  if bound := _bound(name):
    return phi > float(bound)
  if name == 'all':
    return np.ones(len(phi), bool)
  if name == 'accepted':
    return ~columns['rejected'].astype(bool)
  if name == 'no_token_below_-5':
    return columns['tail_5'] == 0
  if name == 'without_lowest_tenth':
    return phi > (np.quantile(phi, 0.1) if len(phi) else 0.0)
  raise errors.InputError(
      f'write.keep={name}: there is no such filter; choose from {", ".join(ABOUT)},'
      ' with any number after phi>' + errors.did_you_mean(name, ABOUT))


def check(name: str) -> None:
  """Raises errors.InputError where there is no filter of this name."""
  rule(name, {column: np.zeros(1) for column in READS})


def write(
    corpus: scored_corpus.ScoredCorpus, name: str, file: epath.Path
) -> tuple[int, int]:
  """Writes the rows that a filter keeps as JSON lines, with their own columns alone.

  Of a conversation that was split by turns, all responses must be kept.

  Args:
    corpus: scored and ranked.
    name: see `rule`.
    file: the file, replaced if it is there.

  Returns:
    Rows kept, and rows scored.
  """
  columns = corpus.columns('line', *READS)
  lost = set(columns['line'][~rule(name, columns)].tolist())
  kept, seen = 0, set()
  partial = file.with_name(f'{file.name}.partial')
  with partial.open('w') as f:
    for row in corpus.rows():
      line = row.pop(f'{corpus.prefix}line')
      if line in seen:
        continue
      seen.add(line)
      if line not in lost:
        own = {k: v for k, v in row.items() if not k.startswith(corpus.prefix)}
        f.write(json.dumps(own) + '\n')
        kept += 1
  partial.replace(file)
  return kept, len(seen)


def _bound(name: str) -> str | None:
  """The number of phi>NUMBER."""
  found = re.fullmatch(r'phi>([-+]?\d*\.?\d+)', name)
  return found and found[1]
