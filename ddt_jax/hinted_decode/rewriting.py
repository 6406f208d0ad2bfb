"""Rewrites a reference solution: the model analyses it, then two streams decode."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import stopping
from ddt_jax.hinted_decode import two_streams


class Rewritten(NamedTuple):
  """A reference solution in the model's own words.

  Attributes:
    tokens, finish, student_only_from: see `engine.Generated`; finish is
      'skipped' for a request that was not rewritten.
    analysis: tokens that the model wrote before them, up to and including the
      marker; all of them if the marker is missing.
    reason: why the request was skipped, or ''.
  """

  tokens: list[int]
  finish: str
  student_only_from: int | None
  analysis: list[int]
  reason: str


def rewrite(
    params: Any,
    config: model.ModelConfig,
    requests: Sequence[two_streams.Pair],
    *,
    tokenizer: Any,
    key: jax.Array,
    max_new_tokens: int,
    max_analysis_tokens: int,
    eos_ids: Sequence[int],
    marker: str = '# CoT\n',
    analysis: str = 'model',
    prefill: str = '',
    slots: int | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    journal: engine.Journal | None = None,
    **options: Any,
) -> list[Rewritten]:
  """Lets the model analyse each solution greedily, then rewrite it.

  The hinted prompt asks for an analysis of the reference solution, then for the
  marker, then for a solution in the model's own words. The tokens after the last
  marker are dropped. From there the two streams decode as in `generate`.

  The second stage prefills prompt and analysis again. That is cheap, and keeping
  their cache would idle the slot until all analyses are done. A request is
  skipped, with a reason, if its analysis has no marker or if it is too long for
  the model's positions.

  Args:
    params, config: the model.
    requests: (student ids, hinted ids) of each request, see
      `chat.encode_prompts`; the hinted chat is that of a `prompts.Template`.
    tokenizer: of transformers.
    key: random key.
    max_new_tokens: most tokens of a rewritten solution.
    max_analysis_tokens: most tokens of the first stage: the analysis, the marker
      and the text after it. Fewer where the model's positions would not hold the
      rewritten solution too.
    eos_ids: any of them ends a text.
    marker: the model's own words follow it.
    analysis: 'model': written by it; 'none': none is, and the two streams begin
      behind the marker.
    prefill: text that each analysis begins with.
    slots, cache_dtype, mesh, journal: see `engine.DecodeOptions`.
    **options: of the second stage, see `generate`. Required: beta, temperature,
      top_p. Optional: schedule, center, bounds, greedy, order, splitter,
      first_from_hint, repetition, official_window.

  Returns:
    Rewritten, in the order of `requests`.

  Raises:
    InputError: naming the option or the request that is invalid, before any
      decoding; or the cache of the two streams does not fit the free memory,
      which is known after the analyses.
  """
  if own := {'max_tokens', 'request_ids', 'on_result'} & options.keys():
    raise errors.InputError(
        f'{sorted(own)} are options of `generate` that `rewrite` does not take')
  shared = dict(
      eos_ids=tuple(eos_ids), slots=slots, cache_dtype=cache_dtype, mesh=mesh,
      journal=journal,
  )
  options = two_streams.make_options(
      config, tokenizer=tokenizer, **shared, **options)
  begun = _begun(tokenizer, analysis, marker, prefill)
  limits, results = _limits(
      config, requests, begun, max_new_tokens, max_analysis_tokens)
  # Also the request ids, so a skipped request does not change the draws of others.
  indices = list(limits)
  # Refuse before the analyses, which take long.
  engine.check(
      config, two_streams.make_requests(
          [requests[i] for i in indices], max_new_tokens, request_ids=indices),
      options)
  pairs, skipped = _contexts(
      params, config, requests, limits, begun, analysis=analysis, marker=marker,
      tokenizer=tokenizer, options=engine.DecodeOptions(greedy=True, **shared),
      key=key)
  results |= skipped
  rewritten = engine.run(  # stage 2: both streams, the analysis in the hinted one
      params, config, two_streams.make_requests(
          list(pairs.values()), max_new_tokens, request_ids=list(pairs)),
      options, key=key)
  for (i, (_, context)), text in zip(pairs.items(), rewritten, strict=True):
    results[i] = Rewritten(
        tokens=text.tokens, finish=text.finish,
        student_only_from=text.student_only_from,
        analysis=context[len(requests[i][1]):], reason='',
    )
  return [results[i] for i in range(len(requests))]


def contexts(
    params: Any,
    config: model.ModelConfig,
    requests: Sequence[two_streams.Pair],
    *,
    tokenizer: Any,
    max_new_tokens: int,
    max_analysis_tokens: int,
    marker: str = '# CoT\n',
    analysis: str = 'model',
    prefill: str = '',
    **decoding: Any,
) -> tuple[dict[int, list[int]], dict[int, str]]:
  """What the hinted stream has read when a solution begins, of each request.

  Args:
    params, config, requests, tokenizer, max_new_tokens, max_analysis_tokens, marker,
      analysis, prefill: see `rewrite`.
    **decoding: eos_ids, slots, cache_dtype, mesh, journal.

  Returns:
    (hinted prompt and analysis, up to and including the marker; reason), by index:
    each request is in one of both.
  """
  begun = _begun(tokenizer, analysis, marker, prefill)
  limits, left_out = _limits(
      config, requests, begun, max_new_tokens, max_analysis_tokens)
  pairs, skipped = _contexts(
      params, config, requests, limits, begun, analysis=analysis, marker=marker,
      tokenizer=tokenizer, options=engine.DecodeOptions(greedy=True, **decoding),
      key=jax.random.key(0))  # greedy decoding draws nothing
  return ({i: hinted for i, (_, hinted) in pairs.items()},
          {i: r.reason for i, r in (left_out | skipped).items()})


def _begun(tokenizer, analysis: str, marker: str, prefill: str) -> list[int]:
  """Tokens that follow the hinted prompt at once."""
  return tokenizer.encode(
      marker if analysis == 'none' else prefill, add_special_tokens=False)


def _limits(
    config, requests, begun, max_new_tokens: int, max_analysis_tokens: int
) -> tuple[dict[int, int], dict[int, Rewritten]]:
  """(most tokens of each analysis by index; requests without room for one)."""
  limits, skipped = {}, {}
  for i, (student, hinted) in enumerate(requests):
    limit = config.max_positions - max_new_tokens - len(hinted)
    if limit <= len(begun) or len(student) + max_new_tokens > config.max_positions:
      longer = max(len(student), len(hinted))
      skipped[i] = _skipped(
          f'{longer} tokens leave no room for {max_new_tokens}')
    else:
      limits[i] = min(limit, max_analysis_tokens)
  return limits, skipped


def _contexts(
    params, config, requests, limits, begun, *, analysis: str, **options
) -> tuple[dict[int, two_streams.Pair], dict[int, Rewritten]]:
  """`_analysed`, or its result without analyses: the hinted prompt and `begun`."""
  if analysis == 'none':
    return {i: (requests[i][0], [*requests[i][1], *begun]) for i in limits}, {}
  return _analysed(params, config, requests, limits, begun, **options)


def _analysed(
    params: Any,
    config: model.ModelConfig,
    requests: Sequence[two_streams.Pair],
    limits: Mapping[int, int],
    begun: Sequence[int],
    *,
    marker: str,
    tokenizer: Any,
    options: engine.DecodeOptions,
    key: jax.Array,
) -> tuple[dict[int, two_streams.Pair], dict[int, Rewritten]]:
  """Lets the model analyse the references.

  Args:
    limits: index of a request -> most tokens of its analysis.
    begun: tokens that each analysis begins with.
    options: greedy, so the key is not used.

  Returns:
    (pairs to decode by index, the analysis behind the hinted prompt; requests
    whose analysis has no marker).
  """
  analyses = engine.run(
      params, config,
      [engine.Request((requests[i][1],), n, i, begun) for i, n in limits.items()],
      options, key=key)
  pieces = stopping.token_bytes(tokenizer, config.vocab_size)
  pairs, skipped = {}, {}
  for i, written in zip(limits, analyses, strict=True):
    stop = stopping.after_last(pieces, marker, written.tokens)
    if stop is None:
      skipped[i] = _skipped(
          f'no {marker!r} in the analysis ({written.finish})', written.tokens)
    else:
      student, hinted = requests[i]
      pairs[i] = student, [*hinted, *written.tokens[:stop]]
  return pairs, skipped


def _skipped(reason: str, analysis: Sequence[int] = ()) -> Rewritten:
  return Rewritten(
      tokens=[], finish='skipped', student_only_from=None,
      analysis=list(analysis), reason=reason,
  )
