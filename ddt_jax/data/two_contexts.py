"""The same responses behind two prompts: rows whose response tokens are aligned.

A student has read the problem; a teacher has read something else as well. Both are
followed by the same tokens, so token r of a response has one prediction of each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import model


class Row(NamedTuple):
  """One response and what precedes it, as token ids.

  Attributes:
    prompt: of the student.
    teacher_prompt: of the teacher.
    response: at least one token.
  """

  prompt: Sequence[int]
  teacher_prompt: Sequence[int]
  response: Sequence[int]


class Shape(NamedTuple):
  """Size of a batch: one shape for all batches compiles the step once.

  Attributes:
    rows: B.
    time, teacher_time: inputs of the student's and of the teacher's rows.
    response: R, tokens of a response at most.
  """

  rows: int
  time: int
  teacher_time: int
  response: int


@struct.dataclass
class TwoContexts:
  """A batch of B rows; padding has position -1 (`model.PADDING`) and mask 0.

  Attributes:
    tokens, positions: int32 [B, T], inputs of the student.
    teacher_tokens, teacher_positions: int32 [B, U], inputs of the teacher.
    start, teacher_start: int32 [B], the input that predicts the first response
      token: the last token of the prompt.
    targets: int32 [B, R], the response.
    mask: float32 [B, R], 1 at response tokens.
  """

  tokens: Any
  positions: Any
  teacher_tokens: Any
  teacher_positions: Any
  start: Any
  teacher_start: Any
  targets: Any
  mask: Any


def shape_of(
    prompts: Sequence[tuple[int, int, int]], rows: int, multiple: int = 16
) -> Shape:
  """The shape that holds every response, its times rounded up to `multiple`.

  Args:
    prompts: (tokens of the prompt, of the teacher's prompt, most of the response).
    rows: of a batch.

  Example:
    >>> shape_of([(10, 30, 5), (20, 25, 8)], rows=4)
    Shape(rows=4, time=32, teacher_time=48, response=8)
  """
  def time(longest):
    return -(-(longest - 1) // multiple) * multiple

  return Shape(
      rows, time(max(p + n for p, _, n in prompts)),
      time(max(p + n for _, p, n in prompts)), max(n for *_, n in prompts))


def collate(rows: Sequence[Row], shape: Shape) -> TwoContexts:
  """Pads rows on the right and stacks them; missing rows are padding."""
  count, *_, most = shape
  tokens, positions = _empty(count, shape.time)
  teacher_tokens, teacher_positions = _empty(count, shape.teacher_time)
  start, teacher_start = np.zeros((2, count), np.int32)
  targets = np.zeros((count, most), np.int32)
  mask = np.zeros((count, most), np.float32)
  for i, row in enumerate(rows):
    start[i] = _fill(tokens[i], positions[i], row.prompt, row.response)
    teacher_start[i] = _fill(
        teacher_tokens[i], teacher_positions[i], row.teacher_prompt, row.response)
    targets[i, :len(row.response)] = row.response
    mask[i, :len(row.response)] = 1
  return TwoContexts(
      tokens, positions, teacher_tokens, teacher_positions, start, teacher_start,
      targets, mask)


def abstract(shape: Shape, sharding: jax.sharding.Sharding) -> TwoContexts:
  """A batch of this shape without values, to compile for."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      collate([], shape))


def _empty(rows: int, time: int) -> tuple[np.ndarray, np.ndarray]:
  return (np.zeros((rows, time), np.int32),
          np.full((rows, time), model.PADDING, np.int32))


def _fill(tokens, positions, prompt, response) -> int:
  """Writes the inputs of a row; returns the index of the prompt's last token."""
  # The last response token predicts nothing: it is no input.
  inputs = [*prompt, *response[:-1]]
  tokens[:len(inputs)] = inputs
  positions[:len(inputs)] = np.arange(len(inputs))
  return len(prompt) - 1


def at_responses(x: jax.Array, start: jax.Array, most: int) -> jax.Array:
  """The entries of x [B, T, D] that predict the responses: [B, `most`, D].

  Behind the end of a row its last entry is repeated; the mask is 0 there.

  Args:
    x: hidden states.
    start: [B], see `TwoContexts`.
    most: R.
  """
  at = jnp.minimum(start[:, None] + jnp.arange(most), x.shape[1] - 1)
  return jnp.take_along_axis(x, at[..., None], 1)
