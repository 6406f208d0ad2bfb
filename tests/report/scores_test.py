"""The score page in a real browser: search, sort, keys, pointer, strange text."""

import functools
import json
import os
import re
import time

import numpy as np
import pytest
import transformers

from ddt_jax import ddt
from ddt_jax import embedded
from ddt_jax.data import chat
from ddt_jax.report import scores
from ddt_jax.report import scores_examples
from ddt_jax.report import scores_plots
from ddt_jax.scoring import corpus_summary
from experiments.run import chromium
from tests.support import corpora

STRANGE = (
    '<script>document.title="broken"</script><img src=x onerror=alert(1)> &amp;'
    ' "\' onload=alert(1) x="')


@functools.cache
def student_tokenizer():
  return transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)


def example(i, corpus='mine.jsonl', text='an answer'):
  """The i-th, of phi -i / 1000."""
  tokenizer = student_tokenizer()
  ids = np.array(tokenizer.encode(f'{text} {i}'), np.int32)
  prompt = np.array(tokenizer.encode(f'Question {i}?'), np.int32)
  n = len(ids)
  stats = ddt.TokenStats(
      log_p=np.linspace(-3, -0.1, n), entropy=np.full(n, 1.0),
      top_ids=np.tile(np.arange(40, 45), (n, 1)),
      top_log_p=np.log(np.tile([0.5, 0.2, 0.1, 0.05, 0.01], (n, 1))))
  row = {
      'line': i + 1, 'rank': 1000 - i, 'phi': -i / 1000, 'z': i / 7,
      'pit_p_value': (i % 50) / 50, 'rejected': i % 50 == 0, 'perplexity': 2.0,
      'length': n,
  }
  return scores_examples.ScoredResponse.of(
      tokenizer, corpus, ('worst', 'typical', 'drawn')[i % 3],
      {f'ddt_{k}': v for k, v in row.items()} | {'source': f'source {i % 2}'},
      'ddt_', chat.answered(prompt, ids), stats, most=400, source='source')


def write(folder, count=1000):
  examples = [example(i) for i in range(count - 1)]
  examples.append(example(count - 1, corpus=STRANGE, text=STRANGE))
  summary = corpus_summary.ScoresSummary(
      model=STRANGE, parameters=1, own='', temperature=1.0, auroc={}, corpora={
          'mine.jsonl': corpora.summary(), STRANGE: corpora.summary(
              seed=1, reasons={f'{STRANGE} is empty': 2})})
  said = scores.write(folder, summary, examples)
  assert 'mine.jsonl is off-policy' in said
  return folder / 'report.html'


def test_strange_text_is_data_and_nothing_else(tmp_path):
  html = write(tmp_path, 3).read_text()
  assert html.count('<script') == 2  # the data and the page's own
  assert '<img src=x' not in html
  assert not re.search(r'(src|href)\s*=\s*"?(https?:)?//', html)
  assert "default-src 'none'" in html and "script-src 'sha256-" in html


@pytest.mark.parametrize('phi', [-6.0, -1.0, 0.0])
@pytest.mark.parametrize('plot', [
    scores_plots.response_phi, scores_plots.qq, scores_plots.token_phi])
def test_every_plot_holds_its_data(phi, plot):
  """Nothing is out of sight, at any mean phi, alone or beside own samples."""
  far = corpora.summary(shift=phi + 0.5)  # without a shift the mean is -0.5
  for shown in ({'mine': far}, {'mine': far, 'own': corpora.summary(seed=1)}):
    (axes,) = plot(shown).axes
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for line in axes.lines:
      x, y = line.get_data()
      if len(x) > 2:  # not the rules
        assert left <= min(x) and max(x) <= right
        assert bottom <= min(y) and max(y) <= top
    for steps in axes.patches:
      heights, edges, _ = steps.get_data()
      filled = np.flatnonzero(heights)
      assert left <= edges[filled[0]] and edges[filled[-1] + 1] <= right
      assert max(heights) <= top
      # A bar is no wider than a tenth of the picture, unless all are alike.
      assert len(filled) == 1 or edges[1] - edges[0] <= (right - left) / 10


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  return write(tmp_path_factory.mktemp('scores'))


@pytest.fixture
def page(file):
  if not chromium.program():
    if os.environ.get('CI') == 'true':
      pytest.fail('Chromium is missing: apt-get install chromium')
    pytest.skip('needs Chromium')
  with chromium.started() as page:
    page.open(file)
    yield page
    assert page.run('document.title').startswith('Is it on-policy?')
    for event in page.console:  # neither errors nor requests
      url = event['params'].get('request', {}).get('url', '')
      assert url.startswith(('file:', 'data:')), event


def column(page, n):
  return page.run(
      f'[...document.querySelectorAll("#rows tr:not(#detail) td:nth-child({n})")]'
      '.map((x) => x.textContent)')


def test_a_thousand_examples_are_searched_sorted_and_read(page):
  status = 'document.getElementById("status").textContent'
  assert page.run(status) == '1–20 of 1000 examples'
  assert page.run('document.querySelectorAll("#rows tr").length') == 21  # one open

  # Sorted by phi, up and down; the second page.
  sort = 'document.querySelector("th[data-key=phi] button").click()'
  up = [float(x.replace('−', '-')) for x in column(page, 5)]
  assert up == sorted(up) and up[0] == -0.999
  page.run(sort)
  assert page.run('document.querySelector("th[data-key=phi]").ariaSort') == (
      'descending')
  assert column(page, 5)[1] == '−0.001'
  page.run('document.getElementById("next").click()')
  assert page.run(status) == '21–40 of 1000 examples'

  # Searched in prompts and responses, and filtered.
  def choose(id_, value):
    page.run(f'(() => {{ const e = document.getElementById("{id_}");'
             f' e.value = {value!r}; e.dispatchEvent(new Event("input")); }})()')

  choose('search', 'question 123?')
  assert page.run(status) == '1–1 of 1 examples'
  assert column(page, 9) == ['an answer 123']
  choose('search', 'nowhere')
  assert page.run(status) == 'no example matches'
  choose('search', '')
  choose('kind', 'rejected')
  assert page.run(status) == '1–20 of 20 examples'
  choose('kind', '')
  choose('corpus', STRANGE)
  assert page.run(status) == '1–1 of 1 examples'

  # The strange text is shown as it is.
  # It is the lowest of all, so it is open from the start; a click closes it.
  click = 'document.querySelector("#rows .row").click()'
  assert page.run('document.querySelectorAll("#detail").length') == 1
  page.run(click)
  assert page.run('document.querySelectorAll("#detail").length') == 0
  page.run(click)
  # In place: below its own row.
  assert page.run(
      'document.querySelector("#rows tr.open + tr").id') == 'detail'
  assert STRANGE in page.run('document.getElementById("tokens").textContent')
  assert STRANGE in page.run('document.querySelector("#rows .row").textContent')
  assert page.run('document.querySelectorAll("#detail script, #detail img").length'
                  ) == 0


def test_turns_are_shown_in_their_order(tmp_path):
  tokenizer = student_tokenizer()
  ids, supervised = [], []
  for text, flag in (('2 + 5?', False), ('7', True), ('And 3 more?', False),
                     ('10', True)):
    part = tokenizer.encode(text)
    ids, supervised = ids + part, supervised + [flag] * len(part)
  e = chat.Example(np.array(ids, np.int32), np.array(supervised))
  n = int(e.supervised.sum())
  stats = ddt.TokenStats(
      np.zeros(n), np.zeros(n), top_ids=np.zeros((n, 1), int),
      top_log_p=np.zeros((n, 1)))
  row = dict.fromkeys((
      'ddt_line', 'ddt_rank', 'ddt_phi', 'ddt_z', 'ddt_perplexity', 'ddt_length',
      'ddt_rejected', 'ddt_pit_p_value'), 0)
  shown = scores_examples.ScoredResponse.of(
      tokenizer, 'mine', 'worst', row, 'ddt_', e, stats, most=400)
  first = len(tokenizer.encode('7'))
  assert shown.prompt == '2 + 5?' and shown.between == [(first, 'And 3 more?')]
  assert ''.join(shown.tokens[:first]) == '7'
  assert ''.join(shown.tokens[first:]) == '10'
  # What is cut off has no turns before it.
  cut = scores_examples.ScoredResponse.of(
      tokenizer, 'mine', 'worst', row, 'ddt_', e, stats, most=first)
  assert cut.between == []


def until(page, condition):
  """Waits for a condition in the page: a busy browser answers keys late."""
  end = time.monotonic() + 30
  while not page.run(condition):
    assert time.monotonic() < end, condition


def test_pointer_and_keys_tell_of_tokens(page):
  inspector = 'document.getElementById("inspector").textContent'
  page.point_at('#tokens .token:nth-child(2)')
  until(page, f'{inspector}.includes("token 2: log p −")')
  said = page.run(inspector)
  assert 'H 1.000' in said and '50.0 %' in said
  assert page.run('document.querySelectorAll("#inspector li").length') == 5

  # By keys alone: down a row, into it, to its tokens, along them, and back.
  page.run('document.querySelector("#rows .row").focus()')
  page.key('ArrowDown')
  page.key('Enter')
  row = 'document.querySelector("#rows tr.open .row").textContent'
  until(page, f'{row} === {json.dumps(column(page, 9)[1])}')
  page.key('Tab')
  until(page, f'{inspector}.includes("token 1: ")')
  page.key('ArrowRight')
  page.key('ArrowRight')
  until(page, f'{inspector}.includes("token 3: ")')
  page.key('End')
  last = page.run('document.querySelectorAll("#tokens .token").length')
  until(page, f'{inspector}.includes("token {last}: ")')
  page.key('Escape')
  until(page, 'document.activeElement.className === "row"')


def test_three_texts_come_first(tmp_path):
  examples = [example(i) for i in range(9)] + [example(3, corpus='own')]
  def said(own):
    return [h.map.heading for h in scores_examples.highlights(examples, own)]

  assert said('own') == [
      'The lowest mean phi: -0.008 nats (mine.jsonl, row 9)',
      'A typical response: -0.004 nats (mine.jsonl, row 5)',
      'An own sample of the model: -0.003 nats (own, row 4)']
  assert said('')[2] == 'The highest mean phi: +0.000 nats (mine.jsonl, row 1)'
  assert len(scores_examples.highlights(examples[:1])) == 1
  assert scores_examples.highlights([]) == []
  long = example(0, text='word ' * 400)
  (shown,) = scores_examples.highlights([long])
  assert len(shown.map.tokens) == 101 and shown.map.tokens[-1][0] == ' \u2026'


def test_a_phone_shows_the_page_without_scrolling_sideways(page):
  page.resize(390, 800)
  assert page.run('document.documentElement.scrollWidth') <= 390
  wide = 'document.querySelector("{}").getBoundingClientRect().width'
  assert page.run(wide.format('#rows .c-text')) > 200
  assert page.run(wide.format('#detail td')) <= 390
  assert page.run(wide.format('img')) > 340  # the pictures' text is 9 pixels high


def test_light_and_dark(page):
  def colors():
    return page.run(
        '["backgroundColor", "color"].map((k) => getComputedStyle(document.body)[k])')

  page.prefer('light')
  light = colors()
  page.prefer('dark')
  dark = colors()
  assert light[0] == 'rgb(255, 255, 255)' and dark[0] == 'rgb(21, 24, 28)'
  # A token below 0 is orange, one above is blue, in both.
  first, last = page.run(
      '[0, -1].map((i) => [...document.querySelectorAll("#tokens .token")].at(i)'
      '.style.background)')
  assert first.startswith('rgba(213, 94, 0') and last.startswith('rgba(0, 114, 178')
