"""The official algorithms in torch, and other code that ours is measured against.

Losses and scores come first, decoding after them. Every decoding function takes
pairs of (student ids, hinted ids) and decodes `new` tokens for each pair. Only its
speed is of interest; it returns no tokens.
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
from experiments.bench import workloads

LOSS_BETA, GAMMA = 1.0, (0.1, 2.0)  # of IDFT's exponent

Pairs = Sequence[tuple[list[int], list[int]]]


def load_torch(folder: str) -> torch.nn.Module:
  """A Hugging Face folder as a float32 model of transformers."""
  # All cores, as XLA uses.
  torch.set_num_threads(os.cpu_count())
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32
  ).eval()


# Losses and scores ---------------------------------------------------------------


def idft_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
  """Mean loss of IDFT by the official expression.

  Args:
    logits: [T, V].
    targets: [T], token ids; all of them are supervised.
  """
  p = logits.softmax(-1)
  with torch.no_grad():
    entropy = -(p * (p + 1e-10).log()).sum(-1)
  p_x = p.gather(-1, targets[:, None])[:, 0].clamp(1e-10, 1)
  with torch.no_grad():
    phi = p_x.log() + entropy
    weight = p_x ** (-phi / LOSS_BETA).exp().clamp(*GAMMA)
  return -(weight * p_x.log()).mean()


@torch.inference_mode()
def phi(net: torch.nn.Module, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
  """phi of every token but a text's first, by the official calculator.

  It takes one text at a time and holds p and log p of the whole vocabulary, in the
  dtype of `net`.
  """
  found = []
  for ids in texts:
    tokens = torch.from_numpy(ids).long()[None]
    logits = net(tokens, use_cache=False).logits[0, :-1]
    p, log_p = logits.softmax(-1), logits.log_softmax(-1)
    entropy = -(p * log_p).sum(-1)
    realised = log_p.gather(-1, tokens[0, 1:, None])[:, 0]
    found.append((realised + entropy).numpy())
  return found


# Decoding ------------------------------------------------------------------------


def _mixture(logits_p: torch.Tensor, logits_q: torch.Tensor) -> torch.Tensor:
  """log m [B, V] under the linear schedule of the hint weight."""
  log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
  entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
  lam = (workloads.HINT_BETA * entropy / np.log(log_p.shape[-1])).clamp(0, 1)
  return (1 - lam) * log_p + lam * log_q


def draw(log_m: torch.Tensor) -> torch.Tensor:
  """Draws tokens [B, 1]: the nucleus at temperature 1, then the temperature."""
  ranked, order = log_m.softmax(-1).sort(-1, descending=True)
  beyond = ranked.cumsum(-1) - ranked > workloads.TOP_P
  kept = log_m.gather(-1, order).masked_fill(beyond, -1e20)
  at = (kept / workloads.TEMPERATURE).softmax(-1).multinomial(1)
  return order.gather(-1, at)


@torch.inference_mode()
def official(net: torch.nn.Module, pairs: Pairs, new: int) -> None:
  """Decodes by the official algorithm.

  It takes one pair at a time and has no cache: both contexts are prefilled again
  for every token.
  """
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
  """Decodes a batch of pairs with a KV cache per stream and two passes per token.

  Returns:
    {'decode': seconds without the prefill}. The first token comes from the prefill,
    so new - 1 decode steps are timed and scaled to `new`.
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
  """Samples from the student prompts by transformers' `generate`."""
  ids, mask = _left_padded([s for s, _ in pairs])
  net.generate(
      ids, attention_mask=mask, do_sample=True, temperature=workloads.TEMPERATURE,
      top_p=workloads.TOP_P, top_k=0, min_new_tokens=new, max_new_tokens=new,
      pad_token_id=0,
  )


@functools.partial(jax.jit, static_argnames='config')
def _official_step(params, config, p, q, ends, key):
  """Appends one token to both contexts, which are prefilled as a whole.

  Args:
    p, q: [1, T], hinted and student context, padded on the right.
    ends: [2], their lengths.
  """
  def last(ids, end):
    hidden, _ = model.forward(params, config, ids, return_hidden=True)
    return model.logits(params, hidden[:, end - 1])

  mixture = hinted_decode.Mixture(workloads.HINT_BETA, first_from_hint=False)
  log_m = mixture(
      jnp.stack([last(p, ends[0]), last(q, ends[1])]), jnp.ones(1, int),
      jnp.zeros(1, bool),
  )
  token = sampling.draw(key[None], sampling.distribution(
      log_m, temperature=workloads.TEMPERATURE, top_p=workloads.TOP_P
  ))
  return p.at[:, ends[0]].set(token), q.at[:, ends[1]].set(token)


def official_in_jax(
    params: dict, config: model.ModelConfig
) -> Callable[[Pairs, int], None]:
  """`official` in JAX: it shows how much of our speed is due to XLA alone.

  Contexts are padded to their final length, so that one compiled step serves all.
  """
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
