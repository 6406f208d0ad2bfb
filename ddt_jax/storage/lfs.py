"""Git LFS pointers: the text files that stand for large ones in a git clone."""

from collections.abc import Iterable
import os
import re

from ddt_jax import errors
from ddt_jax.storage import files

_START = b'version https://git-lfs'
_LONGEST = 1024  # bytes of a pointer, by the format's specification


def refuse_pointers(candidates: Iterable[str | os.PathLike[str]]) -> None:
  """Raises if one of the files is the pointer that git left in its place.

  A clone without `git lfs pull` has pointers instead of weights. They are read
  as damaged files otherwise.

  Args:
    candidates: local or gs:// files; a missing file is no pointer.

  Raises:
    errors.InputError: naming all pointers, and the size of their content.
  """
  found = [(file, size) for file in map(files.path, candidates)
           if (size := _pointed_size(file)) is not None]
  if found:
    named = ', '.join(f'{file.name} ({size} bytes)' for file, size in found)
    folder = found[0][0].parent
    raise errors.InputError(
        f'{folder}: Git LFS pointers instead of files: {named}; fetch the files by'
        f' `git lfs pull` in {folder}'
    )


def _pointed_size(file) -> str | None:
  """Bytes of the file that a pointer stands for; None if it is no pointer."""
  if not file.is_file() or file.stat().length > _LONGEST:
    return None
  text = file.read_bytes()
  if not text.startswith(_START):
    return None
  size = re.search(rb'^size (\d+)', text, re.MULTILINE)
  return f'{int(size[1]):,}' if size else 'unknown'
