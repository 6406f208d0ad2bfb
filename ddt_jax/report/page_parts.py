"""Parts of HTML pages that need no network: head, tables, plots, texts.

Prompts and tokens come from a model or from a stranger's data; every text
passes through `text` before it enters a page.
"""
import base64
import html

from ddt_jax.report import run_words

# The policy forbids the network and scripts but those that are named, should an
# escape ever be missed.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{policy}">
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
{style}</style></head><body>
"""
ORANGE, BLUE = '213,94,0', '0,114,178'
OPACITY = 0.75  # At the ends of the scale; text stays readable in both themes.


def head(title: str, *, policy: str = '', style: str = '') -> str:
  """The page up to its body; `policy` names scripts, `style` is more CSS."""
  return _HEAD.format(title=text(title), policy=policy, style=style)


def color(phi: float, limit: float) -> str:
  """Orange below 0, blue above, clear at 0, so that both themes can use it."""
  opacity = OPACITY * min(abs(phi) / limit, 1.0)
  return f'rgba({ORANGE if phi < 0 else BLUE},{opacity:.2f})'


def scale(limit: float) -> str:
  stops = ', '.join(color(phi, limit) for phi in (-limit, 0.0, limit))
  return (f'<div class="scale"><div class="bar" style="background:'
          f'linear-gradient(to right, {stops})"></div><div class="ticks">'
          f'<span>phi &le; &minus;{limit:g} nats<br>surprises the model</span>'
          '<span>0<br>natural</span>'
          f'<span>&ge; +{limit:g} nats<br>likelier than usual</span></div></div>')


def plot(heading: str, light: bytes, dark: bytes, caption: str) -> str:
  return (f'<h2>{text(heading)}</h2><figure style="margin:0"><picture><source '
          f'media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">'
          f'<img src="{_data_uri(light)}" alt="{text(caption)}"></picture>'
          f'<figcaption>{text(caption)}</figcaption></figure>')


def table(content: run_words.Table, name: str = '') -> str:
  def row(cells, tag):
    return '<tr>' + ''.join(f'<{tag}>{text(c)}</{tag}>' for c in cells) + '</tr>'

  header = row(content.header, 'th') if any(content.header[1:]) else ''
  body = ''.join(row(cells, 'td') for cells in content.rows)
  return f'<div class="wide"><table class="{name}">{header}{body}</table></div>'


def text(content: str) -> str:
  """Escapes for HTML text and quoted attributes; lone surrogates become '?'."""
  return html.escape(content.encode('utf-8', 'replace').decode('utf-8'), quote=True)


def _data_uri(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode("ascii")}'
