"""Pages escape every text, wherever it stands, and lose nothing of it."""

import html.parser
import json

import pytest

from ddt_jax.report import page
from ddt_jax.report import results
from ddt_jax.report import style
from ddt_jax.report import table

HOSTILE = [
    '<script>alert(1)</script>', '</script><script>alert(1)</script>', '<!--',
    '" onmouseover="alert(1)', "' onmouseover='alert(1)", '{{ 7 * 7 }}',
    '{% raw %}', '&amp; &lt;', ']]>', '\u2028', 'a\nb',
]
PLOT = page.Plot('heading', 'caption', style.Picture(b'light', b'dark', 600))
CELLS = table.Table(['name', 'n'], [['a', '1']])


class Page(html.parser.HTMLParser):
  """Tags with their attributes, and the text outside and inside of scripts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self.scripts = [], '', []
    self._in_script = False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == 'script':
      self._in_script = True
      self.scripts.append('')

  def handle_endtag(self, tag):
    self._in_script &= tag != 'script'

  def handle_data(self, data):
    if self._in_script:
      self.scripts[-1] += data
    else:
      self.text += data


def run_page(text='', facts=CELLS):
  example = results.ShownText(text, (
      results.ShownTurn(text, (text, 'b'), (-3.0, 0.1), (0.5, 0.2)),))
  return page.run(
      title=text, verdict=text, warnings=[text], running=True, tables=[(text, table.Table(
          [text, text], [[text, text]]))], notes=text, about_phi=text,
      plots=[PLOT._replace(heading=text, caption=text)], examples=[example],
      problems=[results.ShownProblem(text, text, (
          results.ShownAnswer('rewritten', (text,), (-1.0,)),))], facts=facts)


def scores_page(text=''):
  return page.scores(
      title=text, verdicts=[page.Verdict(text, [text])], tables=[(text, CELLS)], notes=text,
      highlights=[page.Highlight(text, page.HeatMap(text, [(text, text, -1.0)]))],
      plots=[PLOT._replace(caption=text)],
      examples={'examples': [{'prompt': text}], 'vocabulary': [text]}, kinds=[text])


def names(found):
  """Tags with the names of their attributes."""
  return [(tag, sorted(attrs)) for tag, attrs in found.tags]


@pytest.mark.parametrize('make', [run_page, scores_page])
@pytest.mark.parametrize('text', HOSTILE)
def test_a_hostile_text_adds_no_tag_and_no_attribute(make, text):
  assert names(Page(make(text))) == names(Page(make('plain')))


@pytest.mark.parametrize('text', HOSTILE)
def test_a_text_is_shown_as_it_is(text):
  found = Page(run_page(text))
  # Title twice, verdict, warning, heading, four cells, notes, phi, plot twice, and
  # the example.
  assert found.text.count(text) >= 14
  image, = (attrs for tag, attrs in found.tags if tag == 'img')
  assert image['alt'] == text
  tooltips = [a['title'] for tag, a in found.tags if 'title' in a]
  assert f'"{table.visible(text)}": phi -3.00 before, +0.50 after training' in (
      tooltips)


@pytest.mark.parametrize('text', HOSTILE)
def test_a_text_reaches_the_script_as_data(text):
  data, script = Page(scores_page(text)).scripts
  assert json.loads(data)['vocabulary'] == [text]
  assert json.loads(data)['examples'] == [{'prompt': text}]
  assert '<' not in data
  assert script == Page(scores_page('')).scripts[1]


def test_half_a_surrogate_pair_does_not_end_the_report():
  for make in (run_page, scores_page):
    assert make('a\ud800b').encode()
  assert 'a?b' in run_page('a\ud800b')


def test_only_the_page_s_own_script_may_run():
  policies = [
      attrs['content'] for text in (run_page(), scores_page())
      for tag, attrs in Page(text).tags
      if attrs.get('http-equiv') == 'Content-Security-Policy']
  assert all(p.startswith("default-src 'none'") for p in policies)
  assert 'script-src' not in policies[0]
  assert "script-src 'sha256-" in policies[1]


@pytest.mark.parametrize('make', [run_page, scores_page])
def test_a_page_is_one_file_that_can_be_mailed(make):
  text = make('https://example.org/a.png')
  found = Page(text)
  for tag, attrs in found.tags:
    assert tag not in ('link', 'iframe', 'object', 'embed', 'base'), tag
    for name in ('src', 'href', 'srcset', 'data', 'poster', 'action', 'background'):
      assert attrs.get(name, '#').startswith(('data:', '#')), (tag, name)
    assert 'url(' not in attrs.get('style', '')
  # Style sheets load files by these two.
  assert 'url(' not in found.text and '@import' not in found.text
  assert [tag for tag, _ in found.tags if tag == 'style']


def test_a_page_without_examples_has_no_script():
  text = page.scores(
      title='', verdicts=[], highlights=[], tables=[], notes='', plots=[],
      examples=None)
  assert not Page(text).scripts and 'Examples' not in text


def test_a_header_without_names_is_left_out():
  facts = table.Table(['run', ''], [['model', 'm']], words=(0, 1))
  tags = [tag for tag, _ in Page(run_page('x', facts)).tags]
  assert tags.count('th') == 2  # of the other table
  cells = [a for tag, a in Page(run_page('x', facts)).tags if tag == 'td']
  assert [a.get('class') for a in cells] == ['words', None, 'words', 'words']


def test_tokens_are_coloured_by_phi():
  found = Page(run_page('x'))
  styles = [a['style'] for tag, a in found.tags if a.get('class') == 'token']
  # The same on every page: 0.75 at 5 nats and beyond, by the root below.
  assert styles[0] == f'background:rgba({page.BELOW},0.34)'  # -1, of the problem
  assert styles[1] == f'background:rgba({page.BELOW},0.58)'  # -3
  assert styles[3] == f'background:rgba({page.ABOVE},0.24)'  # 0.5
  assert page._color(-50.0) == f'rgba({page.BELOW},0.75)'
  assert page._color(0.0) == f'rgba({page.ABOVE},0.00)'


def test_a_scale_shows_where_its_ticks_are():
  found = Page(run_page('x'))
  places = [a['style'] for tag, a in found.tags
            if tag == 'span' and a.get('style', '').startswith('left')]
  # Above the problems and above the examples.
  assert places == 2 * ['left:0%', 'left:28%', 'left:50%', 'left:72%', 'left:100%']
  assert '\u22125\u221210+1+5' in found.text


def test_heads_explain_themselves():
  cells = table.Table(['a', 'b'], [['1', '2']], about={'b': 'what "b" means'})
  found = Page(run_page('x', cells))
  (abbr,) = (a for tag, a in found.tags if tag == 'abbr')
  assert abbr == {'tabindex': '0', 'title': 'what "b" means'}
