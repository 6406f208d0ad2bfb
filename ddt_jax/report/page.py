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
import re
import textwrap
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
# Nats where the scale ends, the same on every page, so that pages compare. Opacity
# goes by the root of phi: on a linear scale of 5 nats most tokens would be pale.
LIMIT = 5.0
_SOLUTIONS = {  # kind of a `results.ShownAnswer` -> its heading
    'reference': 'Reference', 'wrong': 'Own answer, wrong',
    'rewritten': 'Rewriting, right'}
_TICKS = (-LIMIT, -1.0, 0.0, 1.0, LIMIT)


class Plot(NamedTuple):
  """A picture in a page, with its heading and caption."""

  heading: str
  caption: str
  picture: style.Picture


class Verdict(NamedTuple):
  """What a page says first.

  Attributes:
    text: sentences.
    commands: to follow its advice.
  """

  text: str
  commands: Sequence[str] = ()

  def in_terminal(self, width: int) -> str:
    """The sentences in lines of so many columns; a command stays in one line."""
    return '\n  '.join([textwrap.fill(self.text, width), *self.commands])


class Highlight(NamedTuple):
  """One of the first texts of a page, with what it answers."""

  prompt: str
  map: 'HeatMap'


class HeatMap(NamedTuple):
  """A text by tokens.

  Attributes:
    heading: text above.
    tokens: (token as shown, text of its tooltip, phi in nats; None of a text
      that is not scored).
  """

  heading: str
  tokens: list[tuple[str, str, float | None]]


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
    problems: Sequence[results.ShownProblem],
    facts: table.Table,
    running: bool = False,
    after: bool = True,
) -> str:
  """The report of a run.

  Args:
    title, verdict, warnings, notes, about_phi: texts.
    tables: with their headings.
    plots: pictures.
    examples: shown as heat maps before and, where `after`, after training.
    problems: their solutions are shown side by side.
    facts: table at the end.
    running: the browser loads the page again every minute.
    after: False while nothing is measured after training.
  """
  return _environment().get_template('run.html.j2').render(
      title=title, verdict=verdict, warnings=warnings, running=running,
      tables=tables, notes=notes, about_phi=about_phi, plots=plots, facts=facts,
      examples=before_and_after(examples, after),
      problems=[(p.problem, p.answer, list(map(_solution, p.answers)))
                for p in problems])


def with_verdict(html: str, verdict: str) -> str:
  """The page of a run with another verdict.

  Args:
    html: from `run`.
    verdict: text.
  """
  new = f'<p class="verdict">{markupsafe.escape(_printable(verdict))}</p>'
  return re.sub(
      r'<p class="verdict">.*?</p>', lambda _: new, html, count=1, flags=re.DOTALL)


def comparison(
    *,
    title: str,
    verdicts: Sequence[str],
    tables: Sequence[tuple[str, table.Table]],
    plots: Sequence[Plot],
    notes: str,
) -> str:
  """The page of several runs.

  Args:
    title, verdicts, notes: texts.
    tables: with their headings.
    plots: pictures.
  """
  return _environment().get_template('comparison.html.j2').render(
      title=title, verdicts=verdicts, tables=tables, plots=plots, notes=notes)


def scores(
    *,
    title: str,
    verdicts: Sequence[Verdict],
    highlights: Sequence[Highlight],
    tables: Sequence[tuple[str, table.Table]],
    notes: str,
    plots: Sequence[Plot],
    examples: Mapping[str, Any] | None,
    kinds: Sequence[str] = (),
    about_phi: str = '',
) -> str:
  """The report of scored corpora.

  Args:
    title, notes, about_phi: texts.
    verdicts: on the corpora.
    highlights: the first texts of the page.
    tables: with their headings.
    plots: pictures.
    examples: JSON-able data for score.js, see `scores_examples.pack`; None
      without any.
    kinds: of examples, to choose from.
  """
  # The policy allows scripts by digest, so the page may run this text and no other.
  script = (_PAGES / 'score.js').read_text()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  data = None if examples is None else {
      **examples, 'below': BELOW, 'above': ABOVE, 'opacity': OPACITY, 'limit': LIMIT}
  return _environment().get_template('scores.html.j2').render(
      title=title, verdicts=verdicts, highlights=highlights, tables=tables,
      notes=notes, about_phi=about_phi, plots=plots, data=data, kinds=kinds,
      script=markupsafe.Markup(script), script_digest=digest)


def cell(template: str, **content: Any) -> str:
  """Result of a notebook's cell, as a fragment of HTML with its own style.

  Args:
    template: name of a template in pages/cells, without its suffix.
    **content: names in it.
  """
  return _environment().get_template(f'cells/{template}.html.j2').render(content)


def before_and_after(
    examples: Sequence[results.ShownText], after: bool = True
) -> list[tuple[str, list[tuple[str, list[HeatMap]]]]]:
  """Title and turns of each text: the text before a turn, and its heat maps.

  Args:
    examples: the texts.
    after: False: of the model before training alone.
  """
  return [
      (e.title, [(turn.context, _heat_maps(turn, after)) for turn in e.turns])
      for e in examples]


def _solution(answer: results.ShownAnswer) -> HeatMap:
  """One column of a problem."""
  return HeatMap(
      f'{_SOLUTIONS[answer.kind]}, mean phi {np.mean(answer.phi):+.2f}', [
          (with_breaks(token), f'"{table.visible(token)}": phi {phi:+.2f}', phi)
          for token, phi in zip(answer.tokens, answer.phi, strict=True)])


def with_breaks(token: str) -> str:
  """The token as a heat map shows it: a line end has its sign and breaks the line."""
  return table.visible(token).replace(table.LINE_END, f'{table.LINE_END}\n')


def _heat_maps(turn: results.ShownTurn, after: bool) -> list[HeatMap]:
  maps = []
  stages = (('before', turn.phi_before), ('after', turn.phi_after))[:1 + after]
  for when, phis in stages:
    mean = f', mean phi {np.mean(phis):+.2f}' if phis else ''
    tokens = []
    for i, (token, phi) in enumerate(zip(turn.tokens, phis, strict=True)):
      both = ', '.join(f'{values[i]:+.2f} {name}' for name, values in stages)
      tooltip = f'"{table.visible(token)}": phi {both} training'
      tokens.append((with_breaks(token), tooltip, phi))
    maps.append(HeatMap(f'{when} training{mean}', tokens))
  return maps


def _place(phi: float) -> float:
  """Place of phi on the scale of colours, -1 to 1."""
  return float(np.sign(phi) * np.sqrt(min(abs(phi) / LIMIT, 1.0)))


def _color(phi: float) -> str:
  """CSS colour: orange below 0, blue above, transparent at 0."""
  return f'rgba({BELOW if phi < 0 else ABOVE},{OPACITY * abs(_place(phi)):.2f})'


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
  # (percent from the left, label, colour) of the ticks of the scale.
  environment.globals['ticks'] = [
      (50 + 50 * _place(phi),
       f'{phi:+g}'.replace('-', '\u2212') if phi else '0', _color(phi))
      for phi in _TICKS]
  environment.globals['css'] = {
      file.stem: markupsafe.Markup(file.read_text())
      for file in _PAGES.glob('*.css')}
  return environment
