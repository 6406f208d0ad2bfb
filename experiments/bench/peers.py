"""What decoding is measured against: the official algorithm, and torch.

Every function takes pairs of (student ids, hinted ids), the hinted stream's
first, and decodes `new` tokens a pair. Only their speed is of interest.
"""

from collections.abc import Callable, Sequence
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import sampling

TEMPERATURE, TOP_P, BETA = 0.3, 0.95, 3.0

Pairs = Sequence[tuple[list[int], list[int]]]


def load_torch(folder: str) -> torch.nn.Module:
  torch.set_num_threads(os.cpu_count())  # as XLA does
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32
  ).eval()


def _mixture(logits_p: torch.Tensor, logits_q: torch.Tensor) -> torch.Tensor:
  """log m [B, V] of the linear schedule."""
  log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
  entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
  lam = (BETA * entropy / np.log(log_p.shape[-1])).clamp(0, 1)
  return (1 - lam) * log_p + lam * log_q


def draw(log_m: torch.Tensor) -> torch.Tensor:
  """The nucleus at temperature 1, then the temperature; tokens [B, 1]."""
  ranked, order = log_m.softmax(-1).sort(-1, descending=True)
  beyond = ranked.cumsum(-1) - ranked > TOP_P
  kept = log_m.gather(-1, order).masked_fill(beyond, -1e20)
  at = (kept / TEMPERATURE).softmax(-1).multinomial(1)
  return order.gather(-1, at)


@torch.inference_mode()
def official(net: torch.nn.Module, pairs: Pairs, new: int) -> None:
  """The official algorithm: one pair at a time, both contexts read again for
  every token."""
  for student, hinted in pairs:
    q, p = torch.tensor([student]), torch.tensor([hinted])
    for _ in range(new):
      log_m = _mixture(
          net(p, use_cache=False).logits[:, -1],
          net(q, use_cache=False).logits[:, -1],
      )
      token = draw(log_m)
      p, q = torch.cat([p, token], 1), torch.cat([q, token], 1)


def _left_padded(prompts: Sequence[list[int]]):
  width = max(map(len, prompts))
  ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
  mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
  return ids, mask


@torch.inference_mode()
def two_caches(
    net: torch.nn.Module, pairs: Pairs, new: int
) -> dict[str, float]:
  """A batch of pairs, a cache for each stream, two passes a token.

  Returns the seconds of decoding, after the prompts were read, scaled to `new`
  tokens.
  """
  streams = []
  for prompts in ([h for _, h in pairs], [s for s, _ in pairs]):
    ids, mask = _left_padded(prompts)
    streams.append([ids, mask, transformers.DynamicCache()])
  began = 0.0
  for step in range(new):
    if step == 1:
      began = time.perf_counter()
    logits = []
    for stream in streams:
      ids, mask, cache = stream
      positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1]:]
      logits.append(net(
          ids, attention_mask=mask, position_ids=positions,
          past_key_values=cache, logits_to_keep=1,
      ).logits[:, -1])
    token = draw(_mixture(*logits))
    for stream in streams:
      stream[0] = token
      stream[1] = torch.cat([stream[1], torch.ones_like(token)], 1)
  return {'decode': (time.perf_counter() - began) * new / (new - 1)}


@torch.inference_mode()
def generate(net: torch.nn.Module, pairs: Pairs, new: int) -> None:
  """transformers' own plain sampling of the student prompts."""
  ids, mask = _left_padded([s for s, _ in pairs])
  net.generate(
      ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE,
      top_p=TOP_P, top_k=0, min_new_tokens=new, max_new_tokens=new,
      pad_token_id=0,
  )


@functools.partial(jax.jit, static_argnames='config')
def _official_step(params, config, p, q, ends, key):
  """One token out of both contexts, read as a whole; `ends`: their lengths."""
  def last(ids, end):
    hidden, _ = model.forward(params, config, ids, return_hidden=True)
    return model.logits(params, hidden[:, end - 1])

  mixture = hinted_decode.Mixture(BETA, first_from_hint=False)
  log_m = mixture(
      jnp.stack([last(p, ends[0]), last(q, ends[1])]), jnp.ones(1, int),
      jnp.zeros(1, bool),
  )
  token = sampling.draw(key[None], sampling.distribution(
      log_m, temperature=TEMPERATURE, top_p=TOP_P
  ))
  return p.at[:, ends[0]].set(token), q.at[:, ends[1]].set(token)


def official_in_jax(
    params: dict, config: model.ModelConfig
) -> Callable[[Pairs, int], None]:
  """`official`, translated: contexts padded to a fixed length, one jitted step."""
  def run(pairs, new):
    for student, hinted in pairs:
      p, q = (np.array([x + [0] * new]) for x in (hinted, student))
      for i in range(new):
        ends = np.array([len(hinted) + i, len(student) + i])
        p, q = _official_step(
            params, config, p, q, ends, jax.random.key(i)
        )
      jax.block_until_ready(p)

  return run
