"""Single responses of a scored corpus, as data for the page's script."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from ddt_jax import ddt
from ddt_jax.data import chat
from ddt_jax.report import page
from ddt_jax.report import table


@dataclasses.dataclass(frozen=True)
class ScoredResponse:
  """One response with its scores; score.js reads these fields.

  Attributes:
    corpus, kind, source: its corpus, why it is shown ('worst', 'typical' or
      'drawn'), and the row's own source.
    line: of the input file, from 1.
    prompt: text before the first scored token.
    tokens: texts of the first scored tokens.
    between: (index in `tokens`, text before that token that is not scored); the
      later user turns of a conversation.
    log_p, entropy: of these tokens, nats.
    top: for each of these tokens the likeliest ones, as (text, probability).
    p: p-value of the PIT test.
    rank: by mean phi, 1 for the lowest.
    phi, z, perplexity: of the whole response.
    length: of the whole response, tokens.
    rejected: by the PIT test at 5 % false discoveries.
  """

  corpus: str
  kind: str
  source: str
  line: int
  prompt: str
  tokens: list[str]
  between: list[tuple[int, str]]
  log_p: list[float]
  entropy: list[float]
  top: list[list[tuple[str, float]]]
  p: float
  rank: int
  phi: float
  z: float
  perplexity: float
  length: int
  rejected: bool

  @classmethod
  def of(
      cls,
      tokenizer: Any,
      corpus: str,
      kind: str,
      row: Mapping[str, Any],
      prefix: str,
      example: chat.Example,
      stats: ddt.TokenStats,
      *,
      most: int,
      source: str = '',
  ) -> 'ScoredResponse':
    """A response as the page shows it.

    Args:
      tokenizer: of the model.
      corpus, kind: see the attributes.
      row: own columns and scores, see `ScoredCorpus.examples`.
      prefix: of the names of scores.
      example: the conversation.
      stats: TokenStats of its supervised tokens, with the likeliest tokens.
      most: tokens shown.
      source: name of the column that holds the row's source, or ''.
    """
    def text(ids):
      return tokenizer.decode(ids, skip_special_tokens=True).strip()

    places = np.flatnonzero(example.supervised)
    response = example.tokens[places]
    # Where the next scored token is not the next token, a prompt stands between.
    gaps = np.flatnonzero(np.diff(places[:most]) > 1)
    return cls(
        corpus=corpus, kind=kind,
        source=str(row.get(source, '')) if source else '',
        prompt=text(example.tokens[:places[0]]),
        between=[
            (int(i) + 1, text(example.tokens[places[i] + 1:places[i + 1]]))
            for i in gaps],
        tokens=[tokenizer.decode([t]) for t in response[:most]],
        # Rounded, to keep the page small.
        log_p=np.round(stats.log_p[:most], 4).tolist(),
        entropy=np.round(stats.entropy[:most], 4).tolist(),
        top=[
            [(tokenizer.decode([t]), round(float(p), 4))
             for t, p in zip(ids, np.exp(log_p), strict=True)]
            for ids, log_p in zip(
                stats.top_ids[:most], stats.top_log_p[:most], strict=True)
        ],
        p=row[prefix + 'pit_p_value'],
        **{name: row[prefix + name] for name in (
            'line', 'rank', 'phi', 'z', 'perplexity', 'length', 'rejected')},
    )


def pack(examples: Sequence[ScoredResponse]) -> dict[str, Any]:
  """Data for score.js; a token's text is stored once, in `vocabulary`."""
  # With five alternatives at each place the same texts repeat many times.
  vocabulary: dict[str, int] = {}

  def index(token):
    return vocabulary.setdefault(table.visible(token), len(vocabulary))

  packed = [
      vars(e) | {
          'tokens': [index(t) for t in e.tokens],
          'top': [[[index(t), p] for t, p in top] for top in e.top],
      } for e in examples
  ]
  phis = np.concatenate([np.add(e.log_p, e.entropy) for e in examples])
  return {'examples': packed, 'vocabulary': list(vocabulary),
          'limit': page.scale_limit(phis)}
