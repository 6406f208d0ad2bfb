"""One round's corpus from the current parameters.

  sample    the model answers each problem; the verifier judges
  rewrite   Hinted Decoding rewrites the references of what it got wrong
  project   chains turn these texts into draws of its own right answers, if asked for
  fallback  references of what is still unsolved, or nothing
  score     the mean phi of each response, by the training forward
  filter    responses with a low phi are dropped, if asked for

Each stage keeps its responses, wrong ones too, in files of its own, so that a
call that was killed resumes where it was, in the middle of a block of texts too.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from ddt_jax import model
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import from_hints
from ddt_jax.rounds import leaks
from ddt_jax.rounds import select
from ddt_jax.rounds import stages
from ddt_jax.scoring import forward


class Corpus(NamedTuple):
  """Training data of a round.

  Attributes:
    problems, responses, examples: aligned, in the order of the round's
      problems; examples are not yet cut to a length.
    summary: counts, mean phi and tokens by source, seconds by stage.
  """

  problems: list[records.Problem]
  responses: list[records.Response]
  examples: list[chat.Example]
  summary: counts.RoundSummary


@dataclasses.dataclass(frozen=True)
class Context:
  """Inputs that all stages of a round share.

  Attributes:
    params, config, tokenizer: the model.
    end: the token that ends a turn. A response that does not end with it was
      cut off and is not trained on.
    decoding: options of `engine.generate`: eos_ids, slots, cache_dtype, mesh.
    verifier: options of `verify.verify_all`: workers, timeout_s.
    mesh: the rows that are scored are spread over it.
    rows: of a scoring batch, over all devices.
    max_tokens: the longest example that is trained on; longer responses of the
      model are dropped.
    pack: score several examples in a row, see `forward.dispatch`.
  """

  params: Any
  config: model.ModelConfig
  tokenizer: Any
  end: chat.TurnEnd
  decoding: Mapping[str, Any]
  verifier: Mapping[str, Any]
  mesh: jax.sharding.Mesh
  rows: int
  max_tokens: int
  pack: bool = False

  @property
  def model_arguments(self) -> tuple[Any, model.ModelConfig, Any]:
    """The first three arguments of `answers.answer`."""
    return self.params, self.config, self.tokenizer


def curate(
    context: Context,
    problems: Sequence[records.Problem],
    options: select.Options,
    rewriting: answers.Rewriting,
    *,
    references: Mapping[str, chat.Example],
    folder: Any,
    made_from: Mapping[str, Any],
    key: jax.Array,
    complete: bool = False,
    check_stop: Callable[[], None] = lambda: None,
    title: str = '',
) -> Corpus:
  """Makes the round's corpus; stages that are in `folder` already are read.

  Args:
    context: the model and what answers are judged and scored with.
    problems: of the round, their ids unique. Those without an answer cannot be
      verified and go to the fallback.
    options: which responses are sampled and kept.
    rewriting: Hinted Decoding's options.
    references: tokenised references by problem id, see `lengths.prepare`; a
      problem whose reference is too long for a row has none.
    folder: of the round.
    made_from: what else the responses depend on (config, step of the
      parameters, seed); recorded in each file and compared on resuming.
    key: random key of the round.
    complete: nothing may be made, only read: `context.params` are not those
      that the round began with.
    check_stop: called every few seconds while texts are drawn, and between blocks
      of problems; may raise to end the call.
    title: precedes the names of stages in the progress bars.

  Returns:
    The corpus; also in `folder`/corpus.jsonl, as `records.Response`s.

  Raises:
    errors.InputError: a file in `folder` was made from something else, or is
      missing although the corpus must be complete.
  """
  folder = storage.path(folder)
  if not options.score:
    return _references_alone(problems, references, folder, made_from)
  work = stages.Stages(
      folder, {'problems': len(problems), **made_from}, complete=complete,
      check_stop=check_stop, title=title)
  leaking = leaks.Finder(
      problems, rewriting.prompt_template() if rewriting.enabled else None)
  good = functools.partial(
      select.is_accepted, end=context.end, leaking=leaking)
  prompt = dict(zip(
      [p.id for p in problems],
      answers.prompt_ids(context.tokenizer, problems), strict=True))
  answerable = [p for p in problems if p.answer]

  # The model's own answers: on-policy by construction, so they come first.
  own = work.run(
      'sample', sample_stage(context, options, key),
      answerable if options.samples else [], size=options.shard,
      each=options.samples)
  chosen = select.first_distinct(own, good, options.keep)

  # Hinted Decoding, for the problems without an accepted answer.
  hinted, projected = from_hints.run(
      context, work, [p for p in answerable if not chosen.get(p.id)], options,
      rewriting, good=good, key=key, title=title)
  # A projected text replaces the rewritten one that its chain began at.
  for responses, keep in ((hinted, 1), (projected, options.keep)):
    new = select.first_distinct(responses, good, keep)
    chosen |= {problem: mine for problem, mine in new.items() if mine}

  # Scores, and the filter by phi. Examples too long for a row are not scored.
  candidates = _candidates(
      context, problems, prompt, chosen, references, options.fallback)
  fitting = [(r, e) for r, e in candidates if e is not None]
  examples = [e for _, e in fitting]
  scored = work.run(
      'score', score_stage(context, examples), [r for r, _ in fitting],
      size=options.shard)
  kept, dropped = select.by_phi(scored, options)
  dropped['too long'] = len(candidates) - len(fitting)
  responses = [scored[i] for i in kept]
  processes.from_first(records.write_jsonl, folder / 'corpus.jsonl', responses)
  by_id = {p.id: p for p in problems}
  return Corpus(
      [by_id[r.problem_id] for r in responses], responses,
      [examples[i] for i in kept], counts.RoundSummary(
          problems=len(problems), unanswerable=len(problems) - len(answerable),
          own=select.count(own, good, leaking),
          hinted=select.count(hinted, good, leaking),
          projected=(
              select.count(projected, good, leaking) if projected else None),
          solved=select.solved_by(scored), dropped=dropped,
          sources={s: select.describe(responses, s) for s in select.sources(responses)},
          skipped_for=select.skipped_for(hinted), timings=work.seconds))


# Stages, see `stages.Make` ---------------------------------------------------------


def sample_stage(
    context: Context, options: select.Options, key: jax.Array
) -> stages.Make:
  """The model's own answers to problems, verified."""
  def sample(first, problems, journal):
    # Each block has its own key: 2 first here, 2 first + 1 in the rewriting.
    rows = answers.answer(
        *context.model_arguments, problems, samples=options.samples,
        key=jax.random.fold_in(key, 2 * first),
        max_new_tokens=options.max_new_tokens, verifier=context.verifier,
        **answers.sampling_options(options.temperature, options.top_p),
        journal=journal, **context.decoding)
    return [response for row in rows for response in row]

  return sample


def score_stage(
    context: Context, examples: Sequence[chat.Example]
) -> stages.Make:
  """Fills in `phi` and `log_p` of the responses that `examples` train on."""
  # One row length for all blocks: the forward is compiled once.
  time = lengths.row_length(examples) if examples else 0

  def score(first, responses, journal):
    # responses[i] is what examples[first + i] trains on.
    stats = forward.token_stats(
        context.params, context.config,
        examples[first: first + len(responses)], batch=context.rows,
        mesh=context.mesh, time=time, pack=context.pack, after=journal.beat)
    return [
        dataclasses.replace(
            r, phi=float(s.phi.mean()), log_p=float(s.log_p.sum(dtype=np.float64)))
        for r, s in zip(responses, stats, strict=True)
    ]

  return score


# References alone ---------------------------------------------------------------


def _references_alone(
    problems, references: Mapping[str, chat.Example], folder, made_from
) -> Corpus:
  """The corpus of references that are trained on as they are, without scores.

  Its responses carry no tokens, which are in the examples; no file repeats them. A
  digest says on resuming whether the references are still the same.
  """
  kept, digests = [], {}
  for p in problems:
    example = references.get(p.id)
    if example is None:
      continue
    one = hashlib.blake2b(example.tokens, digest_size=16)
    one.update(example.supervised)
    # The same text after the same prompt is trained on once.
    if digests.setdefault(one.digest(), p.id) == p.id:
      kept.append((p, example))
  made_from = {**made_from, 'problems': len(problems), 'references': (
      stage_cache.digest(b''.join(digests)))}
  processes.from_first(_check_references, folder / 'references.json', made_from)
  examples = [e for _, e in kept]
  sizes = [int(e.supervised.sum()) for e in examples]
  none = select.count([], bool, bool)
  return Corpus(
      [p for p, _ in kept],
      [records.Response(p.id, (), p.solution, finish='eos', source='reference')
       for p, _ in kept],
      examples, counts.RoundSummary(
          problems=len(problems), unanswerable=sum(not p.answer for p in problems),
          own=none, hinted=none,
          solved=dict.fromkeys(select.SOURCES, 0) | {'reference': len(kept)},
          dropped={'too long': sum(p.id not in references for p in problems)},
          sources={'reference': counts.SourceStats(
              len(kept), None, sum(sizes) / len(kept) if kept else None)},
          skipped_for={}, timings={}))


def _check_references(file, made_from: dict[str, Any]) -> None:
  """Records what a round's references are, or compares them with the record."""
  if file.exists():
    stage_cache.check_made_from(file, json.loads(file.read_text()), made_from)
  storage.publish(file, json.dumps(made_from))


# Between the stages -------------------------------------------------------------


def _candidates(
    context: Context, problems, prompt, chosen, references, fallback: str
) -> list[tuple[records.Response, chat.Example | None]]:
  """Each problem's chosen responses, or its reference, with what is trained on.

  The reference also stands in where all chosen responses are too long for a row.

  Token ids of the model's own responses are never decoded and encoded again.

  Returns:
    (response, example) pairs, without a second copy of the same tokens after the
    same prompt; the example is None where it is too long for a row.
  """
  pairs, seen = [], set()

  def add(response, example):
    same = tuple(prompt[response.problem_id]), response.tokens
    if same not in seen:
      seen.add(same)
      pairs.append((response, example))

  for p in problems:
    fitting = False
    for r in chosen.get(p.id, ()):
      # Cut off, it would lack the end of its turn: a long answer is dropped.
      example = lengths.cut(
          chat.answered(prompt[p.id], r.tokens), context.max_tokens, 'drop', p.id)
      fitting |= example is not None
      add(r, example)
    if not fitting and fallback != 'drop':
      example = references.get(p.id)
      tokens = () if example is None else tuple(
          example.tokens[example.supervised].tolist())
      add(records.Response(
          p.id, tokens, p.solution, finish='eos', source='reference'), example)
  return pairs


def to_chat(
    response: records.Response, problem: records.Problem
) -> dict[str, Any]:
  """A row in the chat format that other trainers read."""
  answer = {'role': 'assistant', 'content': response.text}
  return {
      'messages': [*problem.conversation[:-1], answer], 'id': problem.id,
      'source': response.source, 'phi': response.phi,
  }
