"""The trees that answers are parsed into.

An expression is a Fraction, the name of a symbol ('x', 'x_1', 'alpha'; constants
are 'pi', 'e', 'i', 'oo') or an `Op`. Everything else is one of the records below.
"""
from fractions import Fraction
from typing import NamedTuple

from ddt_jax.verify import units


class Op(NamedTuple):
  """head: '+', '*', '/', '^', '±', '∓', '!' or the name of a function."""
  head: str
  args: tuple['Expr', ...]


Expr = Fraction | str | Op


class Quantity(NamedTuple):
  """tight: a bare letter directly after a number, 7m, which may be a variable."""
  value: Expr
  unit: units.Unit
  tight: bool = False


class Group(NamedTuple):
  """Items in brackets; in '' if bare. joint: 'and', 'or', ''."""
  opened: str
  closed: str
  items: tuple
  joint: str = ''


class Named(NamedTuple):
  """x = 5, x in a set, and inequalities of one letter, which are such a set."""
  name: str
  value: tuple | Expr


class Relation(NamedTuple):
  op: str
  left: Expr
  right: Expr


class Computed(NamedTuple):
  """2 + 3 = 5: values that are equal if the answer is sound; the last counts."""
  values: tuple


class Ratio(NamedTuple):
  """clock: written like a time, 12:30."""
  items: tuple
  clock: bool = False


class SetOp(NamedTuple):
  r"""op: r'\cup', r'\cap', r'\setminus'."""
  op: str
  left: tuple | Expr
  right: tuple | Expr


class Words(NamedTuple):
  text: str


class Choice(NamedTuple):
  letter: str
  value: tuple | Expr


class Based(NamedTuple):
  """A number in another base; the digits as written."""
  digits: str
  base: int


class Matrix(NamedTuple):
  rows: tuple


def is_expr(node) -> bool:
  return type(node) in (Fraction, str, Op)  # isinstance of Fraction is slow


def symbols(node) -> set[str]:
  """The free symbols."""
  if isinstance(node, str):
    return set() if node in ('pi', 'e', 'i', 'oo') else {node}
  if isinstance(node, Op):
    # Of f(x) the name f is a symbol, too.
    own = {node.args[0]} if node.head == 'call' else set()
    return own.union(*map(symbols, node.args))
  return set()


def substitute(node: Expr, name: str, value: Expr) -> Expr:
  if isinstance(node, Op):
    return Op(node.head, tuple(substitute(x, name, value) for x in node.args))
  return value if node == name else node


def size(node: Expr) -> int:
  return sum(map(size, node.args)) if isinstance(node, Op) else 1


def contains(node, *heads: str) -> bool:
  """Whether an operator of these occurs in an expression."""
  return isinstance(node, Op) and (
      node.head in heads or any(contains(x, *heads) for x in node.args))
