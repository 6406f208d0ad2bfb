"""The one place that writes files: local folders and gs://, by the same calls.

A run's files must survive a kill, a full disk and a second process that was
started by mistake:

  files   publish, append, read_lines: content is whole or absent
  seals   seal, check_seal: find damage in a finished folder
  locks   lock: one process owns a run's folder at a time
  lfs     refuse_pointers: files that git has not fetched

Every function takes a `str` or a `Path`. For plain reads, use the `epath.Path`
that `path` returns.
"""

from ddt_jax.storage.files import append
from ddt_jax.storage.files import path
from ddt_jax.storage.files import publish
from ddt_jax.storage.files import read_lines
from ddt_jax.storage.files import user_cache
from ddt_jax.storage.lfs import refuse_pointers
from ddt_jax.storage.locks import Locked
from ddt_jax.storage.locks import lock
from ddt_jax.storage.seals import SEAL
from ddt_jax.storage.seals import Damaged
from ddt_jax.storage.seals import check_seal
from ddt_jax.storage.seals import digests
from ddt_jax.storage.seals import seal

__all__ = [
    'Damaged', 'Locked', 'SEAL', 'append', 'check_seal', 'digests', 'lock',
    'path', 'publish', 'read_lines', 'refuse_pointers', 'seal',
    'user_cache',
]
