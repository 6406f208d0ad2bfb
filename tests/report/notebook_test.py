"""Results show themselves: the numbers are right, every text is escaped."""

import dataclasses
import html.parser

import jax
import numpy as np
import pytest

from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.report import notebook
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import curate
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import two_streams
from ddt_jax.storage import typed_json
from tests.support import corpora
from tests.support import run_folders
from tests.support import student

HOSTILE = '</div><script>alert(1)</script>" onload="x'
KEY = jax.random.key(0)
GREEDY = answers.Rewriting(
    template='short', max_analysis_tokens=128, temperature=0, beta=0)


class Fragment(html.parser.HTMLParser):
  """Tags with their attributes, and the text."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text = [], ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data


def checked(result) -> Fragment:
  """The HTML of a result, without script, network or a way out of its card."""
  found = Fragment(result._repr_html_())
  names = [tag for tag, _ in found.tags]
  assert not {'script', 'link', 'iframe', 'html', 'body'} & set(names)
  assert [attrs.get('class') for _, attrs in found.tags].count('ddt') == 1
  for _, attrs in found.tags:
    assert not [name for name in attrs if name.startswith('on')]
    assert attrs.get('src', 'data:').startswith('data:image/png;base64,') or (
        'src' not in attrs)
  # A picture for each theme.
  shown = [attrs['style'] for tag, attrs in found.tags if tag == 'img']
  assert shown[::2] == ['display:var(--on-light)'] * (len(shown) // 2)
  assert shown[1::2] == ['display:var(--on-dark)'] * (len(shown) // 2)
  return found


@pytest.fixture(scope='module')
def lm():
  config, params = student.load()
  return params, config, student.tokenizer()


@pytest.fixture(scope='module')
def problem():
  return next(problems.problems('train'))


@pytest.fixture(scope='module')
def traced(lm, problem):
  return notebook.trace(
      *lm, problem, GREEDY, key=KEY, max_new_tokens=128, mesh=student.mesh())


def test_scored_texts_have_phi_of_the_forward(lm, problem):
  params, config, tokenizer = lm
  found = notebook.score(
      *lm, {'reference': (problem.problem, problem.solution),
            HOSTILE: (HOSTILE, HOSTILE)}, mesh=student.mesh())
  text = found['reference']
  example = chat.encode(tokenizer, problem.conversation, student.turn_end())
  logits, _ = model.forward(params, config, example.tokens[None, :-1])
  log_p = jax.nn.log_softmax(logits[0])
  targets = example.tokens[1:]
  phi = (log_p[np.arange(len(targets)), targets]
         - (np.exp(log_p) * log_p).sum(-1))[example.supervised[1:]]
  np.testing.assert_allclose(text.stats.phi, phi, atol=1e-4)
  assert text.scores['phi'] == pytest.approx(float(phi.mean()), abs=1e-4)
  assert ''.join(text.tokens) == problem.solution + student.turn_end().text
  # The likeliest first, each with its probability.
  for top, row in zip(text.top, log_p[example.supervised[1:]], strict=True):
    assert [p for _, p in top] == pytest.approx(
        np.sort(np.exp(row))[::-1][:len(top)].tolist(), abs=1e-4)
  assert f'{text.scores["phi"]:+.3f}' in repr(found)
  page = checked(found)
  assert page.text.count(HOSTILE) == 4  # in table, prompt, heading and text
  assert sum(attrs.get('class') == 'token' for _, attrs in page.tags) == sum(
      len(t.tokens) for t in found.texts)


def test_greedy_self_distillation_draws_the_likeliest_of_each_stream(traced):
  # beta = 0: the hinted stream alone up to the splitter, then the student alone.
  assert traced.student_only_from
  for i, token in enumerate(traced.tokens):
    alone = i >= traced.student_only_from
    assert traced.lam[i] == float(alone)
    tops = traced.student_top if alone else traced.hinted_top
    assert token == tops[i][0][0]
  assert ''.join(traced.tokens).startswith(traced.rewritten)
  assert sum(traced.differs()) > 0  # the student cannot know the container's size
  assert f'at {sum(traced.differs())} of them' in repr(traced)
  assert traced.problem.solution in checked(traced).text


def test_lam_is_that_of_the_mixture(lm, problem):
  params, config, tokenizer = lm
  mixture = hinted_decode.Mixture(beta=2.0)
  hinted = answers.prompt_ids(tokenizer, [problem])[0]
  tokens = tokenizer.encode('Let us count. 1+1=2')
  found = two_streams.along(
      params, config, (hinted, hinted), tokens, mixture, student_only_from=4,
      mesh=student.mesh())
  # The same prompt: both streams agree, up to rounding.
  np.testing.assert_allclose(found.hinted.log_p, found.student.log_p, atol=1e-5)
  logits, _ = model.forward(params, config, np.array([[*hinted, *tokens[:-1]]]))
  last = logits[0, len(hinted) - 1:]
  for i, lam in enumerate(found.lam):
    pair = np.stack([last[i], 0 * last[i]])[:, None]
    mixed = mixture(pair, np.array([i]), np.array([i >= 4]))[0]
    # Against a uniform student, log m is (1 - lam) log p up to a constant.
    np.testing.assert_allclose(
        mixed - mixed[0], (1 - lam) * (last[i] - last[i][0]), atol=1e-3)


def test_a_problem_that_is_not_rewritten_says_why(lm, problem):
  rewriting = dataclasses.replace(GREEDY, max_analysis_tokens=2)
  found = notebook.trace(
      *lm, dataclasses.replace(problem, problem=HOSTILE), rewriting, key=KEY,
      max_new_tokens=16, mesh=student.mesh())
  assert not found.tokens and 'not rewritten' in repr(found)
  page = checked(found)
  assert HOSTILE in page.text and 'img' not in dict(page.tags)


def test_scored_corpora_show_verdict_tables_and_plots(tmp_path):
  summary = corpus_summary.ScoresSummary(
      model=HOSTILE, parameters=1, own='', temperature=1.0, auroc={},
      corpora={HOSTILE: corpora.summary(), 'own': corpora.summary(seed=1)})
  (tmp_path / 'summary.json').write_text(typed_json.to_json(summary))
  found = notebook.Corpora(tmp_path)
  page = checked(found)
  assert HOSTILE in page.text and len(found.plots) == 4
  assert 'own is off-policy' in repr(found)


def test_a_run_shows_what_its_report_says(tmp_path):
  run_folders.workdir(tmp_path, run_folders.run_results())
  found = notebook.Run(tmp_path)
  page = checked(found)
  assert run_folders.HOSTILE in page.text
  assert found.verdicts[0].text in page.text
  assert 'pass@1' in repr(found)
  # No times: they differ from machine to machine.
  assert '4 min 12 s' not in repr(found)


def test_a_curated_corpus_counts_its_authors(problem):
  def response(source, phi):
    return records.Response(
        problem.id, (1, 2), HOSTILE, 'eos', source, True, phi=phi)

  stages = counts.StageCounts(3, 2, 2, 0, 1, 0, 30)
  corpus = curate.Corpus(
      [problem] * 3, [response('own', 0.1), response('hinted', -0.7),
                      response('hinted', 0.1)], [], counts.RoundSummary(
          problems=4, unanswerable=0, own=stages, hinted=stages, dropped={},
          solved={'own': 1, 'hinted': 2, 'reference': 0}, skipped_for={}, timings={},
          sources={'own': counts.SourceStats(1, 0.1, 2.0),
                   'hinted': counts.SourceStats(2, -0.3, 2.0),
                   'reference': counts.SourceStats(0, None, None)}))
  found = notebook.Curated(corpus)
  assert repr(found).startswith(
      '4 problems: 1 solved alone, 2 solved with the hint, 0 fell back')
  # Half of the two rewritten ones are below -0.5.
  row = next(line for line in repr(found).splitlines() if line.startswith('solved with'))
  assert row.split()[4:] == ['2', '-0.300', '50.0%', '2.0']
  checked(found)
