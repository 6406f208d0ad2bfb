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
  if not found:
    return
  (file, size), *others = found
  also = ''.join(f', {x.name} ({n})' for x, n in others[:5])
  raise errors.InputError(
      f'{file} ({size}){also}: a Git LFS pointer, not the content; run'
      f' `git lfs pull` in {file.parent}'
  )


def _pointed_size(file) -> str | None:
  """Size of the content that a pointer stands for; None if it is no pointer."""
  # By size first, so that gigabytes of weights are never read.
  if not file.is_file() or file.stat().length > _LONGEST:
    return None
  text = file.read_bytes()
  if not text.startswith(_START):
    return None
  size = re.search(rb'^size (\d{1,20})', text, re.MULTILINE)
  return f'{int(size[1]):,} bytes' if size else 'of unknown size'
