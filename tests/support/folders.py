"""Copies of a golden model whose files a test changes."""

import json
import pathlib
import shutil

import safetensors.numpy

from tests.support import paths

WHOLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'


class Folder:
  """A copy of a golden model in `path`."""

  def __init__(self, path: pathlib.Path, name: str = 'qwen2-tiny'):
    self.path = path
    shutil.copytree(paths.GOLDEN / 'models' / name, path)

  def tensors(self, file: str = WHOLE):
    return safetensors.numpy.load_file(self.path / file)

  def write(self, tensors, file: str = WHOLE) -> None:
    safetensors.numpy.save_file(tensors, self.path / file, {'format': 'pt'})

  def rename(self, new_name) -> None:
    """Gives every tensor the name `new_name(name)`."""
    self.write({new_name(k): v for k, v in self.tensors().items()})

  def config(self, **changes) -> None:
    file = self.path / 'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

  def split(self, keep_whole: bool = False) -> dict[str, str]:
    """Replaces the file by two shards and an index; returns tensor -> shard."""
    tensors = self.tensors()
    where = {name: f'model-0000{1 + i % 2}-of-00002.safetensors'
             for i, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
      self.write({k: v for k, v in tensors.items() if where[k] == file}, file)
    self.index(where)
    if not keep_whole:
      (self.path / WHOLE).unlink()
    return where

  def index(self, where: dict[str, str]) -> None:
    text = json.dumps({'metadata': {}, 'weight_map': where})
    (self.path / INDEX).write_text(text)
