"""The score report as one HTML file: no network, one script, light and dark.

The script is part of the page and named to the browser by its hash: no other
runs, whatever stands in the data. Examples are JSON without a '<'; the script
puts their texts in as text.
"""

import base64
from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from ddt_jax import ddt
from ddt_jax.data import chat
from ddt_jax.report import page_parts
from ddt_jax.report import run_words
from ddt_jax.scoring import corpus_summary

_ASSETS = pathlib.Path(__file__).parent / 'pages'
_EXAMPLES = """<h2 id="examples">Examples</h2>
<p class="note">The colour of a token is its phi. Open a response to see its tokens;
point at one, or move between them with the arrow keys, for its numbers and what the
model would rather have said. Arrow keys move between rows as well.</p>
{scale}
<div class="controls">
<label>search <input id="search" type="search" placeholder="words in prompt or response"></label>
<label>corpus <select id="corpus"><option value="">all</option></select></label>
<label>shown as <select id="kind"><option value="">all</option>
<option>worst</option><option>typical</option><option>drawn</option>
<option>rejected</option></select></label>
</div>
<div class="wide"><table class="examples"><thead><tr id="headers"></tr></thead>
<tbody id="rows"></tbody></table></div>
<div class="pager"><button id="previous">previous</button>
<button id="next">next</button><span id="status" role="status"></span></div>
<section id="detail" aria-label="One response" hidden></section>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
"""


def example(
    tokenizer: Any,
    corpus: str,
    kind: str,
    row: Mapping[str, Any],
    prefix: str,
    tokens: chat.Example,
    stats: ddt.TokenStats,
    *,
    most: int,
    source: str = '',
) -> dict[str, Any]:
  """What the page needs of one response.

  Args:
    tokenizer: of the model.
    corpus, kind: where it comes from, and why it is shown.
    row: its columns and scores, see `score_shards.Shards.examples`.
    prefix: of the scores.
    tokens: the conversation.
    stats: TokenStats of its supervised tokens, with the likeliest.
    most: tokens shown.
    source: the column that names where a row comes from, or ''.
  """
  prompt, response = (
      tokens.tokens[tokens.supervised == flag] for flag in (False, True))
  return {
      'corpus': corpus, 'kind': kind,
      'source': str(row.get(source, '')) if source else '',
      'prompt': tokenizer.decode(prompt, skip_special_tokens=True).strip(),
      'tokens': [tokenizer.decode([t]) for t in response[:most]],
      'log_p': np.round(stats.log_p[:most], 4).tolist(),
      'entropy': np.round(stats.entropy[:most], 4).tolist(),
      'top': [
          [[tokenizer.decode([t]), round(float(p), 4)]
           for t, p in zip(ids, np.exp(log_p), strict=True)]
          for ids, log_p in zip(
              stats.top_ids[:most], stats.top_log_p[:most], strict=True)
      ],
      'p': row[prefix + 'pit_p_value'],
      **{name: row[prefix + name] for name in (
          'line', 'rank', 'phi', 'z', 'rejected', 'perplexity', 'length')},
  }


def page(
    *,
    title: str,
    summary: Mapping[str, Any],
    plots: Mapping[str, tuple[bytes, bytes, str]],
    examples: Sequence[Mapping[str, Any]],
) -> str:
  """The whole page.

  Args:
    title: its heading.
    summary: summary.json.
    plots: heading -> (PNG for light screens, PNG for dark ones, caption).
    examples: see `example`.
  """
  script, style = (
      (_ASSETS / f'score.{kind}').read_text() for kind in ('js', 'css'))
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  parts = [
      page_parts.head(
          title, policy=f"; script-src 'sha256-{digest}'", style=style),
      f'<h1>{page_parts.text(title)}</h1>',
  ]
  for name, numbers in summary['corpora'].items():
    said = corpus_summary.verdict(name, numbers)
    parts.append(f'<p class="verdict">{page_parts.text(said)}</p>')
  for heading, table in corpus_summary.tables(summary):
    parts += [f'<h2>{page_parts.text(heading)}</h2>', page_parts.table(table)]
  parts.append(f'<p class="note">{page_parts.text(corpus_summary.NOTES)}</p>')
  parts += [page_parts.plot(heading, *plot) for heading, plot in plots.items()]
  if examples:
    parts.append(_examples(examples, script))
  return '\n'.join([*parts, '</body></html>\n'])


def _examples(examples, script) -> str:
  phi = np.concatenate(
      [np.add(e['log_p'], e['entropy']) for e in examples])
  # A few extreme tokens would leave the others pale: they share the end colour.
  limit = max(float(np.ceil(np.quantile(np.abs(phi), 0.95))), 1.0)
  vocabulary: dict[str, int] = {}

  def number(token):
    return vocabulary.setdefault(run_words.visible(token), len(vocabulary))

  data = {
      'examples': [
          dict(e) | {
              'tokens': [number(t) for t in e['tokens']],
              'top': [[[number(t), p] for t, p in top] for top in e['top']],
          } for e in examples
      ],
      'limit': limit, 'below': page_parts.ORANGE, 'above': page_parts.BLUE,
      'opacity': page_parts.OPACITY,
  }
  data['vocabulary'] = list(vocabulary)
  text = json.dumps(data, separators=(',', ':')).replace('<', '\\u003c')
  return _EXAMPLES.format(
      scale=page_parts.scale(limit), data=text, script=script)
