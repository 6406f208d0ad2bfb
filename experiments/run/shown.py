"""Problems of the first round that the report shows: what Hinted Decoding makes."""

from collections.abc import Iterator
import itertools
from typing import Any

from etils import epath

from ddt_jax import processes
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.report import results
from ddt_jax.rounds import answers
from ddt_jax.scoring import forward
from ddt_jax.storage import typed_json
from experiments.run import inputs
from experiments.run import lifecycle

_LINES = 20_000  # of a corpus that are looked through


def problems(
    c, s: inputs.Inputs, params: Any, folder: epath.Path
) -> dict[str, Any]:
  """Scores reference, wrong own answer and rewriting of some problems.

  Args:
    c, s: the config, and the inputs made from it.
    params: that the round began with.
    folder: of the round, whose corpus is made.

  Returns:
    JSON-able: `problems`, a list of `results.ShownProblem`.
  """
  found = processes.from_first(lambda: [
      (records.to_json(hinted), records.to_json(wrong))
      for hinted, wrong in rewritten(
          folder, c.report.problems if c.hint.enabled else 0)])
  texts, labels = [], []
  by_id = {p.id: p for p in s.corpus.train} if found else {}
  for lines in found:
    hinted, wrong = (records.from_json(line, records.Response) for line in lines)
    problem = by_id[hinted.problem_id]
    (prompt,) = answers.prompt_ids(s.tokenizer, [problem])
    three = {
        'reference': s.train.by_id.get(problem.id),
        'wrong': chat.answered(prompt, wrong.tokens),
        'rewritten': chat.answered(prompt, hinted.tokens)}
    texts += [example for example in three.values() if example is not None]
    labels.append((problem, [k for k, x in three.items() if x is not None]))
  # Most shapes of these batches are compiled already, for the references.
  stats = iter(list(forward.token_stats(
      params, s.config, texts, batch=s.rows, mesh=s.mesh,
      after=lifecycle.check_stop)) if texts else ())
  tokens = iter(texts)
  return typed_json.plain({'problems': [
      results.ShownProblem(problem.problem, problem.answer, tuple(
          _answer(s.tokenizer, kind, next(tokens), next(stats)) for kind in kinds))
      for problem, kinds in labels]})


def _answer(tokenizer, kind: str, example: chat.Example, stats) -> results.ShownAnswer:
  return results.ShownAnswer(
      kind,
      tuple(tokenizer.decode([t]) for t in example.tokens[example.supervised]),
      tuple(round(float(phi), 4) for phi in stats.phi))


def rewritten(
    folder: epath.Path, count: int
) -> list[tuple[records.Response, records.Response]]:
  """The first rewritten texts of a round's corpus, with a wrong own answer each.

  Args:
    folder: of the round.
    count: at most so many.
  """
  hinted = {}
  lines = _read(folder / 'corpus.jsonl') if count else ()
  # The first lines of a large corpus have enough, or hardly any are rewritten.
  for response in itertools.islice(lines, _LINES):
    if response.source == 'hinted':
      hinted.setdefault(response.problem_id, response)
      if len(hinted) >= 4 * count:  # some have no wrong answer that ended
        break
  wrong: dict[str, records.Response] = {}
  files = sorted((folder / 'sample').glob('*.jsonl')) if hinted else []
  # The first two lines of a stage's file are its record, see `stage_cache`.
  for response in itertools.chain.from_iterable(_read(f, skip=2) for f in files):
    if len(wrong) >= count:
      break
    if (response.problem_id in hinted and response.correct is False
        and response.finish == 'eos'):
      wrong.setdefault(response.problem_id, response)
  return [(hinted[i], wrong[i]) for i in hinted if i in wrong][:count]


def _read(file: epath.Path, skip: int = 0) -> Iterator[records.Response]:
  if not file.exists():
    return
  with file.open() as f:
    for line in itertools.islice(f, skip, None):
      yield records.from_json(line, records.Response)
