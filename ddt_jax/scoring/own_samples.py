"""The model's own samples: texts for comparison and for the self-test."""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import jax

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.scoring import sources


def draw(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    samples: int,
    folder: str | os.PathLike[str],
    made_from: Mapping[str, Any],
    key: jax.Array,
    max_new_tokens: int,
    temperature: float,
    decoding: Mapping[str, Any],
    max_tokens: int,
    endless: bool = False,
    block: int = 500,
    check_stop: Callable[[], None] = lambda: None,
) -> sources.Samples:
  """Samples answers without top-p, or reads those sampled before.

  Texts cut at a limit are valid samples: E[phi_t] = 0 given any prefix.

  Args:
    params, config, tokenizer: the model.
    problems: answered in turn, repeatedly if need be; at least one.
    samples: number of answers.
    folder: of the answers.
    made_from: everything they depend on besides the other arguments.
    key: random key.
    max_new_tokens, temperature: of the answers; temperature above 0.
    decoding: options of `engine.generate`: eos_ids, slots, mesh.
    max_tokens: of prompt and answer together.
    endless: no stop token ends an answer: each has max_new_tokens tokens. Prompts
      without room for them are left out.
    block: answers in one file.
    check_stop: called every few seconds; may raise to end the call.

  Raises:
    errors.InputError: no prompt leaves room for an answer, or the folder holds
      samples of other settings.
  """
  prompts = [
      chat.encode_prompt(tokenizer, p.conversation[:-1]) for p in problems]
  room = [min(max_new_tokens, max_tokens - len(prompt)) for prompt in prompts]
  usable = _usable(room, max_new_tokens, max_tokens, endless)
  chosen = [usable[i % len(usable)] for i in range(samples)]
  made_from = {
      **made_from, 'samples': samples, 'max_new_tokens': max_new_tokens,
      'temperature': temperature, 'endless': endless,
  }
  # Without stop tokens all texts have one length. They stay samples of the model:
  # a stop token is then a token like others.
  decoding = {**decoding, 'eos_ids': ()} if endless else decoding

  bar = engine.progress_bar(samples, 'own samples')

  def journal():
    """Of one block: it moves the bar and keeps unfinished texts."""
    return engine.Journal(
        storage.path(folder) / 'partial', made_from=made_from, title='own samples',
        bar=bar, check_stop=check_stop)

  def make(first, indices):
    generated = engine.generate(
        params, config, [prompts[i] for i in indices], key=key,
        max_new_tokens=max_new_tokens, max_tokens=[room[i] for i in indices],
        temperature=temperature,
        # The index of a sample in the whole corpus seeds its draw, so blocks of
        # another size give the same samples.
        request_ids=range(first, first + len(indices)), journal=journal(),
        **decoding,
    )
    return [
        records.Response(
            problems[i].id, tuple(g.tokens),
            tokenizer.decode(g.tokens, skip_special_tokens=True), g.finish)
        for i, g in zip(indices, generated, strict=True)
    ]

  responses = []
  cache = stage_cache.StageCache(folder, made_from)
  try:
    for made, _ in cache.map(make, chosen, records.Response, size=block):
      responses += made
      # The block is published: the journal's files are of no more use.
      journal().clear()
      bar.update(len(responses) - bar.n)
      check_stop()
  finally:
    bar.close()
  return sources.Samples(
      'own', made_from, [problems[i] for i in chosen],
      [prompts[i] for i in chosen], responses)


def _usable(
    room: Sequence[int], max_new_tokens: int, max_tokens: int, endless: bool
) -> list[int]:
  """Indices of the prompts that leave room for an answer; at least one."""
  least = max_new_tokens if endless else 1
  usable = [i for i, n in enumerate(room) if n >= least]
  if not usable:
    raise errors.InputError(
        f'no prompt leaves room for {least} tokens in {max_tokens}; raise'
        ' --config.data.max_tokens' + (
            ', or lower --config.calibration.lengths' if endless else ''))
  return usable
