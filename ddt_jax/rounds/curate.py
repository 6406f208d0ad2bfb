"""One round's corpus from the current parameters.

Sample, verify, rewrite what was not solved (Hinted Decoding), verify, fall back
on references or not, score (DDT), filter. Every stage leaves its responses,
wrong ones too, in shards, so that a call that was killed goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import forward

FALLBACKS = ('drop', 'reference', 'reference_if_phi_above')
SOURCES = ('own', 'hinted', 'reference')
MENTION = re.compile(
    r'\b(given|provided|reference) (solution|answer)|\baccording to the (given|'
    r'solution)', re.IGNORECASE,
)


class Corpus(NamedTuple):
  """What a round trains on.

  Attributes:
    problems, responses, examples: what is kept, in the order of the round's
      problems; examples are not yet cut to a length.
    summary: counts, mean phi and tokens by source, seconds by stage.
  """

  problems: list[records.Problem]
  responses: list[records.Response]
  examples: list[chat.Example]
  summary: counts.RoundSummary


def check(
    *, samples: int, keep: int, fallback: str, drop_lowest: float, **_: Any
) -> None:
  """Raises ValueError naming an option of `curate` that cannot be meant."""
  if fallback not in FALLBACKS:
    raise ValueError(f'curate.fallback {fallback!r}: choose from {FALLBACKS}')
  if samples < 0 or keep < 1:
    raise ValueError('curate.samples must not be negative, curate.keep positive')
  if not 0 <= drop_lowest < 1:
    raise ValueError(f'curate.drop_lowest {drop_lowest} is not in [0, 1)')


def curate(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    folder: Any,
    made_from: Mapping[str, Any],
    key: jax.Array,
    end: chat.TurnEnd,
    samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    hint: Mapping[str, Any] | None,
    decoding: Mapping[str, Any],
    verifier: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    max_tokens: int,
    keep: int = 1,
    fallback: str = 'drop',
    min_phi: float = -np.inf,
    drop_lowest: float = 0.0,
    shard: int = 256,
    batch: int = 32,
    check_stop: Callable[[], None] = lambda: None,
    title: str = '',
) -> Corpus:
  """The round's corpus; makes what does not yet stand in `folder`.

  Args:
    params, config, tokenizer: the model.
    problems: of the round, their ids unique. Those without an answer cannot be
      verified and go to the fallback.
    folder: of the round.
    made_from: what else the responses follow from (config, step of the
      parameters, seed); kept with them and compared on resuming.
    key: random key of the round.
    end: the token that ends a turn. A response that does not end with it was
      cut off and is not trained on.
    samples: own answers to each problem; 0 for none.
    temperature, top_p, max_new_tokens: of own answers; the last of rewritten
      ones as well.
    hint: options of `hinted_decode.rewrite` and its `template`, for problems
      without a verified answer; None leaves the stage out.
    decoding: of `engine.generate`: eos_ids, slots, mesh.
    verifier: workers, timeout_s.
    mesh: of scoring.
    max_tokens: of an example, that are scored; what has its whole response beyond
      them is dropped.
    keep: own answers kept of a problem, distinct ones.
    fallback: for problems without any: drop | reference (its solution is trained
      on) | reference_if_phi_above (if its mean phi is at least min_phi).
    min_phi: what has a lower mean phi is dropped, references only under
      'reference_if_phi_above'.
    drop_lowest: share of responses, references apart, dropped for their mean phi.
    shard: problems in a shard.
    batch: rows scored together.
    check_stop: called between shards; may raise to end the call.
    title: before the names of stages in the progress bars.

  Returns:
    The corpus; also in `folder`/corpus.jsonl, as `records.Response`s.
  """
  check(samples=samples, keep=keep, fallback=fallback, drop_lowest=drop_lowest)
  folder = storage.path(folder)
  stages = _Stages(
      folder, {'problems': len(problems), **made_from}, size=shard,
      check_stop=check_stop, title=title)
  by_id = {p.id: p for p in problems}
  answerable = [p for p in problems if p.answer]
  prompt = {
      p.id: chat.encode_prompt(tokenizer, p.conversation[:-1])
      for p in problems
  }
  good = functools.partial(_good, end=end)

  def sample(first, some):
    rows = evaluate.answer(
        params, config, tokenizer, some, samples=samples,
        key=jax.random.fold_in(key, 2 * first), temperature=temperature,
        top_p=top_p, max_new_tokens=max_new_tokens, **decoding, **verifier,
    )
    return [response for row in rows for response in row]

  own = stages.run('sample', sample, answerable if samples else [])
  chosen = _distinct_good(own, good, keep)

  hinted = []
  if hint is not None:
    options = dict(hint)
    rewrite = functools.partial(
        _rewrite, params, config, tokenizer, prompt,
        template=prompts.load(options.pop('template')), key=key,
        max_new_tokens=max_new_tokens, options=options, decoding=decoding,
        verifier=verifier,
    )
    unsolved = [p for p in answerable if not chosen.get(p.id)]
    hinted = stages.run('rewrite', rewrite, unsolved)
  for response in hinted:
    chosen[response.problem_id] = [response] if good(response) else []

  candidates = []
  for p in problems:
    candidates += chosen.get(p.id) or (
        [] if fallback == 'drop' else [_reference(tokenizer, p, end)]
    )
  made = {
      r: _example(r, by_id[r.problem_id], prompt[r.problem_id], tokenizer, end)
      for r in _distinct(candidates, prompt)
  }
  cut = {
      r: chat.Example(e.tokens[:max_tokens], e.supervised[:max_tokens])
      for r, e in made.items()
  }
  candidates = [r for r, e in cut.items() if e.supervised.any()]
  time = lengths.row_length(list(cut.values())) if cut else 0

  def add_phi(first, some):
    stats = forward.token_stats(
        params, config, [cut[r] for r in some], batch=batch, mesh=mesh, time=time
    )
    return [
        dataclasses.replace(r, phi=float(s.phi.mean()))
        for r, s in zip(some, stats, strict=True)
    ]

  scored = stages.run('score', add_phi, candidates)
  kept, dropped = _filter(scored, fallback, min_phi, drop_lowest)
  dropped['too long'] = len(made) - len(candidates)
  processes.from_first(
      lambda: records.write_jsonl(folder / 'corpus.jsonl', kept))
  examples = [made[dataclasses.replace(r, phi=None)] for r in kept]
  return Corpus(
      [by_id[r.problem_id] for r in kept], kept, examples, counts.RoundSummary(
          problems=len(problems), unanswerable=len(problems) - len(answerable),
          own=_count(own, good), hinted=_count(hinted, good),
          skipped=sum(r.finish == 'skipped' for r in hinted),
          solved={
              source: len(
                  {r.problem_id for r in candidates if r.source == source})
              for source in SOURCES
          },
          dropped=dropped,
          sources={source: _describe(kept, source) for source in SOURCES},
          timings=stages.seconds,
      ))


class _Stages:
  """The stages of a round, each in shards of its own."""

  def __init__(self, folder, made_from, *, size, check_stop, title):
    self._folder, self._made_from = folder, made_from
    self._size, self._check_stop, self._title = size, check_stop, title
    self.seconds: dict[str, float] = {}

  def run(self, name, make, items) -> list[records.Response]:
    """make(place of the first, some of the items) for all, where not yet done."""
    found, self.seconds[name] = [], 0.0
    shards = stage_cache.StageCache(
        self._folder / name, {'stage': name, **self._made_from})
    with tqdm.tqdm(
        total=len(items), desc=f'{self._title}{name}', disable=not items,
    ) as bar:
      for made, spent in shards.map(
          make, items, records.Response, size=self._size
      ):
        found += made
        self.seconds[name] += spent
        bar.update(min(self._size, len(items) - bar.n))
        self._check_stop()
    return found


def _rewrite(
    params, config, tokenizer, prompt, first, some, *, template, key,
    max_new_tokens, options, decoding, verifier,
) -> list[records.Response]:
  """Some problems' references in the model's own words, with verdicts."""
  found = hinted_decode.rewrite(
      params, config, [
          (prompt[p.id], chat.encode_prompt(
              tokenizer, template.hinted_chat(p.problem, p.solution)
          )) for p in some
      ], tokenizer=tokenizer, key=jax.random.fold_in(key, 2 * first + 1),
      marker=template.marker, splitter=some[0].marker,
      max_new_tokens=max_new_tokens, **options, **decoding,
  )
  texts = [tokenizer.decode(r.tokens, skip_special_tokens=True) for r in found]
  verdicts = verify.verify_all(
      [(t, p.answer) for t, p in zip(texts, some, strict=True)],
      kind=[p.kind for p in some], marker=[p.marker for p in some], **verifier,
  )
  return [
      records.Response(
          p.id, tuple(r.tokens), text, r.finish, 'hinted',
          v.correct if r.tokens else False, v.extracted, r.reason or v.reason,
      )
      for p, r, text, v in zip(some, found, texts, verdicts, strict=True)
  ]


def _good(response: records.Response, end: chat.TurnEnd) -> bool:
  """Right, whole, and without a word of a solution that was given."""
  return (
      response.correct is True and response.tokens[-1:] == (end.id,)
      and not MENTION.search(response.text)
  )


def _distinct_good(responses, good, keep) -> dict[str, list[records.Response]]:
  """Of each problem the first `keep` good responses that differ."""
  chosen = {}
  for response in responses:
    mine = chosen.setdefault(response.problem_id, [])
    if good(response) and len(mine) < keep and response.tokens not in [
        other.tokens for other in mine
    ]:
      mine.append(response)
  return chosen


def _example(
    response: records.Response,
    problem: records.Problem,
    prompt: Sequence[int],
    tokenizer: Any,
    end: chat.TurnEnd,
) -> chat.Example:
  """Ids of a response are never decoded and encoded again."""
  if response.source == 'reference':
    return chat.encode(tokenizer, problem.conversation, end)
  return chat.answered(prompt, response.tokens)


def to_chat(
    response: records.Response, problem: records.Problem
) -> dict[str, Any]:
  """A row in the chat format that other trainers read."""
  answer = {'role': 'assistant', 'content': response.text}
  return {
      'messages': [*problem.conversation[:-1], answer], 'id': problem.id,
      'source': response.source, 'phi': response.phi,
  }


def _reference(tokenizer, problem, end) -> records.Response:
  example = chat.encode(tokenizer, problem.conversation, end)
  return records.Response(
      problem.id, tuple(example.tokens[example.supervised].tolist()),
      problem.solution, 'eos', 'reference',
  )


def _distinct(responses, prompt) -> list[records.Response]:
  """Without a second copy of the same words about the same question."""
  seen = {}
  for r in responses:
    seen.setdefault((tuple(prompt[r.problem_id]), r.tokens), r)
  return list(seen.values())


def _filter(scored, fallback, min_phi, drop_lowest):
  """What is kept, and how many were dropped for which reason."""
  of_model = sorted(r.phi for r in scored if r.source != 'reference')
  lowest = of_model[int(drop_lowest * len(of_model))] if of_model else -np.inf
  kept, dropped = [], {'phi below min_phi': 0, 'lowest phi': 0}
  for r in scored:
    reference = r.source == 'reference'
    bounded = not reference or fallback == 'reference_if_phi_above'
    if bounded and r.phi < min_phi:
      dropped['phi below min_phi'] += 1
    elif not reference and r.phi < lowest:
      dropped['lowest phi'] += 1
    else:
      kept.append(r)
  return kept, dropped


def _count(responses, good) -> counts.StageCounts:
  return counts.StageCounts(
      responses=len(responses),
      accepted=sum(map(good, responses)),
      correct=sum(r.correct is True for r in responses),
      abstained=sum(r.correct is None for r in responses),
      mentions=sum(bool(MENTION.search(r.text)) for r in responses),
      tokens=sum(len(r.tokens) for r in responses),
  )


def _describe(kept, source) -> counts.SourceStats:
  mine = [r for r in kept if r.source == source]
  return counts.SourceStats(
      examples=len(mine),
      phi=float(np.mean([r.phi for r in mine])) if mine else None,
      tokens=float(np.mean([len(r.tokens) for r in mine])) if mine else None,
  )
