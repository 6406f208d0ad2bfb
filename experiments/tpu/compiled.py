"""What the compiler said of the presets, kept: one compilation takes minutes."""

import json
import pathlib
from typing import Any

FILE = pathlib.Path(__file__).parent / 'compiled.json'


def read() -> dict[str, dict[str, Any]]:
  """Returns 'PRESET TOPOLOGY' -> gib, seconds and what binds, of a training step."""
  return json.loads(FILE.read_text())


def keep(preset: str, topology: str, found: dict[str, Any]) -> None:
  """Writes the figures of a training step into the file.

  Args:
    preset, topology: their names.
    found: see `compile_tpu.figures`.
  """
  by = max(found['roofline'], key=found['roofline'].get)
  kept = read() | {f'{preset} {topology}': {
      'gib': round(found['hbm_total'] / 2**30, 2),
      'seconds': round(found['seconds'], 3), 'by': by}}
  FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + '\n')
