"""Single responses of a scored corpus, as data for the page's script."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from ddt_jax import ddt
from ddt_jax.data import chat
from ddt_jax.report import page
from ddt_jax.report import table

# `ScoredResponse.kind` -> word on the page.
KINDS = {'worst': 'lowest', 'typical': 'median', 'drawn': 'random'}
_MOST, _PROMPT = 100, 300  # tokens and characters that a highlight shows


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
          'kind': KINDS[e.kind],
          'tokens': [index(t) for t in e.tokens],
          'top': [[[index(t), p] for t, p in top] for top in e.top],
      } for e in examples
  ]
  return {'examples': packed, 'vocabulary': list(vocabulary)}


def highlights(
    examples: Sequence[ScoredResponse], own: str = ''
) -> list[page.Highlight]:
  """Three texts that a page begins with.

  They are the response with the lowest mean phi, a typical one, and a typical own
  sample; where there are none, the response with the highest mean phi.

  Args:
    examples: of all corpora.
    own: name of the corpus of own samples, '' without one.
  """
  given = sorted((e for e in examples if e.corpus != own), key=lambda e: e.phi)
  mine = [e for e in examples if e.corpus == own]
  chosen = [
      ('The lowest mean phi', given[:1]), ('A typical response', _typical(given)),
      ('An own sample of the model', _typical(mine)) if mine else
      ('The highest mean phi', given[-1:])]
  shown: dict[int, page.Highlight] = {}
  for words, found in chosen:
    for e in found:
      # A corpus of one row has one of them.
      shown.setdefault(id(e), _highlight(words, e))
  return list(shown.values())


def _typical(examples: Sequence[ScoredResponse]) -> list[ScoredResponse]:
  """The one in the middle by mean phi, of those shown as typical if there are any."""
  typical = [e for e in examples if e.kind == 'typical'] or examples
  by_phi = sorted(typical, key=lambda e: e.phi)
  return list(by_phi[len(by_phi) // 2:][:1])


def _highlight(words: str, e: ScoredResponse) -> page.Highlight:
  tokens = []
  between = dict(e.between)
  for i, (token, log_p, entropy, top) in enumerate(zip(
      e.tokens[:_MOST], e.log_p, e.entropy, e.top, strict=False)):
    if i in between:
      tokens.append((f'\n{between[i]}\n', 'not scored', None))
    likeliest = ', '.join(f'"{table.visible(t)}" {table.percent(p)}' for t, p in top)
    tokens.append((
        page.with_breaks(token),
        f'"{table.visible(token)}": phi {log_p + entropy:+.2f}, p'
        f' {table.percent(np.exp(log_p))}; likeliest here: {likeliest}', log_p + entropy))
  if e.length > len(tokens):
    tokens.append((' \u2026', 'the rest is in the list of examples', None))
  prompt = e.prompt if len(e.prompt) <= _PROMPT else f'\u2026{e.prompt[-_PROMPT:]}'
  return page.Highlight(prompt, page.HeatMap(
      f'{words}: {e.phi:+.3f} nats ({e.corpus}, row {e.line})', tokens))
