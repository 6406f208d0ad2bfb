"""Parses the text of an optimised HLO module into computations and instructions."""

import dataclasses
import functools
import math
import re

_BITS = re.compile(r'[a-z]+?(\d+)')
_SHAPE = re.compile(r'(\w+)\[([^\]]*)\](?:\{([^{}]*)\})?')
_OPCODE = re.compile(r'\s*([\w-]+)\(')
_HEAD = re.compile(r'(ENTRY\s+)?%?([\w.\-]+)\s.*\{$')
_CALLED = re.compile(r'(body|condition|calls|to_apply)=%?([\w.\-]+)')
_BRANCHES = re.compile(
    r'(?:branch_computations=\{([^}]*)\}'
    r'|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+))')


@dataclasses.dataclass(frozen=True)
class Shape:
  """Shape of one array.

  Attributes:
    dtype: in HLO's spelling, e.g. bf16.
    dims: size of each dimension.
    space: memory space; 0 is the main memory, others are on the chip.
  """

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def itemsize(self) -> float:
    if self.dtype == 'pred':
      return 1
    bits = _BITS.match(self.dtype)
    return int(bits[1]) / 8 if bits else 0  # a token has no size

  @property
  def bytes(self) -> int:
    return math.ceil(math.prod(self.dims) * self.itemsize)


@dataclasses.dataclass
class Instruction:
  """`name = shape opcode(operands), attributes`.

  Attributes:
    name, opcode: as in the text, without %.
    shape: a Shape, or a tuple of shapes and tuples.
    operands: names of instructions; a constant's value, a parameter's number.
    attributes: the rest of the line.
  """

  name: str
  shape: Shape | tuple
  opcode: str
  operands: list[str]
  attributes: str

  @functools.cached_property
  def called(self) -> dict[str, str]:
    """Names of called computations by role: body, condition, calls, to_apply."""
    return dict(_CALLED.findall(self.attributes))

  @property
  def branches(self) -> list[str]:
    listed, true, false = _BRANCHES.search(self.attributes).groups()
    names = listed.split(',') if listed else [true, false]
    return [n.strip().lstrip('%') for n in names]

  def attribute(self, name: str) -> str | None:
    found = re.search(
        rf'(?:^|[, ]){name}=("[^"]*"|\{{[^{{}}]*\}}|[^,\s]+)', self.attributes)
    return found and found[1].strip('"')

  def numbers(self, name: str) -> list[int]:
    return [int(n) for n in re.findall(r'\d+', self.attribute(name) or '')]


@dataclasses.dataclass
class Computation:
  """Instructions by name, in the order of the text."""

  instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
  root: Instruction | None = None

  @functools.cached_property
  def parameters(self) -> list[Instruction]:
    found = [x for x in self.instructions.values() if x.opcode == 'parameter']
    return sorted(found, key=lambda x: int(x.operands[0]))

  @functools.cached_property
  def _users(self) -> dict[str, list[Instruction]]:
    found = {}
    for x in self.instructions.values():
      for operand in dict.fromkeys(x.operands):
        found.setdefault(operand, []).append(x)
    return found

  def users(self, name: str) -> list[Instruction]:
    return self._users.get(name, [])


@dataclasses.dataclass
class Module:
  """Computations by name, and the name of the entry computation."""

  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Parses `compiled.as_text()`.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    line = re.sub(r'/\*.*?\*/', '', line)
    if not line.startswith(' '):
      head = _HEAD.match(line)
      if head and not line.startswith('HloModule'):
        current = computations[head[2]] = Computation()
        entry = head[2] if head[1] else entry
    elif current is not None and ' = ' in line:
      x = _instruction(line)
      current.instructions[x.name] = x
      if line.lstrip().startswith('ROOT '):
        current.root = x
  if entry is None:
    raise ValueError('no ENTRY computation: this is no HLO module')
  return Module(computations, entry)


def _instruction(line: str) -> Instruction:
  name, rest = line.strip().removeprefix('ROOT ').split(' = ', 1)
  shape, rest = _shape(rest)
  opcode = _OPCODE.match(rest)
  end = _closing(rest, opcode.end() - 1)
  inside = rest[opcode.end():end]
  operands = [part.split()[-1].lstrip('%') for part in _parts(inside)]
  return Instruction(
      name.strip().lstrip('%'), shape, opcode[1], operands, rest[end + 1:])


def _shape(text: str) -> tuple[Shape | tuple, str]:
  """Splits text into the shape that it begins with, and the rest."""
  text = text.lstrip()
  if text.startswith('('):
    end = _closing(text, 0)
    return tuple(_shape(p)[0] for p in _parts(text[1:end])), text[end + 1:]
  found = _SHAPE.match(text)
  dims = tuple(int(re.sub(r'\D', '', n)) for n in found[2].split(',') if n)
  space = re.search(r'S\((\d+)\)', found[3] or '')
  return Shape(found[1], dims, int(space[1]) if space else 0), text[found.end():]


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i
  raise ValueError(f'no closing parenthesis: {text[:200]}')


def _parts(text: str) -> list[str]:
  """Splits text at the commas outside of brackets."""
  parts, depth, start = [], 0, 0
  for i, c in enumerate(text):
    if c in '([{':
      depth += 1
    elif c in ')]}':
      depth -= 1
    elif c == ',' and not depth:
      parts.append(text[start:i])
      start = i + 1
  return [p for p in (*parts, text[start:]) if p.strip()]
