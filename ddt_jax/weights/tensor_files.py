"""The safetensors files of a folder, seen as one table of tensors."""

import collections
from collections.abc import Iterator, Mapping
import json
import math
import re

from etils import epath
import safetensors

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.weights import names

FILE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
# A damaged index may hold anything where a file name belongs.
_SHARD = re.compile(r'[\w./-]{1,200}\.safetensors')
# dtypes in a header, by our names; float64 is read and written as float32.
_DTYPES = {'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16', 'F64': 'float32'}


def header(
    tensors: Mapping[str, tuple[tuple[int, ...], int]], dtype: str
) -> bytes:
  """Returns the head of a safetensors file; the tensors' bytes follow in order.

  It is built here, since the safetensors library wants all tensors in memory.

  Args:
    tensors: name -> (shape, bytes).
    dtype: of all tensors.

  Source: https://github.com/huggingface/safetensors, Format.
  """
  code = next(k for k, v in _DTYPES.items() if v == dtype)
  # transformers refuses a file without this metadata.
  fields, start = {'__metadata__': {'format': 'pt'}}, 0
  for name, (shape, nbytes) in tensors.items():
    fields[name] = {'dtype': code, 'shape': list(shape),
                    'data_offsets': [start, start + nbytes]}
    start += nbytes
  text = json.dumps(fields, separators=(',', ':')).encode()
  # Blanks up to a multiple of 8 bytes: readers map the tensors that follow.
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text


class TensorFiles:
  """The tensors of a folder by name, from one file or from an index of several.

  A single file goes before an index, as in transformers. Names are Hugging
  Face's, see `names.canonical`.

  Attributes:
    read: names of the files that are read.
    unread: names of the other weights and of an index that is passed over.
  """

  def __init__(self, folder: epath.Path):
    """Opens the files and reads their headers.

    Raises:
      errors.InputError: a file is missing or cannot be read; the index and the
        files disagree; or tensors of an adapter are not merged.
    """
    index = {}
    if (folder / FILE).exists():
      self.read = [FILE]
    elif (folder / INDEX).exists():
      index = _read_index(folder / INDEX)
      self.read = sorted(set(index.values()))
    else:
      raise errors.InputError(
          f'{folder}: neither {FILE} nor its index is there (pickled weights are'
          ' not read)'
      )
    missing = [f for f in self.read if not (folder / f).is_file()]
    if missing:
      raise errors.InputError(
          f'{folder}: missing {missing}; download the folder again'
      )
    weights = {f.name for f in folder.glob('*.safetensors')} | {
        f.name for f in folder.glob(INDEX)}
    self.unread = sorted(weights - set(self.read) - ({INDEX} if index else set()))
    # Before opening: safetensors would call a pointer a damaged file.
    storage.refuse_pointers(folder / f for f in self.read)
    self._open = {f: _open(folder / f) for f in self.read}
    self._place = _places(folder, index, {
        f: list(opened.keys()) for f, opened in self._open.items()})

  def __contains__(self, name: str) -> bool:
    return name in self._place

  def __iter__(self) -> Iterator[str]:
    return iter(self._place)

  def __len__(self) -> int:
    return len(self._place)

  def dtype(self) -> str:
    """Returns the dtype of most numbers: float32, bfloat16 or float16."""
    count = collections.Counter()
    for name in self:
      tensor = self.slice(name)
      if kind := _DTYPES.get(tensor.get_dtype()):
        count[kind] += math.prod(tensor.get_shape())
    return max(count, key=count.get, default='float32')

  def place(self, name: str) -> str:
    """Words that say which of several files has the tensor."""
    return f' in {self._place[name][0]}' if len(self.read) > 1 else ''

  def slice(self, name: str):
    """The tensor, of which nothing is read before it is indexed."""
    file, stored = self._place[name]
    return self._open[file].get_slice(stored)


def _places(
    folder: epath.Path, index: dict[str, str], held: dict[str, list[str]]
) -> dict[str, tuple[str, str]]:
  """Name -> (file, name in it), for every tensor in the files."""
  where = {name: file for file, stored in held.items() for name in stored}
  for name, file in index.items():
    if name not in held[file]:
      other = f'; {where[name]} has it' if name in where else ''
      raise errors.InputError(
          f'{folder / INDEX}: {name} is said to be in {file}, but is not{other};'
          ' download the index again'
      )
  places = {}
  # `where` too: a file may hold tensors that the index forgot.
  for name, file in (where | index).items():
    if names.is_lora(name):
      raise errors.InputError(
          f'{folder / file}: {name} belongs to an adapter; merge it into the model'
          ' (peft: model.merge_and_unload()) and save the folder again'
      )
    known = names.canonical(name)
    if known in places:
      raise errors.InputError(
          f'{folder / file}: {name} and {places[known][1]} both stand for {known};'
          ' keep one of them'
      )
    places[known] = file, name
  return places


def _open(file: epath.Path) -> safetensors.safe_open:
  # Maps the file: tensors are read when they are sliced, not here.
  try:
    return safetensors.safe_open(file, 'numpy')
  except (safetensors.SafetensorError, OSError) as e:
    size = f'{file.stat().length:,} bytes'
    raise errors.InputError(
        f'{file}: not a whole safetensors file ({size}: {e}); download it again'
    ) from None


def _read_index(index: epath.Path) -> dict[str, str]:
  """Tensor -> file."""
  storage.refuse_pointers([index])
  try:
    files = json.loads(index.read_text())['weight_map']
    sound = all(map(_SHARD.fullmatch, files.values())) and files
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
    sound = False
  if not sound:
    raise errors.InputError(
        f'{index}: not an index of safetensors; download it again'
    )
  return files
