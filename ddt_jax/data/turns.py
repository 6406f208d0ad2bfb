"""Conversations that a chat template can only render one answer at a time.

Templates of thinking models drop the thoughts of earlier answers once a later turn
follows. No mask over the whole conversation then shows the model what it sees when
it samples. Such a conversation becomes one problem for each trained answer, with
the turns up to that answer. Only the last turn of each is trained.

  id          the last answer's problem, as before: the reference of a round
  id.turn1    earlier answers, by the index of the turn: references and no more.
              Their answers are not verified, so no round samples them.
"""

from collections.abc import Collection, Sequence
import dataclasses
from typing import Any

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import corpus
from ddt_jax.data import records
from ddt_jax.data import token_store


class TemplateCheck:
  """Tries the chat template on each problem while a file is read.

  Pass it as `accept` of `readers.read_file`. Afterwards it knows which problems
  have to be split.

  Attributes:
    unstable: ids of the problems that have to be split.
  """

  def __init__(
      self, tokenizer: Any, end: chat.TurnEnd, *, split_turns: bool,
      store: token_store.TokenStore | None = None, tokenise: bool = True,
  ):
    """Opens a check.

    Args:
      tokenizer, end: see `chat.pieces`.
      split_turns: split such conversations instead of refusing them.
      store: gets what was rendered; problems that it knows are not rendered again.
      tokenise: the store tokenises it at once. False where the problems are asked
        in other words later.
    """
    self._tokenizer, self._end, self._split_turns = tokenizer, end, split_turns
    self._store, self._tokenise = store, tokenise
    self.unstable: set[str] = set()

  def __call__(self, problem: records.Problem) -> None:
    """Checks that a mask fits.

    Raises:
      errors.InputError: no mask fits; see `chat.pieces`.
    """
    if self._store and problem.conversation in self._store:
      return
    parts = rendered(
        self._tokenizer, problem, self._end, split_turns=self._split_turns)
    # Each start renders such a problem again: its parts are kept, not itself.
    if len(parts) > 1:
      self.unstable.add(problem.id)
    elif self._store and not self._tokenise:
      self._store.note(problem.conversation)
    if self._store and self._tokenise:
      for part, pieces in parts:
        self._store.add(part.conversation, pieces)


def rendered(
    tokenizer: Any, problem: records.Problem, end: chat.TurnEnd, *,
    split_turns: bool
) -> list[tuple[records.Problem, list[tuple[str, bool]]]]:
  """The examples of a problem: one, or one for each trained answer.

  Args:
    tokenizer, end: see `chat.pieces`.
    problem: with its conversation.
    split_turns: split a conversation that is not prefix-stable.

  Returns:
    (the problem or its part, its rendered pieces) in the order of the turns.

  Raises:
    errors.InputError: no mask fits; see `chat.pieces`.
  """
  def pieces(some):
    return some, chat.pieces(tokenizer, some.conversation, end)

  try:
    return [pieces(problem)]
  except chat.NotPrefixStable as e:
    last, *earlier = cut(problem)
    # One trained answer: there is nothing to split, the template itself is at
    # fault.
    if not earlier:
      raise
    if not split_turns:
      raise errors.InputError(
          f'{e}; --config.data.split_turns=True takes each turn by itself'
      ) from e
    # Splitting helps only if the template renders each part.
    return [pieces(part) for part in (*earlier, last)]


def cut(problem: records.Problem) -> list[records.Problem]:
  """One problem for each trained answer of a conversation, the last one first.

  The last one keeps its id and its answer.
  """
  conversation = problem.conversation
  trained = [i for i, turn in enumerate(conversation)
             if turn['role'] == 'assistant' and turn.get('train', True)]
  parts = []
  for i in trained:
    context = [
        turn | {'train': False} if turn['role'] == 'assistant' else turn
        for turn in conversation[:i]]
    asked = [turn['content'] for turn in context if turn['role'] == 'user']
    parts.append(dataclasses.replace(
        problem, id=f'{problem.id}.turn{i}', problem=asked[-1] if asked else '',
        solution=conversation[i]['content'], answer='',
        messages=(*context, conversation[i])))
  last = dataclasses.replace(problem, messages=parts[-1].messages)
  return [last, *parts[:-1]]


def split_corpus(
    found: corpus.Corpus, unstable: Collection[str]
) -> corpus.Corpus:
  """Splits the training and validation problems; says so in the description."""
  if not unstable:
    return found
  # Evaluation asks a problem's prompt alone and trains on nothing: no mask is
  # needed.
  parts = {name: split(getattr(found, name), unstable)
           for name in ('train', 'validation')}
  added = sum(len(some) - len(getattr(found, name)) for name, some in parts.items())
  number = sum(p.id in unstable for p in (*found.train, *found.validation))
  return dataclasses.replace(found, **parts, description=(
      f'{found.description}\nthe chat template is not prefix-stable: {number}'
      f' conversations are split by turns, which adds {added} examples'
      ' (--config.data.split_turns=)'))


def split(
    problems: Sequence[records.Problem], unstable: Collection[str]
) -> list[records.Problem]:
  """Splits problems, see the module.

  Args:
    problems: their ids are unique.
    unstable: ids of those to split.

  Returns:
    The problems in their order, earlier answers before the last one.
  """
  taken, found = {p.id for p in problems}, []
  for problem in problems:
    if problem.id not in unstable:
      found.append(problem)
      continue
    last, *earlier = cut(problem)
    for part in earlier:
      while part.id in taken:  # a user's own id may look like ours
        part = dataclasses.replace(part, id=f'{part.id}_')
      taken.add(part.id)
      found.append(part)
    found.append(last)
  return found
