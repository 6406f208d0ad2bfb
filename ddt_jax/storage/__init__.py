"""The one place that touches files: local folders and gs://, the same calls."""

from ddt_jax.storage.files import SEAL
from ddt_jax.storage.files import Damaged
from ddt_jax.storage.files import Locked
from ddt_jax.storage.files import append
from ddt_jax.storage.files import check_seal
from ddt_jax.storage.files import digests
from ddt_jax.storage.files import lock
from ddt_jax.storage.files import path
from ddt_jax.storage.files import publish
from ddt_jax.storage.files import read_lines
from ddt_jax.storage.files import seal

__all__ = [
    'Damaged', 'Locked', 'SEAL', 'append', 'check_seal', 'digests', 'lock',
    'path', 'publish', 'read_lines', 'seal',
]
