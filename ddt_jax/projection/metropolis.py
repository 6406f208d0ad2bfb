r"""A Metropolis-Hastings chain whose limit is the student's own right answers.

Target. q(x) is the probability that the student stream, given the question alone,
writes the text x (temperature 1, no nucleus). A text counts if it is right and
complete: it ends with an end token, has none before it, and keeps the limit. Then

.. math:: \pi(x) = q(x) \, 1[x \text{ counts}] / Z .

Rejection sampling draws from pi too, but rarely succeeds where the student rarely
solves a problem. Hinted Decoding succeeds, but draws from the mixture m.

Move. From x, draw a cut c uniformly from 0 .. \|x\| - 1, lengths with the end token.
Keep the first c tokens and draw the rest from m: y. Accept y with probability
min(1, r), else stay at x,

.. math::
  r = \frac{q(y_{c:})}{q(x_{c:})} \, \frac{m(x_{c:})}{m(y_{c:})} \, \frac{|x|}{|y|}
  \cdot 1[y \text{ counts}] ,

all given the shared prefix.

Restart. A share of the moves, chosen by a coin that does not look at x, draws the
whole text anew: c is 0, and r is without \|x\| / \|y\|. With uniform cuts alone the
first token changes once in \|x\| moves, and it often fixes the form of a text.

Why it is exact. The move x -> y by the cut c has probability m(y_c:) / \|x\|. The
only move back by the same cut has probability m(x_c:) / \|y\|; it exists, since y
too is longer than c. In pi(y) / pi(x) both q(prefix) and Z cancel. So r is
the ratio of Metropolis and Hastings, and for each c

.. math:: \pi(x) \, \tfrac{1}{|x|} m(y_{c:}) \min(1, r)
   = \pi(y) \, \tfrac{1}{|y|} m(x_{c:}) \min(1, 1 / r) .

The sum over c is detailed balance: pi stays pi. A restart has the same balance with
probability m(y) in place of m(y_c:) / \|x\|; a coin between two such moves keeps it.
The cut 0 proposes every text with m > 0. At temperature 1 and top-p 1 these are all
texts, so the chain converges to pi from any start. With a nucleus it converges to pi
restricted to the texts with m > 0.

Both densities are products over tokens, and a token's factor depends on the text
before it alone: so do the splitter's state, the rule of the first token and the
limit. The factors of x's suffix are therefore those that were stored when it was
drawn, and the reverse density costs nothing.

Rounding is the only error. Decoding in bfloat16, or with an int8 cache, targets the
model with that rounding.

Source: Hastings, Biometrika 57 (1970). arXiv:2610.02140 aims at the same target with
another chain.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from ddt_jax import errors
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax.projection import support


class Move(NamedTuple):
  """One move of a chain.

  Attributes:
    cut: c, tokens of the old text that the proposal keeps.
    length: of the old text, in tokens.
    drawn: tokens drawn for the proposal.
    counts: whether the proposal is complete and right.
    accepted: whether the chain moved to it.
    log_q: of the chain's text after the move, all tokens together, nats.
    restart: whether the whole text was drawn anew, without a draw of the cut.
    log_weight: log q - log m of the drawn tokens, nats; see `diagnostics.pass_rate`.
  """

  cut: int
  length: int
  drawn: int
  counts: bool
  accepted: bool
  log_q: float
  restart: bool = False
  log_weight: float = 0.0


class Projected(NamedTuple):
  """The end of a chain.

  Attributes:
    tokens: of the text, the end token last.
    log_q: of each token, by the student at temperature 1, nats.
    accepted, proposed: moves.
    trace: the moves in order.
    start: 'given'; 'replaced', by a hinted proposal, where the given text had
      proposal density 0; 'frozen', where no proposal was right either: the text is
      the given one and was never moved.
    drawn: tokens drawn, of the replacement too.
  """

  tokens: list[int]
  log_q: list[float]
  accepted: int
  proposed: int
  trace: list[Move]
  start: str
  drawn: int


@dataclasses.dataclass
class _Chain:
  """The state of a chain; see `Projected`. log_m, log_q: [tokens], float64."""

  pair: int
  tokens: list[int]
  log_m: np.ndarray
  log_q: np.ndarray
  trace: list[Move] = dataclasses.field(default_factory=list)
  start: str = 'given'
  drawn: int = 0

  def result(self) -> Projected:
    return Projected(
        list(self.tokens), self.log_q.tolist(), sum(m.accepted for m in self.trace),
        len(self.trace), self.trace, self.start, self.drawn)


def project(
    params: Any,
    config: model.ModelConfig,
    pairs: Sequence[hinted_decode.Pair],
    starts: Sequence[Sequence[int] | Sequence[Sequence[int]]],
    *,
    key: jax.Array,
    sweeps: int,
    max_new_tokens: int,
    is_right: support.IsRight,
    eos_ids: Sequence[int],
    beta: float,
    temperature: float = 1.0,
    top_p: float = 1.0,
    chains: int = 1,
    restarts: float = 0.5,
    max_tokens: Sequence[int] | None = None,
    repetition: tuple[int, int, int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> list[Projected]:
  """Runs chains over the right answers of each problem, all together.

  A sweep is one move of every chain: one call of `hinted_decode.generate`.

  Args:
    params, config: the model.
    pairs: (student ids, hinted ids) of each problem.
    starts: of each pair, one right text for all its chains, or `chains` of them:
      own samples, rewritten references, references.
    key: random key.
    sweeps: moves of each chain.
    max_new_tokens: longest text that counts, in tokens.
    is_right: (texts, the index of each one's pair) -> verdicts. Called once for
      each text of a pair at most.
    eos_ids: any of them ends a text.
    beta, temperature, top_p: of the proposals, see `hinted_decode.generate`.
    chains: of each pair.
    restarts: share of moves that draw the whole text anew, in [0, 1].
    max_tokens: of each pair, the longest text that counts, if lower.
    repetition: see `engine.DecodeOptions`; texts that repeat do not count then.
    mesh: see `engine.DecodeOptions`.
    **options: further options of `hinted_decode.generate`: schedule, center,
      bounds, order, splitter, tokenizer, first_from_hint, slots, cache_dtype,
      official_window, journal.

  Returns:
    Projected of each chain, those of a pair side by side, in the order of `pairs`.

  Raises:
    InputError: naming the option or the start that is invalid.
  """
  if min(sweeps, chains - 1) < 0:
    raise errors.InputError(
        f'sweeps={sweeps}, chains={chains}: at least 0 sweeps and 1 chain')
  if not 0 <= restarts <= 1:
    raise errors.InputError(f'restarts={restarts} is not in [0, 1]')
  rules = support.Rules(
      pairs, is_right, eos_ids, max_new_tokens, max_tokens, repetition,
      options.get('official_window', False))
  states = _opened(params, config, pairs, starts, chains, rules, dict(
      beta=beta, temperature=temperature, top_p=top_p, mesh=mesh, **options))

  def propose(members, prefixes, key):
    # A chain's draws depend on its number, not on the chains that take part.
    return hinted_decode.generate(
        params, config, [pairs[states[i].pair] for i in members],
        max_new_tokens=max_new_tokens,
        max_tokens=[rules.limits[states[i].pair] for i in members],
        request_ids=members, prefixes=prefixes, log_probs=True, key=key,
        eos_ids=tuple(eos_ids), repetition=repetition, mesh=mesh, beta=beta,
        temperature=temperature, top_p=top_p, **options)

  _replace_starts(states, rules, propose, jax.random.fold_in(key, 0))
  for sweep in range(sweeps):
    _sweep(states, rules, propose, restarts, jax.random.fold_in(key, sweep + 1))
  return [state.result() for state in states]


def log_ratio(
    old_m: np.ndarray, old_q: np.ndarray, new_m: np.ndarray, new_q: np.ndarray,
    cut: int, restart: bool = False,
) -> float:
  r"""Logarithm of r, see the module; the move is accepted with min(1, r).

  Args:
    old_m, old_q: [\|x\|], log m and log q of the tokens of the text x.
    new_m, new_q: [\|y\|], likewise of the proposal y.
    cut: c, the number of tokens that both share.
    restart: whether c is 0 without a draw: then the lengths do not matter.

  Example:
    >>> half = np.log([0.5, 0.5])
    >>> float(log_ratio(half, half, half[:1], half[:1], 0))  # 2 tokens to 1
    0.6931471805599453
  """
  def sums(x):
    return x[cut:].sum(dtype=np.float64)

  found = sums(new_q) - sums(old_q) + sums(old_m) - sums(new_m)
  return found if restart else found + math.log(len(old_m) / len(new_m))


def _sweep(
    states: list[_Chain], rules: support.Rules, propose, restarts: float,
    key: jax.Array,
) -> None:
  """Moves every chain once, except frozen ones."""
  members = [i for i, state in enumerate(states) if state.start != 'frozen']
  if not members:
    return
  draw, decide = (jax.random.fold_in(key, i) for i in range(2))
  # 32 random bits each for the cut, the acceptance and the coin of every chain.
  bits = np.asarray(jax.vmap(
      lambda i: jax.random.bits(jax.random.fold_in(decide, i), (3,), 'uint32')
  )(np.array(members)))
  restart = (bits[:, 2] / 2.0**32 < restarts).tolist()
  lengths = np.array([len(states[i].tokens) for i in members], np.uint64)
  # floor(u |x|) in integers: float32 could round up to |x|.
  cuts = (bits[:, 0].astype(np.uint64) * lengths >> np.uint64(32)).tolist()
  cuts = [0 if r else c for c, r in zip(cuts, restart, strict=True)]
  prefixes = [states[i].tokens[:c] for i, c in zip(members, cuts, strict=True)]
  drawn = propose(members, prefixes, draw)
  texts = [[*p, *d.tokens] for p, d in zip(prefixes, drawn, strict=True)]
  counting = rules.counting(
      texts, [d.finish for d in drawn], [states[i].pair for i in members])
  log_u = np.log((bits[:, 1] + 0.5) / 2.0**32)
  for i, cut, again, new, text, counts, bound in zip(
      members, cuts, restart, drawn, texts, counting, log_u, strict=True
  ):
    x = states[i]
    new_m = np.concatenate([x.log_m[:cut], new.log_m])
    new_q = np.concatenate([x.log_q[:cut], new.log_q])
    accepted = bool(
        counts and bound < log_ratio(x.log_m, x.log_q, new_m, new_q, cut, again))
    length = len(x.tokens)
    if accepted:
      x.tokens, x.log_m, x.log_q = text, new_m, new_q
    x.drawn += len(new.tokens)
    x.trace.append(Move(
        cut, length, len(new.tokens), counts, accepted, float(x.log_q.sum()), again,
        float(np.sum(new.log_q) - np.sum(new.log_m))))


# Starts ---------------------------------------------------------------------------


def _opened(
    params: Any, config: model.ModelConfig, pairs, starts, chains: int,
    rules: support.Rules, mixture: dict[str, Any],
) -> list[_Chain]:
  """The chains at their starts, with the log-probabilities of these."""
  if len(starts) != len(pairs):
    raise errors.InputError(f'{len(starts)} starts for {len(pairs)} pairs')
  texts: list[list[int]] = []
  for i, given in enumerate(starts):
    # One text, or a list of texts.
    mine = [given] * chains if np.ndim(given[:1]) == 1 else given
    if len(mine) != chains:
      raise errors.InputError(
          f'starts[{i}] has {len(mine)} texts: one, or one for each of the'
          f' {chains} chains')
    texts += [list(map(int, text)) for text in mine]
  owners = [i for i in range(len(pairs)) for _ in range(chains)]
  for i, text in zip(owners, texts, strict=True):
    if not rules.ends_once(text) or len(text) > rules.limits[i]:
      raise errors.InputError(
          f'starts[{i}] has {len(text)} tokens: a start must end with an end token,'
          f' have none before it, and have at most {rules.limits[i]} tokens')
  for i, right in zip(owners, rules.right(texts, owners), strict=True):
    if not right:
      raise errors.InputError(f'starts[{i}] is wrong: a chain starts at a right text')
  # Chains of a pair often start at the same text: each is read once.
  distinct = list(dict.fromkeys(zip(owners, map(tuple, texts), strict=True)))
  scoring = {
      name: value for name, value in mixture.items()
      if name not in ('slots', 'cache_dtype', 'journal', 'official_window')}
  scores = dict(zip(distinct, hinted_decode.score(
      params, config, [pairs[i] for i, _ in distinct],
      [text for _, text in distinct], **scoring), strict=True))
  states = []
  for i, text in zip(owners, texts, strict=True):
    log_m, log_q = map(np.array, scores[i, tuple(text)])
    # An end token as the first token does not end a text then, so this one is
    # never drawn.
    first_may_end = not mixture.get('first_from_hint', True)
    if rules.repeats(text) or (len(text) == 1 and not first_may_end):
      log_m[-1] = -np.inf
    states.append(_Chain(i, text, log_m, log_q))
  return states


def _replace_starts(states, rules: support.Rules, propose, key: jax.Array) -> None:
  """Replaces starts that no proposal could reach: the chain would never move.

  Each gets one hinted text; if that does not count, the chain is frozen.
  """
  members = [i for i, s in enumerate(states) if not np.isfinite(s.log_m).all()]
  if not members:
    return
  drawn = propose(members, [[]] * len(members), key)
  counting = rules.counting(
      [d.tokens for d in drawn], [d.finish for d in drawn],
      [states[i].pair for i in members])
  for i, new, counts in zip(members, drawn, counting, strict=True):
    x = states[i]
    x.drawn += len(new.tokens)
    x.start = 'replaced' if counts else 'frozen'
    if counts:
      x.tokens = list(new.tokens)
      x.log_m, x.log_q = np.array(new.log_m), np.array(new.log_q)
