"""When a response has said what matters, and when it goes round in circles."""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np


def repeats(
    tokens: Sequence[int],
    *,
    n: int = 30,
    times: int = 5,
    official_window: bool = False,
) -> bool:
  """Does some window of `n` tokens occur at least `times` times?

  .. math:: \\max_w |\\{ i : (x_i, \\ldots, x_{i+n-1}) = w \\}| \\ge times

  Overlapping occurrences count: a constant run of n + times - 1 tokens repeats.

  Args:
    tokens: ids, on the host.
    n: length of the window.
    times: how often is too often.
    official_window: leave the last window out, as the official code does; a
      repetition is then noticed one token later. For comparison only.

  Source: arXiv:2602.12222, the official code's stopping rule.
  """
  if len(tokens) < n + times - 1:
    return False
  ids = np.asarray(tokens, np.uint64)
  windows = np.lib.stride_tricks.sliding_window_view(ids, n)
  if official_window:
    windows = windows[:-1]
  # Equal windows have equal hashes: sums modulo 2^64 with odd factors.
  factors = np.cumprod(np.full(n, 0x9E3779B97F4A7C15, np.uint64))
  _, which, counts = np.unique(
      windows @ factors, return_inverse=True, return_counts=True
  )
  often = windows[counts[which] >= times]
  if not len(often):
    return False
  return bool(np.unique(often, axis=0, return_counts=True)[1].max() >= times)


def _byte_alphabet() -> dict[str, int]:
  """Character -> byte of byte-level BPE: printable ones stand for themselves."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  return {chr(b): b for b in printable} | {
      chr(256 + i): b for i, b in enumerate(others)
  }


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
  """What each token adds to a text; b'' for ids that the tokenizer lacks.

  Args:
    tokenizer: of transformers, fast: byte-level BPE, or of SentencePiece's
      kind, with a mark for spaces and byte fallback.
    vocab_size: of the model.

  Raises:
    ValueError: another kind of tokenizer.
  """
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  decoder = json.dumps(json.loads(backend.to_str())['decoder'] if backend else '')
  if 'ByteLevel' in decoder:
    alphabet = _byte_alphabet()

    def read(piece):
      return bytes(alphabet[c] for c in piece)
  elif 'ByteFallback' in decoder or 'Metaspace' in decoder:

    def read(piece):
      if len(piece) == 6 and piece.startswith('<0x'):
        return bytes.fromhex(piece[3:5])
      return piece.replace('\u2581', ' ').encode()
  else:
    raise ValueError(
        'a splitter needs a byte-level or SentencePiece-style fast tokenizer;'
        f' this one decodes by {decoder}'
    )
  added = tokenizer.added_tokens_decoder
  found = [b''] * vocab_size
  for piece, i in tokenizer.get_vocab().items():
    if i < vocab_size:
      found[i] = added[i].content.encode() if i in added else read(piece)
  return found


def check_eos(tokenizer: Any, vocab_size: int) -> None:
  """Raises ValueError if the model has no such token as the tokenizer's EOS."""
  eos = tokenizer.eos_token
  if eos is None:
    return
  i = tokenizer.convert_tokens_to_ids(eos)
  unknown = i is None or i == tokenizer.unk_token_id and eos != tokenizer.unk_token
  if unknown or i >= vocab_size:
    raise ValueError(
        f"the tokenizer's eos_token {eos!r} is none of the model's {vocab_size}"
        ' tokens: no response could end; correct tokenizer_config.json'
    )


def splitter_automaton(
    tokenizer: Any, splitter: str, vocab_size: int
) -> np.ndarray:
  """Finds a string in a text that comes token by token, however it is cut.

  Knuth, Morris and Pratt's automaton over bytes, each token's bytes run through
  it from every state. State s: the longest suffix of the text that the splitter
  begins with has s bytes; the last state is never left.

  Args:
    tokenizer: of transformers, see `token_bytes`.
    splitter: what to find, e.g. '\\\\boxed{'.
    vocab_size: V, of the model.

  Returns:
    table [bytes of the splitter + 1, V], int32: state, token -> state.

  Raises:
    ValueError: no tokenizer, or one that cannot produce the splitter.
  """
  if tokenizer is None:
    raise ValueError(f'the splitter {splitter!r} needs a tokenizer')
  if not splitter:
    raise ValueError('the splitter is empty; None stands for no splitter')
  pattern = splitter.encode()
  end = len(pattern)
  # by_byte[s, b]; column 256 stands for no byte and stays where it is.
  by_byte = np.zeros((end + 1, 257), np.int32)
  by_byte[:, 256] = np.arange(end + 1)
  by_byte[end] = end
  border = 0  # state after pattern[1: s]
  for s, byte in enumerate(pattern):
    if s:
      by_byte[s, :256] = by_byte[border, :256]
      border = by_byte[border, byte]
    by_byte[s, byte] = s + 1

  pieces = token_bytes(tokenizer, vocab_size)
  table = np.repeat(by_byte[:, 256:], vocab_size, 1)
  padded = np.full((vocab_size, max(map(len, pieces))), 256)
  for i, piece in enumerate(pieces):
    padded[i, :len(piece)] = list(piece)
  for column in padded.T:
    table = by_byte[table, column]
  reached, seen = {0}, set()
  while reached - seen:
    seen |= reached
    reached |= set(np.unique(table[sorted(seen)]).tolist())
  if end not in reached:
    raise ValueError(f'no tokens of the tokenizer produce {splitter!r}')
  return table


def found_at(table: np.ndarray | None, tokens: Sequence[int]) -> int | None:
  """Number of tokens after which a splitter is found, or None."""
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
  """Number of tokens up to the end of a marker's last occurrence, or None.

  Args:
    pieces: see `token_bytes`.
    marker: the string to find.
    tokens: ids. Where the marker ends within a token, that token is counted.
  """
  ends = np.cumsum([len(pieces[t]) for t in tokens])
  text = b''.join(pieces[t] for t in tokens)
  at = text.rfind(marker.encode())
  if at < 0:
    return None
  return int(np.searchsorted(ends, at + len(marker.encode()))) + 1
