"""The stages of a round that begin with a hint: rewriting, and exact projection.

  rewrite   Hinted Decoding rewrites the references of problems
  project   chains replace each accepted text by a draw of the model's own right
            answers, see `projection`
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import tqdm

from ddt_jax import engine
from ddt_jax import processes
from ddt_jax import projection
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import select
from ddt_jax.rounds import stages

# Folded into the round's key; no block of another stage has this number.
_PROJECT = 2**31 - 1

Accepted = Callable[[records.Response], bool]


def run(
    context: Any,
    work: stages.Stages,
    problems: Sequence[records.Problem],
    options: select.Options,
    rewriting: answers.Rewriting,
    *,
    good: Accepted,
    key: jax.Array,
    title: str,
) -> tuple[list[records.Response], list[records.Response]]:
  """Runs both stages.

  Args:
    context: see `curate.Context`.
    work: runs the stages.
    problems: that have no accepted answer.
    options, rewriting, key, title: see `curate.curate`.
    good: whether a response may be trained on.

  Returns:
    (rewritten references, projected texts).
  """
  if not rewriting.enabled:
    return [], []
  hinted = work.run(
      'rewrite', _rewrite_stage(context, options, rewriting, key), problems,
      size=options.shard, runs=rewriting.runs)
  if (said := select.advice_on_skipped(hinted)) and processes.is_first():
    # Not print(), which would break a bar.
    tqdm.tqdm.write(f'{title}rewrite: {said}')
  chains = options.projection
  if not chains.sweeps:
    return hinted, []
  by_id = {p.id: p for p in problems}
  starts = [r for r in hinted if good(r)]

  def make(first, block, journal):
    return project(
        *context.model_arguments, [by_id[r.problem_id] for r in block], block,
        rewriting=rewriting, chains=chains, good=good,
        key=jax.random.fold_in(jax.random.fold_in(key, _PROJECT), first),
        max_new_tokens=options.max_new_tokens,
        decoding={**context.decoding, 'journal': journal},
        verifier=context.verifier)[0]

  projected = work.run(
      'project', make, starts, size=options.shard,
      runs=chains.sweeps * chains.chains)
  return hinted, projected


def _rewrite_stage(
    context: Any, options: select.Options, rewriting: answers.Rewriting,
    key: jax.Array,
) -> stages.Make:
  def rewrite(first, problems, journal):
    # 2 first is the block's number in sampling.
    return answers.rewrite(
        *context.model_arguments, problems, rewriting=rewriting,
        key=jax.random.fold_in(key, 2 * first + 1),
        max_new_tokens=options.max_new_tokens,
        decoding={**context.decoding, 'journal': journal},
        verifier=context.verifier)

  return rewrite


def project(
    params: Any,
    config: Any,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    starts: Sequence[records.Response],
    *,
    rewriting: answers.Rewriting,
    chains: select.Projection,
    good: Accepted,
    key: jax.Array,
    max_new_tokens: int,
    decoding: Mapping[str, Any],
    verifier: Mapping[str, Any],
) -> tuple[list[records.Response], list[projection.Projected]]:
  """Draws of the model's own right answers, by chains from accepted texts.

  The proposals are the mixture of `rewriting` at temperature 1 without a nucleus,
  so that the chains converge from any start.

  Args:
    params, config, tokenizer: the model.
    problems, starts: aligned; accepted texts, with their analyses. All problems
      have the same marker.
    rewriting: the mixture, and the template of the hinted prompts.
    chains: sweeps, and chains of each start.
    good: decides which texts the target holds.
    key: random key.
    max_new_tokens: longest text.
    decoding: options of `engine.generate`: eos_ids, slots, cache_dtype, mesh,
      journal.
    verifier: options of `verify.verify_all`: workers, timeout_s.

  Returns:
    (responses of source 'projected', verified; the chains), aligned, the chains
    of a start side by side. A text that could not be moved, see
    `projection.Projected.start`, or whose prompts leave no room for it, keeps its
    response. `drawn` of a response counts the tokens of its chain.
  """
  template = rewriting.prompt_template()
  # The analysis is encoded anew: any context of the hinted stream is exact.
  hinted = [
      [*prompt, *tokenizer.encode(start.analysis, add_special_tokens=False)]
      for prompt, start in zip(chat.encode_prompts(
          tokenizer, [template.hinted_chat(p.problem, p.solution) for p in problems]),
          starts, strict=True)]
  pairs = list(zip(answers.prompt_ids(tokenizer, problems), hinted, strict=True))
  room = [config.max_positions - max(map(len, pair)) for pair in pairs]
  fitting = [i for i, s in enumerate(starts)
             if len(s.tokens) <= min(room[i], max_new_tokens)]
  known = {(i, starts[i].tokens) for i in fitting}

  def judged(texts, indices):
    return answers.verified(
        tokenizer, [problems[i] for i in indices],
        [engine.Generated(list(text), 'eos') for text in texts], select.PROJECTED,
        verifier)

  def is_right(texts, indices):
    owners = [fitting[i] for i in indices]
    # Starts were judged already, and a time-out now would refuse them.
    return [
        (i, tuple(text)) in known or good(response) for i, text, response in zip(
            owners, texts, judged(texts, owners), strict=True)]

  mixture = rewriting.decoding()
  found = projection.project(
      params, config, [pairs[i] for i in fitting],
      [starts[i].tokens for i in fitting], key=key,
      **dataclasses.asdict(chains), max_new_tokens=max_new_tokens,
      max_tokens=[room[i] for i in fitting], is_right=is_right,
      splitter=problems[0].marker if problems else None, tokenizer=tokenizer,
      **{name: mixture[name] for name in ('beta', 'schedule', 'center', 'bounds')},
      **decoding)
  owners = [i for i in fitting for _ in range(chains.chains)]
  ends = judged([r.tokens for r in found], owners)
  moved = [
      dataclasses.replace(
          starts[i] if r.start == 'frozen' else end, analysis=starts[i].analysis,
          drawn=r.drawn)
      for i, r, end in zip(owners, found, ends, strict=True)]
  left_out = [
      dataclasses.replace(s, drawn=0)
      for i, s in enumerate(starts) if i not in set(fitting)]
  return moved + left_out, found
