"""The report as one HTML file: no network, no scripts, light and dark.

Every text passes through `page.text` before it enters the page.
"""
from collections.abc import Sequence

import numpy as np

from ddt_jax.report import page_parts
from ddt_jax.report import results
from ddt_jax.report import run_words

_LINE_END = run_words.visible('\n')


def page(*, config: dict, found: results.RunResults,
         plots: dict[str, tuple[bytes, bytes, str]]) -> str:
  """The whole page.

  Args:
    config: config.json.
    found: results.json.
    plots: heading -> (PNG for light screens, PNG for dark ones, caption).
  """
  title = f'Report of the run {found.name}'
  parts = [page_parts.head(title), f'<h1>{page_parts.text(title)}</h1>',
           f'<p class="verdict">{page_parts.text(run_words.verdict(found))}</p>']
  for heading, table in run_words.tables(found):
    parts += [f'<h2>{heading}</h2>', page_parts.table(table)]
  parts += [f'<p class="note">{page_parts.text(run_words.NOTES)}</p>',
            '<h2>What phi is</h2>', f'<p>{page_parts.text(run_words.ABOUT_PHI)}</p>']
  parts += [page_parts.plot(heading, *plot) for heading, plot in plots.items()]
  if found.examples:
    parts.append(_examples(found.examples))
  parts += ['<h2>The run</h2>',
            page_parts.table(run_words.facts_table(config, found), 'facts'),
            '</body></html>\n']
  return '\n'.join(parts)


def _examples(examples: Sequence[results.ShownText]) -> str:
  """Texts as heat-maps, all on one scale, which is centred at phi = 0."""
  values = np.abs([phi for example in examples
                   for phi in (*example.phi_before, *example.phi_after)])
  # A few extreme tokens would leave the others pale: they share the end colour.
  limit = max(np.ceil(np.quantile(values, 0.95)), 1.0) if values.size else 1.0
  parts = ['<h2>Examples</h2>',
           '<p class="note">The colour of a token is its phi; point at one for '
           'the numbers.</p>', page_parts.scale(limit)]
  for example in examples:
    parts += [f'<h3>{page_parts.text(example.title)}</h3>',
              f'<div class="text">{page_parts.text(example.prompt)}</div>']
    for name, phis in (
        ('before', example.phi_before), ('after', example.phi_after)):
      mean = f', mean phi {np.mean(phis):+.2f}' if phis else ''
      tokens = ''.join(
          _token(token, *pair, phi, limit) for token, *pair, phi in zip(
              example.tokens, example.phi_before, example.phi_after,
              phis, strict=True))
      parts += [f'<div class="note">{name} training{mean}</div>',
                f'<div class="text">{tokens}</div>']
  return '\n'.join(parts)


def _token(token: str, before: float, after: float, phi: float,
           limit: float) -> str:
  shown = run_words.visible(token)
  hover = f'"{shown}": phi {before:+.2f} before, {after:+.2f} after training'
  return (f'<span class="token" title="{page_parts.text(hover)}" '
          f'style="background:{page_parts.color(phi, limit)}">'
          f'{page_parts.text(shown.replace(_LINE_END, _LINE_END + chr(10)))}</span>')
