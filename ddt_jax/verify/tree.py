"""The trees that answers are parsed into, and the exact values of rational ones.

An expression is a Fraction, the name of a symbol ('x', 'x_1', 'alpha'; constants
are 'pi', 'e', 'i', 'oo') or an `Op`. Everything else is one of the records below.
"""
from collections import namedtuple
from collections.abc import Iterator
from fractions import Fraction
import math
from typing import NamedTuple

from ddt_jax.verify.tokens import Abstain

# The text alone decides what is too large, so verdicts do not depend on the machine.
MAX_BITS = 1 << 17  # of any number that evaluating an expression can produce
MAX_NESTED = 4  # functions within functions: sympy's time grows steeply with them
MAX_EXPANDED = 32  # power of a sum


class Op(NamedTuple):
  """head: '+', '*', '/', '^', '±', '∓', '!' or the name of a function."""
  head: str
  args: tuple['Expr', ...]


Expr = Fraction | str | Op
MINUS_INFINITY = Op('*', (Fraction(-1), 'oo'))

# tight: 7m, where m may be a variable. unit: (name, power) of each factor.
Quantity = namedtuple('Quantity', 'value unit tight')
# Items in brackets; in '' if bare. joint: 'and', 'or', ''.
Group = namedtuple('Group', 'opened closed items joint', defaults=[''])
# x = 5, x in a set, and inequalities of one letter, which are such a set.
Named = namedtuple('Named', 'name value')
# An equation or inequality that gives no value to a name.
Relation = namedtuple('Relation', 'op left right')
# 2 + 3 = 5: values that are equal if the answer is sound; the last counts.
Computed = namedtuple('Computed', 'values')
# clock: written like a time, 12:30.
Ratio = namedtuple('Ratio', 'items clock')
# op: r'\cup', r'\cap', r'\setminus'.
SetOp = namedtuple('SetOp', 'op left right')
REALS = SetOp('ℝ', '', '')
# Text that is no mathematics.
Words = namedtuple('Words', 'text')
# A multiple-choice letter with its value.
Choice = namedtuple('Choice', 'letter value')
# A number in another base; the digits as written.
Based = namedtuple('Based', 'digits base')
# Rows of equal length.
Matrix = namedtuple('Matrix', 'rows')


def is_expr(node) -> bool:
  return type(node) in (Fraction, str, Op)  # isinstance of Fraction is slow


def walk(node: Expr) -> Iterator[Expr]:
  """Yields an expression and all of its parts."""
  yield node
  if isinstance(node, Op):
    for x in node.args:
      yield from walk(x)


def symbols(node: Expr) -> set[str]:
  """The free symbols; of f(x) also the f."""
  return {x for x in walk(node) if isinstance(x, str)} - {'pi', 'e', 'i', 'oo'}


def contains(node, *heads: str) -> int:
  """The number of these operators in an expression."""
  return sum(isinstance(x, Op) and x.head in heads for x in walk(node))


def substitute(node: Expr, name: str, value: Expr) -> Expr:
  if isinstance(node, Op):
    return Op(node.head, tuple(substitute(x, name, value) for x in node.args))
  return value if node == name else node


def check_size(node) -> None:
  """Abstains from an answer that would take long, or much memory, to evaluate."""
  if isinstance(node, Op):
    _bound(node)
    if _nested(node) > MAX_NESTED:
      raise Abstain(f'more than {MAX_NESTED} functions within functions')
  elif isinstance(node, tuple):
    for part in node:
      check_size(part)


def _nested(node: Expr) -> int:
  return isinstance(node, Op) and (
      (node.head not in '+*/^!±∓') + max(map(_nested, node.args)))


def _bound(node: Expr) -> int:
  """Bound on the bits of the numbers that evaluating an expression can produce."""
  if isinstance(node, Fraction):
    return max(abs(node.numerator), node.denominator).bit_length()
  if isinstance(node, str):
    return 1
  bits = [_bound(x) for x in node.args]
  needed = 1 + sum(bits)
  last = rational(node.args[-1])  # of small parts: they were bounded before
  if node.head == '^':
    if last is None:
      needed = bits[0] << min(bits[1], 64)  # |exponent| < 2^bits
    elif abs(last) > MAX_EXPANDED and contains(node.args[0], '+'):
      raise Abstain(f'a sum to a power beyond {MAX_EXPANDED}')
    # 1^(10^100) is 1.
    elif rational(node.args[0]) not in (-1, 1):
      needed = bits[0] * max(1, int(abs(last)))
  elif node.head in ('!', 'binom'):
    needed = bits[0] * int(abs(last)) if last else bits[0] << min(bits[-1], 64)
  if needed > MAX_BITS:
    raise Abstain(f'a number of more than {MAX_BITS} bits')
  return needed


def rational(node: Expr) -> Fraction | None:
  """The exact value of an expression of + * / ^; None if it is not known to be rational.

  Sympy decides the rest. Most answers are plain numbers, and this takes microseconds.

  Raises:
    Abstain: it is undefined.
  """
  if type(node) is not Op:
    return node if type(node) is Fraction else None
  args = [rational(x) for x in node.args]
  if None in args:
    return None
  try:
    match node.head, *args:
      case '+', *_:
        return sum(args)
      case '*', *_:
        return math.prod(args)
      case '/', a, b:
        return a / b
      case '^', Fraction(numerator=0), n if n <= 0:
        raise ZeroDivisionError
      case '^', a, Fraction(numerator=n, denominator=1):
        # Only -1 and 1 can have an exponent that is too large to compute.
        return a**(n if abs(a) != 1 else n % 2)
  except ZeroDivisionError:
    raise Abstain('undefined value') from None
  return None
