"""The model's own samples: what its scores are compared with, and tested on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import tqdm

from ddt_jax import engine
from ddt_jax import model
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
    folder: Any,
    made_from: Mapping[str, Any],
    key: jax.Array,
    max_new_tokens: int,
    temperature: float,
    decoding: Mapping[str, Any],
    max_tokens: int,
    size: int = 512,
    check_stop: Callable[[], None] = lambda: None,
) -> sources.Samples:
  """Draws answers from the whole distribution, or reads those drawn before.

  A text that is cut off at a limit is as good a sample as one that ends: what is
  expected of each token is so whatever came before it.

  Args:
    params, config, tokenizer: the model.
    problems: asked in turn, as often as is needed; at least one.
    samples: how many answers.
    folder: where they are kept.
    made_from: what they follow from, besides what is given here.
    key: random key.
    max_new_tokens, temperature: of the answers.
    decoding: of `engine.generate`: eos_ids, slots, mesh.
    max_tokens: of prompt and answer together.
    size: answers that a kill can cost.
    check_stop: called now and then; may raise to end the call.
  """
  prompts = [
      chat.encode_prompt(tokenizer, p.conversation[:-1]) for p in problems]
  room = [min(max_new_tokens, max_tokens - len(prompt)) for prompt in prompts]
  able = [i for i, n in enumerate(room) if n > 0]
  if not able:
    raise ValueError(f'no prompt leaves room for an answer in {max_tokens} tokens')
  asked = [able[i % len(able)] for i in range(samples)]
  made_from = dict(made_from) | {
      'samples': samples, 'max_new_tokens': max_new_tokens,
      'temperature': temperature,
  }

  def make(first, some):
    generated = engine.generate(
        params, config, [prompts[i] for i in some], key=key,
        max_new_tokens=max_new_tokens, max_tokens=[room[i] for i in some],
        temperature=temperature, request_ids=range(first, first + len(some)),
        **decoding,
    )
    return [
        records.Response(
            problems[i].id, tuple(g.tokens),
            tokenizer.decode(g.tokens, skip_special_tokens=True), g.finish)
        for i, g in zip(some, generated, strict=True)
    ]

  responses = []
  with tqdm.tqdm(total=samples, desc='own samples') as bar:
    for made, _ in stage_cache.StageCache(folder, made_from).map(
        make, asked, records.Response, size=size
    ):
      responses += made
      bar.update(len(made))
      check_stop()
  return sources.Samples(
      'own', made_from, [problems[i] for i in asked],
      [prompts[i] for i in asked], responses)
