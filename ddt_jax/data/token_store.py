"""Conversations tokenised once, and kept on disk for the next start.

The tokens of a conversation depend on its text, the tokenizer and the chat template
alone. So a row is found again by the digest of its text, wherever it now stands in
the file; rows that were added or changed are tokenised anew.

A store is a few ArrayRecord files in the user's cache. A record is

  digest of the conversation, 16 bytes
  int32 n, then n runs: tokens of a piece, negative where it is not supervised
  int32 tokens

A record without runs says that the template renders the conversation.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import datetime
import hashlib
import json
import os
import secrets
from typing import Any

from absl import logging
import numpy as np
import tokenizers
import transformers

from ddt_jax import storage
from ddt_jax.data import chat

# Conversations in one call of the tokenizer. Fewer are tokenised in about a second,
# so a data set as small as that is not kept.
BLOCK = 1024
_DIGEST_BYTES = 16
# Digests and tokens hardly compress, and one record is never read alone.
_OPTIONS = 'group_size:1024,uncompressed'

Pieces = Sequence[tuple[str, bool]]  # of `chat.pieces`


class TokenStore:
  """The tokens of a data set's conversations.

  `add` hands a block of texts to a thread. The tokenizer uses all cores there and
  holds no Python lock, so the caller can read and render the next rows.
  """

  def __init__(
      self, tokenizer: Any, end: chat.TurnEnd, data: str, *,
      folder: str | os.PathLike[str] | None = None,
  ):
    """Reads what an earlier start has kept.

    Args:
      tokenizer: of transformers, with a chat template.
      end: see `chat.turn_end`.
      data: name of the data set, which has files of its own.
      folder: of all stores; default: in the user's cache.
    """
    self._folder = storage.path(
        folder or storage.user_cache() / 'tokens') / fingerprint(tokenizer, end)
    self._name = hashlib.sha256(data.encode()).hexdigest()[:16]
    self._kept: dict[bytes, chat.Example | None] = {}
    for file in sorted(self._folder.glob(f'{self._name}-*.array_record')):
      self._kept |= _read(file)
    self._new: dict[bytes, None] = {}  # a set that keeps its order
    self._encode = _encoder(tokenizer)
    # One thread: the tokenizer itself is parallel.
    self._thread = futures.ThreadPoolExecutor(1)
    self._waiting: list[tuple[bytes, Pieces]] = []
    self._running: list[tuple[list[bytes], futures.Future]] = []

  def __contains__(self, conversation: Sequence[dict[str, Any]]) -> bool:
    """Whether the template is known to render the conversation."""
    return _key(conversation) in self._kept

  def add(self, conversation: Sequence[dict[str, Any]], pieces: Pieces) -> None:
    """Adds a conversation that `chat.pieces` cut; it is tokenised in a thread."""
    key = _key(conversation)
    if self._kept.get(key) is None:
      self._kept[key] = self._new[key] = None
      self._waiting.append((key, pieces))
    if len(self._waiting) >= BLOCK:
      self._start()

  def note(self, conversation: Sequence[dict[str, Any]]) -> None:
    """Notes that the template renders a conversation; it is not tokenised."""
    key = _key(conversation)
    if key not in self._kept:
      self._kept[key] = self._new[key] = None

  def examples(
      self, conversations: Sequence[Sequence[dict[str, Any]]],
      pieces: Callable[[int], Pieces],
  ) -> list[chat.Example]:
    """Returns the tokens of conversations.

    Args:
      conversations: their turns.
      pieces: index of a conversation -> its pieces, called for those that were
        never added.
    """
    keys = [_key(turns) for turns in conversations]
    self._collect()
    for i, key in enumerate(keys):
      if self._kept.get(key) is None:
        self.add(conversations[i], pieces(i))
    self._collect()
    return [self._kept[key] for key in keys]

  def save(self) -> None:
    """Keeps what was added, if it is a block at least."""
    self._collect()
    self._thread.shutdown()
    if len(self._new) < BLOCK:
      return
    digest = hashlib.sha256(b''.join(self._new)).hexdigest()[:16]
    _write(self._folder / f'{self._name}-{digest}.array_record',
           [(key, self._kept[key]) for key in self._new])

  def _start(self) -> None:
    """Hands the waiting texts to the thread."""
    keys = [key for key, _ in self._waiting]
    cuts = [pieces for _, pieces in self._waiting]
    self._waiting = []
    self._running.append((keys, self._thread.submit(self._encode, cuts)))
    # Rows are read faster than they are tokenised, and texts take memory.
    while len(self._running) > 2:
      self._take()

  def _take(self) -> None:
    keys, found = self._running.pop(0)
    self._kept.update(zip(keys, found.result(), strict=True))

  def _collect(self) -> None:
    """Waits for all that was added."""
    if self._waiting:
      self._start()
    while self._running:
      self._take()


def fingerprint(tokenizer: Any, end: chat.TurnEnd) -> str:
  """Digest of all but the text that tokens depend on."""
  template = json.dumps(tokenizer.chat_template)
  parts = [
      tokenizers.__version__, transformers.__version__, list(end), template,
      {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
      tokenizer.backend_tokenizer.to_str(),
      # Templates of Llama 3 may write the date.
      str(datetime.date.today()) if 'strftime_now' in template else '',
  ]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _key(conversation) -> bytes:
  text = json.dumps(conversation)
  return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _encoder(tokenizer) -> Callable[[list[Pieces]], list[chat.Example]]:
  """Tokenises a block of pieces as `chat.encode_pieces` does, into one array.

  The tokenizer's backend is called directly: transformers makes Python lists of all
  that it returns beside the ids. The first texts are encoded both ways, for a class
  of tokenizers may do more than its backend.
  """
  backend, checked = tokenizer.backend_tokenizer, []

  def ids_of(texts):
    if not checked:
      slow = chat.token_ids(tokenizer, texts[:64])  # also resets the backend
      fast = backend.encode_batch_fast(texts[:64], add_special_tokens=False)
      checked.append(slow == [e.ids for e in fast])
    if not checked[0]:
      return chat.token_ids(tokenizer, texts)
    return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]

  def encode(conversations):
    ids = ids_of([text for cut in conversations for text, _ in cut])
    sizes = [len(some) for some in ids]
    # One array for all: 300,000 of their own cost memory and time.
    tokens = np.fromiter(
        (i for some in ids for i in some), np.int32, count=sum(sizes))
    flags = [flag for cut in conversations for _, flag in cut]
    supervised = np.repeat(np.array(flags, bool), sizes)
    ends = np.cumsum([0, *sizes])[np.cumsum([0, *map(len, conversations)])]
    return [
        chat.Example(tokens[start:stop], supervised[start:stop])
        for start, stop in zip(ends, ends[1:], strict=False)]

  return encode


def _write(file, rows: Sequence[tuple[bytes, chat.Example | None]]) -> None:
  """Writes an ArrayRecord file, under its name once it is complete."""
  from array_record.python import array_record_module  # here: it loads slowly
  file.parent.mkdir(parents=True, exist_ok=True)
  partial = file.parent / f'.{file.name}.{secrets.token_hex(4)}.tmp'
  try:
    writer = array_record_module.ArrayRecordWriter(os.fspath(partial), _OPTIONS)
    for key, example in rows:
      writer.write(key + _record(example))
    writer.close()
    os.replace(partial, file)
  # A cache that cannot be written costs time at the next start, and no more.
  except (OSError, RuntimeError) as e:
    logging.warning('%s cannot be written, so nothing is kept: %s', file, e)
    partial.unlink(missing_ok=True)


def _record(example: chat.Example | None) -> bytes:
  if example is None:
    return np.int32(0).tobytes()
  flags = example.supervised
  starts = np.flatnonzero(np.diff(flags, prepend=not flags[0]))
  sizes = np.diff(starts, append=len(flags))
  runs = np.where(flags[starts], sizes, -sizes)
  return np.concatenate([[len(runs)], runs, example.tokens]).astype('<i4').tobytes()


def _read(file) -> dict[bytes, chat.Example | None]:
  """The records of a file; none of a damaged one, which is then removed."""
  from array_record.python import array_record_module  # here: it loads slowly
  try:
    reader = array_record_module.ArrayRecordReader(os.fspath(file))
    found = {}
    for record in reader.read_all():
      found[record[:_DIGEST_BYTES]] = _example(record)
    reader.close()
    return found
  except (OSError, RuntimeError, ValueError) as e:
    logging.warning('%s is damaged; its rows are tokenised again: %s', file, e)
    file.unlink(missing_ok=True)
    return {}


def _example(record: bytes) -> chat.Example | None:
  values = np.frombuffer(record, '<i4', offset=_DIGEST_BYTES)
  if not (n := int(values[0])):
    return None
  runs = values[1:n + 1]
  return chat.Example(values[n + 1:], np.repeat(runs > 0, abs(runs)))
