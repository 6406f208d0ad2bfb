"""Reports as HTML: one file that needs no network, for light and dark screens.

`run` and `scores` are whole pages, `cell` is a fragment for a notebook. All are
Jinja templates in `pages/` with autoescape on, since prompts and tokens come from
a model or from a stranger's data. `Markup` marks what is not escaped: our own
style sheets and script, and nothing else. A content security policy forbids the
network, and all scripts but ours, should an escape fail.
"""

import base64
from collections.abc import Mapping, Sequence
import hashlib
import pathlib
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from ddt_jax.report import results
from ddt_jax.report import style
from ddt_jax.report import table

_PAGES = pathlib.Path(__file__).parent / 'pages'
# Of the heat maps: below 0 and above 0, and how opaque the ends of the scale are.
# Text stays readable on them in both themes.
BELOW, ABOVE, OPACITY = '213,94,0', '0,114,178', 0.75


class Plot(NamedTuple):
  """A picture in a page, with its heading and caption."""

  heading: str
  caption: str
  picture: style.Picture


class HeatMap(NamedTuple):
  """A text by tokens.

  Attributes:
    heading: text above.
    tokens: (token as shown, text of its tooltip, phi in nats).
  """

  heading: str
  tokens: list[tuple[str, str, float]]


def run(
    *,
    title: str,
    verdict: str,
    warnings: Sequence[str],
    tables: Sequence[tuple[str, table.Table]],
    notes: str,
    about_phi: str,
    plots: Sequence[Plot],
    examples: Sequence[results.ShownText],
    facts: table.Table,
    running: bool = False,
) -> str:
  """The report of a run.

  Args:
    title, verdict, warnings, notes, about_phi: texts.
    tables: with their headings.
    plots: pictures.
    examples: shown as heat maps before and after training, on one scale.
    facts: table at the end.
    running: the browser loads the page again every minute.
  """
  return _environment().get_template('run.html.j2').render(
      title=title, verdict=verdict, warnings=warnings, running=running,
      tables=tables, notes=notes, about_phi=about_phi, plots=plots, facts=facts,
      **before_and_after(examples))


def comparison(
    *,
    title: str,
    tables: Sequence[tuple[str, table.Table]],
    plots: Sequence[Plot],
    notes: str,
) -> str:
  """The page of several runs.

  Args:
    title, notes: texts.
    tables: with their headings.
    plots: pictures.
  """
  return _environment().get_template('comparison.html.j2').render(
      title=title, tables=tables, plots=plots, notes=notes)


def scores(
    *,
    title: str,
    verdicts: Sequence[str],
    tables: Sequence[tuple[str, table.Table]],
    notes: str,
    plots: Sequence[Plot],
    examples: Mapping[str, Any] | None,
) -> str:
  """The report of scored corpora.

  Args:
    title, verdicts, notes: texts.
    tables: with their headings.
    plots: pictures.
    examples: JSON-able data for score.js, see `scores_examples.pack`; None
      without any.
  """
  # The policy allows scripts by digest, so the page may run this text and no other.
  script = (_PAGES / 'score.js').read_text()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  data = None if examples is None else {
      **examples, 'below': BELOW, 'above': ABOVE, 'opacity': OPACITY}
  return _environment().get_template('scores.html.j2').render(
      title=title, verdicts=verdicts, tables=tables, notes=notes, plots=plots,
      data=data, script=markupsafe.Markup(script), script_digest=digest)


def cell(template: str, **content: Any) -> str:
  """Result of a notebook's cell, as a fragment of HTML with its own style.

  Args:
    template: name of a template in pages/cells, without its suffix.
    **content: names in it.
  """
  return _environment().get_template(f'cells/{template}.html.j2').render(content)


def scale_limit(phis: Sequence[float]) -> float:
  """End of a heat map's scale, in nats: at least 1.

  It is the 95th percentile of abs(phi), rounded up. The few tokens beyond it
  share the end's colour; on a longer scale all the others would be pale.
  """
  if not len(phis):
    return 1.0
  return max(float(np.ceil(np.quantile(np.abs(phis), 0.95))), 1.0)


def before_and_after(examples: Sequence[results.ShownText]) -> dict[str, Any]:
  """Heat maps before and after training, and the scale that all share."""
  return dict(
      limit=scale_limit([
          phi for e in examples for turn in e.turns
          for phi in (*turn.phi_before, *turn.phi_after)]),
      examples=[
          (e.title, [(turn.context, _heat_maps(turn)) for turn in e.turns])
          for e in examples])


def with_breaks(token: str) -> str:
  """The token as a heat map shows it: a line end has its sign and breaks the line."""
  return table.visible(token).replace(table.LINE_END, f'{table.LINE_END}\n')


def _heat_maps(turn: results.ShownTurn) -> list[HeatMap]:
  maps = []
  for when, phis in (('before', turn.phi_before), ('after', turn.phi_after)):
    mean = f', mean phi {np.mean(phis):+.2f}' if phis else ''
    tokens = []
    for token, before, after, phi in zip(
        turn.tokens, turn.phi_before, turn.phi_after, phis, strict=True):
      tooltip = (f'"{table.visible(token)}": phi {before:+.2f} before,'
                 f' {after:+.2f} after training')
      tokens.append((with_breaks(token), tooltip, phi))
    maps.append(HeatMap(f'{when} training{mean}', tokens))
  return maps


def _color(phi: float, limit: float) -> str:
  """CSS colour: orange below 0, blue above, transparent at 0."""
  opacity = OPACITY * min(abs(phi) / limit, 1.0)
  return f'rgba({BELOW if phi < 0 else ABOVE},{opacity:.2f})'


def _data_uri(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode("ascii")}'


def _printable(value: Any) -> Any:
  """Replaces lone surrogates, which UTF-8 cannot encode, by '?'."""
  # `encode` returns a plain str, which would take the mark from `Markup` and escape
  # it.
  if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
    return value.encode('utf-8', 'replace').decode('utf-8')
  return value


def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
      # autoescape is off by default in Jinja. StrictUndefined makes a misspelt name
      # an error; the default renders it as nothing.
      loader=jinja2.FileSystemLoader(_PAGES), autoescape=True,
      undefined=jinja2.StrictUndefined, finalize=_printable, trim_blocks=True,
      lstrip_blocks=True)
  # Without spaces: a page of 1,000 texts is mostly these data. Jinja's tojson also
  # escapes <, > and &, so that no text can end the script element.
  environment.policies['json.dumps_kwargs'] = {'separators': (',', ':')}
  environment.filters |= {'color': _color, 'data_uri': _data_uri}
  environment.globals['css'] = {
      file.stem: markupsafe.Markup(file.read_text())
      for file in _PAGES.glob('*.css')}
  return environment
