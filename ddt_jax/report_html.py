"""The report as one HTML file: no network, no scripts, light and dark.

Prompts and tokens come from a model or from a stranger's data; every text
passes through `_text` before it enters the page.
"""
import base64
import html

import numpy as np

from ddt_jax import report_summary as summary

# The policy forbids scripts and the network, should an escape ever be missed.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #ffffff; --ink: #22262b;
  --soft: #5b6470; --line: #d9dde2; --card: #f5f6f8; --accent: #0072b2; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #15181c;
  --ink: #e4e6e9; --soft: #a3abb5; --line: #343a42; --card: #1d2126;
  --accent: #56b4e9; }} }}
body {{ background: var(--paper); color: var(--ink); margin: 0 auto;
  max-width: 58rem; padding: 1.5rem 1rem 4rem;
  font: 1rem/1.55 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.4rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }}
.verdict {{ background: var(--card); border-left: 4px solid var(--accent);
  padding: .8rem 1rem; font-size: 1.1rem; }}
.note, figcaption, .scale {{ color: var(--soft); font-size: .88rem; }}
.wide {{ overflow-x: auto; white-space: nowrap; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; }}
th {{ color: var(--soft); font-weight: 600; }}
tr > :first-child, .facts td {{ text-align: left; }}
.facts td {{ overflow-wrap: anywhere; white-space: normal; }}
.facts td:first-child {{ white-space: nowrap; color: var(--soft); }}
img {{ display: block; max-width: 100%; height: auto; }}
.text {{ background: var(--card); padding: .6rem .8rem; margin: .2rem 0 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  font: .9rem/1.9 ui-monospace, monospace; }}
.token {{ border-radius: 2px; padding: .12em 0; unicode-bidi: isolate; }}
.bar {{ height: .8rem; border: 1px solid var(--line); }}
.ticks {{ display: flex; }} .ticks span {{ flex: 1; text-align: center; }}
.ticks :first-child {{ text-align: left; }}
.ticks :last-child {{ text-align: right; }}
.scale {{ max-width: 34rem; }}
</style></head><body>
"""
_ORANGE, _BLUE = '213,94,0', '0,114,178'
_LINE_END = summary.visible('\n')
_OPACITY = 0.75  # At the ends of the scale; text stays readable in both themes.


def page(*, config: dict, results: dict,
         plots: dict[str, tuple[bytes, bytes, str]]) -> str:
  """The whole page.

  Args:
    config: config.json.
    results: results.json, as `report_summary.check` accepts it.
    plots: heading -> (PNG for light screens, PNG for dark ones, caption).
  """
  title = f'Report of the run {results["name"]}'
  parts = [_HEAD.format(title=_text(title)), f'<h1>{_text(title)}</h1>',
           f'<p class="verdict">{_text(summary.verdict(results))}</p>']
  for heading, table in summary.tables(results):
    parts += [f'<h2>{heading}</h2>', _table(table)]
  parts += [f'<p class="note">{_text(summary.NOTES)}</p>',
            '<h2>What phi is</h2>', f'<p>{_text(summary.ABOUT_PHI)}</p>']
  parts += [_plot(heading, *plot) for heading, plot in plots.items()]
  if results['examples']:
    parts.append(_examples(results['examples']))
  parts += ['<h2>The run</h2>',
            _table(summary.facts_table(config, results), 'facts'),
            '</body></html>\n']
  return '\n'.join(parts)


def _examples(examples: list[dict]) -> str:
  """Texts as heat-maps, all on one scale, which is centred at phi = 0."""
  values = np.abs([phi for example in examples for name in ('before', 'after')
                   for phi in example[f'phi_{name}']])
  # A few extreme tokens would leave the others pale: they share the end colour.
  limit = max(np.ceil(np.quantile(values, 0.95)), 1.0) if values.size else 1.0
  parts = ['<h2>Examples</h2>',
           '<p class="note">The colour of a token is its phi; point at one for '
           'the numbers.</p>', _scale(limit)]
  for example in examples:
    parts += [f'<h3>{_text(example["title"])}</h3>',
              f'<div class="text">{_text(example["prompt"])}</div>']
    for name in ('before', 'after'):
      phis = example[f'phi_{name}']
      mean = f', mean phi {np.mean(phis):+.2f}' if phis else ''
      tokens = ''.join(
          _token(token, *pair, phi, limit) for token, *pair, phi in zip(
              example['tokens'], example['phi_before'], example['phi_after'],
              phis, strict=True))
      parts += [f'<div class="note">{name} training{mean}</div>',
                f'<div class="text">{tokens}</div>']
  return '\n'.join(parts)


def _token(token: str, before: float, after: float, phi: float,
           limit: float) -> str:
  shown = summary.visible(token)
  hover = f'"{shown}": phi {before:+.2f} before, {after:+.2f} after training'
  return (f'<span class="token" title="{_text(hover)}" '
          f'style="background:{_color(phi, limit)}">'
          f'{_text(shown.replace(_LINE_END, _LINE_END + chr(10)))}</span>')


def _color(phi: float, limit: float) -> str:
  """Orange below 0, blue above, clear at 0, so that both themes can use it."""
  opacity = _OPACITY * min(abs(phi) / limit, 1.0)
  return f'rgba({_ORANGE if phi < 0 else _BLUE},{opacity:.2f})'


def _scale(limit: float) -> str:
  stops = ', '.join(_color(phi, limit) for phi in (-limit, 0.0, limit))
  return (f'<div class="scale"><div class="bar" style="background:'
          f'linear-gradient(to right, {stops})"></div><div class="ticks">'
          f'<span>phi &le; &minus;{limit:g} nats<br>surprises the model</span>'
          '<span>0<br>natural</span>'
          f'<span>&ge; +{limit:g} nats<br>likelier than usual</span></div></div>')


def _plot(heading: str, light: bytes, dark: bytes, caption: str) -> str:
  return (f'<h2>{_text(heading)}</h2><figure style="margin:0"><picture><source '
          f'media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">'
          f'<img src="{_data_uri(light)}" alt="{_text(caption)}"></picture>'
          f'<figcaption>{_text(caption)}</figcaption></figure>')


def _table(table: summary.Table, name: str = '') -> str:
  def row(cells, tag):
    return '<tr>' + ''.join(f'<{tag}>{_text(c)}</{tag}>' for c in cells) + '</tr>'

  head = row(table.header, 'th') if any(table.header[1:]) else ''
  body = ''.join(row(cells, 'td') for cells in table.rows)
  return f'<div class="wide"><table class="{name}">{head}{body}</table></div>'


def _text(text: str) -> str:
  """Escapes for HTML text and quoted attributes; lone surrogates become '?'."""
  return html.escape(text.encode('utf-8', 'replace').decode('utf-8'), quote=True)


def _data_uri(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode("ascii")}'
