"""When a response stops: repetition, and a splitter found across token borders.

A splitter is a string, by default `\\boxed{`, after which only the student stream
speaks. Tokens cut it anywhere, so an automaton over bytes follows the text.
"""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np

from ddt_jax import errors


def repeats(
    tokens: Sequence[int],
    *,
    n: int = 30,
    times: int = 5,
    official_window: bool = False,
) -> bool:
  """Whether some window of `n` tokens occurs at least `times` times.

  .. math:: \\max_w |\\{ i : (x_i, \\ldots, x_{i+n-1}) = w \\}| \\ge times

  Overlapping occurrences count: a constant run of n + times - 1 tokens repeats.

  Args:
    tokens: ids, on the host.
    n: length of the window.
    times: occurrences that count as a repetition.
    official_window: whether to leave the last window out, as the official code
      does; it then notices a repetition one token later. For comparison only.

  Returns:
    bool.

  Example:
    >>> repeats([1, 2, 1, 2, 1], n=2, times=2), repeats([1, 2, 1, 2, 1], n=2, times=3)
    (True, False)

  Source: the official code of arXiv:2602.12222, its stopping rule.
  """
  # Even a constant run has too few windows.
  if len(tokens) < n + times - 1:
    return False
  ids = np.asarray(tokens, np.uint64)
  windows = np.lib.stride_tricks.sliding_window_view(ids, n)
  if official_window:
    windows = windows[:-1]
  # Equal windows have equal hashes (sums modulo 2^64), and sorting hashes is much
  # cheaper than sorting windows. Collisions are ruled out below.
  # Powers of an odd constant (2^64 / golden ratio), so no power becomes 0.
  factors = np.cumprod(np.full(n, 0x9E3779B97F4A7C15, np.uint64))
  _, which, counts = np.unique(
      windows @ factors, return_inverse=True, return_counts=True
  )
  suspects = windows[counts[which] >= times]
  if not len(suspects):
    return False
  return bool(np.unique(suspects, axis=0, return_counts=True)[1].max() >= times)


def _byte_alphabet() -> dict[str, int]:
  """Character -> byte of byte-level BPE; printable bytes are their own character."""
  # GPT-2's table: space, controls and the soft hyphen (173) are not printable.
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  return {chr(b): b for b in printable} | {
      chr(256 + i): b for i, b in enumerate(others)
  }


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
  """The bytes that each token adds to a text.

  Args:
    tokenizer: a fast tokenizer of transformers: byte-level BPE, or SentencePiece
      style (a mark for spaces, byte fallback).
    vocab_size: V of the model.

  Returns:
    V byte strings, by token id; b'' for ids that the tokenizer lacks.

  Raises:
    errors.InputError: another kind of tokenizer.
  """
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  decoder = json.dumps(json.loads(backend.to_str())['decoder'] if backend else '')
  if 'ByteLevel' in decoder:
    alphabet = _byte_alphabet()

    def read(piece):
      return bytes(alphabet[c] for c in piece)
  elif 'ByteFallback' in decoder or 'Metaspace' in decoder:

    def read(piece):
      # Byte fallback: <0x0A> is the byte 10.
      if len(piece) == 6 and piece.startswith('<0x'):
        return bytes.fromhex(piece[3:5])
      # SentencePiece writes a space as U+2581.
      return piece.replace('\u2581', ' ').encode()
  else:
    raise errors.InputError(
        'a splitter needs a byte-level or SentencePiece-style fast tokenizer;'
        f' the decoder of this one is {decoder}'
    )
  added = tokenizer.added_tokens_decoder
  pieces = [b''] * vocab_size
  for piece, i in tokenizer.get_vocab().items():
    # A tokenizer may have more ids than the model, which never draws them.
    if i < vocab_size:
      # Added tokens are stored as plain text, not in the tokenizer's alphabet.
      pieces[i] = added[i].content.encode() if i in added else read(piece)
  return pieces


def check_eos(tokenizer: Any, vocab_size: int) -> None:
  """Checks that the tokenizer's EOS is a token of the model.

  Args:
    tokenizer: of transformers; without an EOS it passes.
    vocab_size: V of the model.

  Raises:
    errors.InputError: the EOS has no id below V, so no response could end.
  """
  eos = tokenizer.eos_token
  if eos is None:
    return
  i = tokenizer.convert_tokens_to_ids(eos)
  unknown = i is None or i == tokenizer.unk_token_id and eos != tokenizer.unk_token
  if unknown or i >= vocab_size:
    raise errors.InputError(
        f"the tokenizer's eos_token {eos!r} is not among the model's {vocab_size}"
        ' tokens, so no response could end; correct tokenizer_config.json'
    )


def splitter_automaton(
    tokenizer: Any, splitter: str, vocab_size: int
) -> np.ndarray:
  """Table of an automaton that finds a string in a text given token by token.

  In state s the longest suffix of the text that is a prefix of the splitter has s
  bytes. The last state is never left. This is the automaton of Knuth, Morris and
  Pratt over bytes, run over each token's bytes from every state.

  Args:
    tokenizer: of transformers, see `token_bytes`.
    splitter: the string to find, e.g. '\\\\boxed{'.
    vocab_size: V of the model.

  Returns:
    [bytes of the splitter + 1, V], int32: (state, token) -> state.

  Raises:
    errors.InputError: no tokenizer, one that cannot produce the splitter, or an
      empty splitter.
  """
  if tokenizer is None:
    raise errors.InputError(f'the splitter {splitter!r} needs a tokenizer')
  if not splitter:
    raise errors.InputError('the splitter is empty; use None for no splitter')
  pattern = splitter.encode()
  end = len(pattern)
  # by_byte[s, b]: the next state. Column 256 means no byte: the state stays.
  by_byte = np.zeros((end + 1, 257), np.int32)
  by_byte[:, 256] = np.arange(end + 1)
  # Found is found: later text must not leave the last state.
  by_byte[end] = end
  border = 0  # state after pattern[1: s], the state to fall back to
  for s, byte in enumerate(pattern):
    if s:
      by_byte[s, :256] = by_byte[border, :256]
      border = by_byte[border, byte]
    by_byte[s, byte] = s + 1

  # All tokens and states at once, byte by byte; short tokens are padded by 256.
  pieces = token_bytes(tokenizer, vocab_size)
  # Every state begins as itself; column 256 holds the states' own numbers.
  table = np.repeat(by_byte[:, 256:], vocab_size, 1)
  padded = np.full((vocab_size, max(map(len, pieces))), 256)
  for i, piece in enumerate(pieces):
    padded[i, :len(piece)] = list(piece)
  for column in padded.T:
    table = by_byte[table, column]
  # A splitter that no token sequence spells would silently never be found.
  reached, seen = {0}, set()
  while reached - seen:
    seen |= reached
    reached |= set(np.unique(table[sorted(seen)]).tolist())
  if end not in reached:
    raise errors.InputError(f'no tokens of the tokenizer produce {splitter!r}')
  return table


def state_after(table: np.ndarray | None, tokens: Sequence[int]) -> int:
  """State of a splitter's automaton after a text; 0 without an automaton."""
  state = 0
  if table is not None:
    for token in tokens:
      state = int(table[state, token])
  return state


def found_at(table: np.ndarray | None, tokens: Sequence[int]) -> int | None:
  """Number of tokens up to the one that completes the splitter.

  Args:
    table: see `splitter_automaton`; None finds nothing.
    tokens: ids, on the host.

  Returns:
    The number of tokens, or None if the splitter does not occur.

  Example:
    >>> table = np.array([[0, 1], [2, 1], [2, 2]])  # finds token 1, then 0
    >>> found_at(table, [0, 1, 1, 0, 0])
    4
  """
  if table is None:
    return None
  state, end = 0, len(table) - 1
  for n, token in enumerate(tokens, 1):
    state = table[state, token]
    if state == end:
      return n
  return None


def after_last(
    pieces: Sequence[bytes], marker: str, tokens: Sequence[int]
) -> int | None:
  """Number of tokens up to the end of a marker's last occurrence.

  Args:
    pieces: see `token_bytes`.
    marker: the string to find.
    tokens: ids, on the host.

  Returns:
    The number of tokens, or None if the marker does not occur. A token within
    which the marker ends is counted whole.

  Example:
    >>> pieces = [b'a', b'# C', b'oT ']
    >>> after_last(pieces, '# CoT', [0, 1, 2, 0])
    3
  """
  # Byte offset of each token's end.
  ends = np.cumsum([len(pieces[t]) for t in tokens])
  text = b''.join(pieces[t] for t in tokens)
  at = text.rfind(marker.encode())
  if at < 0:
    return None
  return int(np.searchsorted(ends, at + len(marker.encode()))) + 1
