"""A few texts under one model: phi of every token, as colours."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.report import page
from ddt_jax.report import table
from ddt_jax.report.notebook import cell
from ddt_jax.scoring import forward
from ddt_jax.scoring import response_scores

_TOP = 5  # likeliest tokens that a tooltip names


@dataclasses.dataclass(frozen=True)
class ScoredText:
  """A response under a model.

  Attributes:
    title, prompt: name of the text, and what it answers.
    tokens: text of each token, the end of the turn included.
    stats: TokenStats of NumPy arrays [tokens].
    top: at each place the likeliest tokens, as (text, probability).
    scores: of the response: phi (mean, nats), z, pit_p_value, perplexity and
      others, see `response_scores.per_response`.
  """

  title: str
  prompt: str
  tokens: tuple[str, ...]
  stats: ddt.TokenStats
  top: tuple[tuple[tuple[str, float], ...], ...]
  scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True, repr=False)
class ScoredTexts(cell.Cell):
  """Texts that `score` has scored; they share one scale of colours."""

  texts: tuple[ScoredText, ...]

  def __getitem__(self, title: str) -> ScoredText:
    return next(text for text in self.texts if text.title == title)

  def table(self) -> table.Table:
    """Each text in one row."""
    return table.Table(
        ['text', 'tokens', 'mean phi', 'z', 'p (PIT)', 'perplexity'],
        [[t.title, str(len(t.tokens)), f'{t.scores["phi"]:+.3f}',
          f'{t.scores["z"]:+.2f}', f'{t.scores["pit_p_value"]:.3f}',
          f'{t.scores["perplexity"]:.2f}'] for t in self.texts])

  def text(self) -> str:
    return table.aligned(self.table())

  def html(self) -> str:
    return page.cell(
        'texts', summary=self.table(),
        maps=[(t.prompt, _heat_map(t)) for t in self.texts])


def score(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    texts: Mapping[str, tuple[str, str]],
    *,
    mesh: jax.sharding.Mesh,
    seed: int = 0,
) -> ScoredTexts:
  """Scores a few responses, for a look at their tokens.

  `python -m experiments.score` is for whole corpora.

  Args:
    params, config, tokenizer: the model, with a chat template.
    texts: title -> (question, response).
    mesh: the one that `params` are sharded over.
    seed: of the randomised PIT.

  Returns:
    ScoredTexts, in the order of `texts`.

  Raises:
    errors.InputError: the chat template refuses a conversation.
  """
  end = chat.turn_end(tokenizer, config.eos_ids)
  examples = [
      chat.encode(tokenizer, [
          *prompts.student_chat(question),
          {'role': 'assistant', 'content': response}], end)
      for question, response in texts.values()]
  found = forward.token_stats(
      params, config, examples, batch=mesh.shape['data'] * mesh.shape['fsdp'],
      mesh=mesh, tail=True, top_k=_TOP)
  rng = np.random.default_rng(seed)
  return ScoredTexts(tuple(
      _scored_text(tokenizer, title, question, example, stats, rng)
      for (title, (question, _)), example, stats in zip(
          texts.items(), examples, found, strict=True)))


def _scored_text(tokenizer, title, question, example, stats, rng) -> ScoredText:
  tokens = example.tokens[example.supervised]
  uniform = rng.random(len(tokens)).astype(np.float32)
  scores = response_scores.per_response(
      stats, [len(tokens)], ddt.randomised_pit(stats, uniform))
  return ScoredText(
      title, question, decoded(tokenizer, tokens), stats,
      top_tokens(tokenizer, stats),
      {name: x[0].item() for name, x in scores.items()})


def decoded(tokenizer: Any, tokens: Any) -> tuple[str, ...]:
  """Text of each token."""
  # One by one: decoded together they would be a single text.
  return tuple(tokenizer.decode([int(t)]) for t in tokens)


def top_tokens(
    tokenizer: Any, stats: ddt.TokenStats
) -> tuple[tuple[tuple[str, float], ...], ...]:
  """(text, probability) of the likeliest tokens at each place."""
  return tuple(
      tuple(zip(decoded(tokenizer, ids), p.tolist(), strict=True))
      for ids, p in zip(
          stats.top_ids, np.exp(stats.top_log_p), strict=True))


def _heat_map(text: ScoredText) -> page.HeatMap:
  tokens = []
  for token, log_p, phi, top in zip(
      text.tokens, text.stats.log_p, text.stats.phi, text.top, strict=True):
    likeliest = ', '.join(
        f'"{table.visible(other)}" {p:.1%}' for other, p in top)
    tokens.append((
        page.with_breaks(token),
        f'"{table.visible(token)}": phi {phi:+.2f}, p {np.exp(log_p):.1%};'
        f' likeliest here: {likeliest}', float(phi)))
  return page.HeatMap(
      f'{text.title}: mean phi {text.scores["phi"]:+.3f}', tokens)
