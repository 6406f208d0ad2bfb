"""What curate says at its end."""

import json

import pytest

from configs import idft
from ddt_jax.rounds import counts
from experiments import curate

NONE = counts.StageCounts(0, 0, 0, 0, 0, 0, 0)
TRIED = counts.StageCounts(8, 0, 0, 0, 0, 0, 99)


def summary(own, *, solved, too_long=0):
  solved = dict.fromkeys(('own', 'hinted', 'reference'), 0) | solved
  return counts.RoundSummary(
      problems=8, unanswerable=0, own=own, hinted=NONE, solved=solved,
      dropped={'too long': too_long}, skipped_for={}, timings={}, sources={
          k: counts.SourceStats(n, 0.0, 1.0) for k, n in solved.items()})


@pytest.mark.parametrize('own, solved, too_long, asked, parts', [
    (TRIED, dict(own=5, reference=3), 0, True, (False, False, False)),
    (TRIED, dict(own=5, reference=2), 1, True, (False, False, True)),
    (TRIED, dict(reference=8), 0, True, (True, False, False)),
    (NONE, dict(reference=8), 0, True, (True, True, False)),
    (NONE, dict(reference=8), 0, False, (False, False, False)),
])
def test_what_the_model_did_not_write_is_said(own, solved, too_long, asked, parts):
  said = curate.described(summary(own, solved=solved, too_long=too_long), asked)
  assert ('nothing in it is by the model' in said,
          'No problem has an answer to verify' in said,
          '1 texts left out' in said) == parts


def test_a_file_of_another_kind_is_refused_before_any_work(capsys):
  with pytest.raises(SystemExit):
    curate.execute(idft.get_config(), 'corpus.csv')
  assert '--out=corpus.csv: its name must end in .jsonl' in capsys.readouterr().err


@pytest.mark.parametrize('shares, said', [
    ({}, 'validation (2) and evaluation (2);'),
    ({'validation': 0.0, 'evaluation': 0.0}, '')])
def test_rows_that_are_held_out_are_said(tmp_path, capsys, shares, said):
  path = tmp_path / 'my.jsonl'
  path.write_text(''.join(json.dumps({
      'problem': f'What is {i} + 1?', 'solution': f'It is \\boxed{{{i + 1}}}.'}) + '\n'
                          for i in range(40)))
  c = idft.get_config()
  c.data.path, c.curate.samples, c.curate.score = str(path), 0, False
  c.hint.enabled = False
  c.data.update(shares)
  curate.execute(c, tmp_path / 'out.jsonl')
  found = capsys.readouterr().out
  assert ('not in the file' in found) == bool(said) and said in found
  rows = len((tmp_path / 'out.jsonl').read_text().splitlines())
  assert rows == (36 if said else 40)
