"""Batches that the student writes itself while it is trained, for distillation.

Each problem has two contexts: the plain prompt, after which the student answers, and
the teacher's, with the reference solution. Every few steps the current parameters
answer the problems of the next batches.

Responses are kept in files, a file for each draw: a run that was killed reads those
whose parameters are gone and draws the others again, to the same tokens.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import grain
import jax

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.data import two_contexts
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import curate
from ddt_jax.rounds import select
from ddt_jax.rounds import stages


@dataclasses.dataclass(frozen=True)
class Task:
  """A problem in the contexts of both.

  Attributes:
    problem: it.
    prompt, teacher_prompt: token ids that the response follows.
    limit: most tokens of the response.
  """

  problem: records.Problem
  prompt: list[int]
  teacher_prompt: list[int]
  limit: int


@dataclasses.dataclass(frozen=True)
class Tasks:
  """The problems of a round that are answered, and those that are not.

  Attributes:
    tasks: in the order of the problems.
    left_out: problem id and reason of the others, as responses that were skipped.
    seconds: that writing the teacher's contexts took.
  """

  tasks: list[Task]
  left_out: list[records.Response]
  seconds: float


def make_tasks(
    context: curate.Context,
    problems: Sequence[records.Problem],
    rewriting: answers.Rewriting,
    *,
    hint: bool,
    max_new_tokens: int,
    teacher_positions: int,
    folder: Any,
    made_from: Mapping[str, Any],
    size: int,
    complete: bool = False,
    check_stop: Callable[[], None] = lambda: None,
    title: str = '',
) -> Tasks:
  """Writes the teacher's contexts; analyses are written by the current model.

  Args:
    context: the model; its `max_tokens` is the longest row of the student.
    problems: of the round.
    rewriting: template and analysis of the hinted prompt.
    hint: whether the teacher reads the reference; if not, it reads the plain prompt.
    max_new_tokens: longest response.
    teacher_positions: of the teacher's model.
    folder, made_from, complete, check_stop, title: see `curate.curate`.
    size: problems in a block of analyses.
  """
  prompts = answers.prompt_ids(context.tokenizer, problems)
  tasks, left_out, seconds = [], [], 0.0
  read = [_context(p, prompt) for p, prompt in zip(problems, prompts, strict=True)]
  if hint:
    work = stages.Stages(
        folder, {'problems': len(problems), **made_from}, complete=complete,
        check_stop=check_stop, title=title)
    read = work.run(
        'contexts', _context_stage(context, rewriting, prompts), problems, size=size)
    seconds = work.seconds['contexts']
  for problem, prompt, other in zip(problems, prompts, read, strict=True):
    limit = min(
        max_new_tokens, context.max_tokens - len(prompt),
        context.config.max_positions - len(prompt),
        teacher_positions - len(other.tokens))
    if other.finish == 'skipped':
      left_out.append(other)
    elif limit <= 0:
      left_out.append(_context(
          problem, (), 'the prompt leaves no room for a response'))
    else:
      tasks.append(Task(problem, prompt, list(other.tokens), limit))
  return Tasks(tasks, left_out, seconds)


def _context(problem, tokens: Sequence[int], reason: str = '') -> records.Response:
  """The teacher's context as a record of a stage; with a reason it is skipped."""
  return records.Response(
      problem.id, tuple(tokens), '', 'skipped' if reason else 'eos', 'hinted',
      reason=reason)


def _context_stage(context: curate.Context, rewriting: answers.Rewriting, prompts):
  template = rewriting.prompt_template()

  def write(first, problems, journal):
    hinted = chat.encode_prompts(context.tokenizer, [
        template.hinted_chat(p.problem, p.solution) for p in problems])
    read, skipped = hinted_decode.contexts(
        *context.model_arguments[:2],
        list(zip(prompts[first: first + len(problems)], hinted, strict=True)),
        tokenizer=context.tokenizer, marker=template.marker,
        # The room that a response needs at least.
        max_new_tokens=1, max_analysis_tokens=rewriting.max_analysis_tokens,
        analysis=rewriting.analysis, prefill=rewriting.prefill, journal=journal,
        **context.decoding)
    return [
        _context(p, read.get(i, ()), skipped.get(i, ''))
        for i, p in enumerate(problems)]

  return write


class OwnRows:
  """Batches of a round for `distill.loss_sums`; resumable after any step.

  Attributes:
    shape: of every batch.
    steps: number of batches.
  """

  def __init__(
      self, context: curate.Context, tasks: Tasks, *, problems: int, batch: int,
      epochs: int, max_steps: int = 0, seed: int, every: int, only_right: bool,
      sampling: Mapping[str, Any], folder: Any, made_from: Mapping[str, Any],
      key: jax.Array,
      check_stop: Callable[[], None] = lambda: None, title: str = '',
  ):
    """Draws nothing yet.

    Args:
      context: the model, whose parameters are given to each draw anew.
      tasks: at least one.
      problems: of the round, those without a task too.
      batch: rows of the global batch.
      epochs: passes over the tasks.
      max_steps: most batches; 0: those of the epochs.
      seed: of their order.
      every: steps between two draws.
      only_right: whether responses that are not accepted, see
        `select.is_accepted`, are left out: their rows are padding.
      sampling: temperature and top_p, see `answers.sampling_options`.
      folder: of the draws.
      made_from: see `curate.curate`.
      key: of the round.
      check_stop: called while texts are drawn; may raise.
      title: of the work, for what is printed.
    """
    self._context = dataclasses.replace(context, params=None)
    self._tasks, self._every, self._only_right = tasks, every, only_right
    self._sampling, self._key, self._problems = dict(sampling), key, problems
    self._folder, self._check_stop = storage.path(folder), check_stop
    self._title, self._made_from = title, {'stage': 'own rows', **made_from}
    self._cache = stage_cache.StageCache(self._folder, self._made_from)
    # Each epoch has an order of its own; a batch may span two epochs.
    order = grain.MapDataset.source(range(len(tasks.tasks))).shuffle(
        seed=seed).repeat(epochs)
    self._order = [int(order[i]) for i in range(len(order))]
    self._batch, self._done, self._drawn = batch, 0, (-1, [])
    steps = -(-len(self._order) // batch)
    self.steps = min(steps, max_steps or steps)
    self.shape = two_contexts.shape_of(
        [(len(t.prompt), len(t.teacher_prompt), t.limit) for t in tasks.tasks],
        batch)

  def draw_if_due(self, params: Any) -> None:
    """Draws the responses of the next batches with these parameters, if it is time.

    Call before each `next`.
    """
    block, inside = divmod(self._done, self._every)
    if self._drawn[0] == block:
      return
    responses, _ = self._cache.block(
        block, lambda: self._draw(block, params), records.Response,
        # In the middle of a block the parameters are not those that drew it.
        complete=inside > 0)
    self._drawn = block, responses
    self._journal(block).clear()

  def __next__(self) -> two_contexts.TwoContexts:
    first = self._done % self._every * self._batch
    drawn = self._drawn[1][first: first + self._batch]
    tasks = self._tasks_of(self._done, 1)
    self._done += 1
    return two_contexts.collate([
        two_contexts.Row(task.prompt, task.teacher_prompt, response.tokens)
        for task, response in zip(tasks, drawn, strict=True)
        if self._is_trained(response)
    ], self.shape)

  def get_state(self) -> dict[str, Any]:
    """Position in the round, JSON-able."""
    return {'step': self._done}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues where rows with the same arguments returned this state."""
    self._done = state['step']

  def summary(self) -> counts.RoundSummary:
    """The finished round in numbers, out of its files."""
    own = []
    for block in range(-(-self.steps // self._every)):
      own += self._cache.block(
          block, lambda: [], records.Response, complete=True)[0]
    trained = [r for r in own if self._is_trained(r)]
    tokens = sum(len(r.tokens) for r in trained)
    nothing = counts.SourceStats(0, None, None)
    return counts.RoundSummary(
        problems=self._problems,
        unanswerable=self._problems - len(self._tasks.tasks) - len(
            self._tasks.left_out),
        own=dataclasses.replace(
            select.count(own, self._is_accepted, lambda r: False),
            skipped=len(self._tasks.left_out),
            # Without the verifier nothing is judged, and nothing has to be.
            **{} if self._only_right else {'abstained': 0}),
        hinted=select.count([], self._is_accepted, lambda r: False),
        solved=select.solved_by(trained),
        dropped={'not right': len(own) - len(trained)},
        sources=dict.fromkeys(select.SOURCES, nothing) | {
            'own': counts.SourceStats(
                len(trained), None, tokens / len(trained)) if trained else nothing},
        skipped_for=select.skipped_for(self._tasks.left_out),
        # Drawing is a part of the time of training.
        timings={'contexts': self._tasks.seconds})

  def _is_accepted(self, response: records.Response) -> bool:
    return select.is_accepted(response, self._context.end)

  def _is_trained(self, response: records.Response) -> bool:
    return not self._only_right or self._is_accepted(response)

  def _tasks_of(self, step: int, steps: int) -> list[Task]:
    first = step * self._batch
    return [self._tasks.tasks[i]
            for i in self._order[first: first + steps * self._batch]]

  def _journal(self, block: int) -> engine.Journal:
    return engine.Journal(
        self._folder / 'partial', made_from=[self._made_from, block],
        title=self._title, check_stop=self._check_stop)

  def _draw(self, block: int, params: Any) -> list[records.Response]:
    context = self._context
    tasks = self._tasks_of(block * self._every, self._every)
    drawn = engine.generate(
        params, context.config, [t.prompt for t in tasks],
        key=jax.random.fold_in(self._key, block),
        max_new_tokens=self.shape.response, max_tokens=[t.limit for t in tasks],
        journal=self._journal(block), **self._sampling, **context.decoding)
    problems = [t.problem for t in tasks]
    if self._only_right:
      return answers.verified(
          context.tokenizer, problems, drawn, 'own', context.verifier)
    return [
        records.Response(
            p.id, tuple(d.tokens),
            context.tokenizer.decode(d.tokens, skip_special_tokens=True), d.finish)
        for p, d in zip(problems, drawn, strict=True)]
