"""Exact values of expressions that are rational numbers."""

from collections.abc import Callable
from fractions import Fraction
import math

from ddt_jax.verify import tree
from ddt_jax.verify.tokens import Abstain

MAX_BITS = 1 << 17  # of any number that evaluating an expression can produce
# sympy's time grows steeply with nested functions.
MAX_NESTED = 4  # roots, sines and other functions within functions
MAX_EXPANDED = 32  # power of a sum


def check_size(node) -> None:
  """Abstains from an answer that holds a number of more than `MAX_BITS` bits."""
  if isinstance(node, tree.Op):
    _bound(node)
    if _nested(node) > MAX_NESTED:
      raise Abstain(f'more than {MAX_NESTED} functions within functions')
  elif isinstance(node, tuple):
    for part in node:
      check_size(part)


def _nested(node: tree.Expr) -> int:
  if not isinstance(node, tree.Op):
    return 0
  return (node.head not in _EXACT or node.head == 'sqrt') + max(map(_nested, node.args))


def _bound(node: tree.Expr) -> int:
  """Bound on the length of the numbers that evaluating an expression can produce."""
  if isinstance(node, Fraction):
    return _bits(node)
  if isinstance(node, str):
    return 1
  args = [_bound(x) for x in node.args]
  needed = 1 + sum(args)
  if node.head == '^':
    # `check_size` runs before sympy, which evaluates powers of numbers at once.
    exponent = rational(node.args[1])
    if exponent is None:
      needed = args[0] << min(args[1], 64)  # |exponent| < 2^bits
    else:
      needed = args[0] * max(1, int(abs(exponent)))
      if tree.contains(node.args[0], '+') and abs(exponent) > MAX_EXPANDED:
        raise Abstain(f'a sum to a power beyond {MAX_EXPANDED}')
  elif node.head in ('!', 'binom') and rational(node) is None:
    needed = args[0] << min(args[-1], 64)  # n! < n^n
  _limited(needed)
  return needed


def rational(node: tree.Expr) -> Fraction | None:
  """The exact value of an expression, None if it is not known to be rational.

  Raises:
    Abstain: it is undefined, or has more than `MAX_BITS` bits.
  """
  if type(node) is Fraction:
    return node
  if type(node) is not tree.Op:
    return None
  args = [rational(x) for x in node.args]
  if None in args:
    return None
  return _EXACT[node.head](*args) if node.head in _EXACT else None


def _bits(value: Fraction) -> int:
  return max(abs(value.numerator), value.denominator).bit_length()


def _limited(needed: int) -> None:
  if needed > MAX_BITS:
    raise Abstain(f'a number of more than {MAX_BITS} bits')


def _quotient(a: Fraction, b: Fraction) -> Fraction:
  if not b:
    raise Abstain('undefined value')
  return a / b


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
  if exponent.denominator > 1:
    return None
  if not base and exponent <= 0:
    raise Abstain('undefined value')
  # 1^(10^100) is 1; no other base can be raised that far.
  if abs(base) != 1:
    _limited(_bits(base) * abs(exponent.numerator))
  return base ** (exponent.numerator if abs(base) != 1 else exponent.numerator % 2)


def _factorial(n: Fraction) -> Fraction | None:
  if n.denominator > 1 or n < 0:
    return None
  _limited(n.numerator * _bits(n))
  return Fraction(math.factorial(n.numerator))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
  if n.denominator > 1 or k.denominator > 1 or not 0 <= k <= n:
    return None
  _limited(_bits(n) * min(k.numerator, (n - k).numerator))
  return Fraction(math.comb(n.numerator, k.numerator))


def _square_root(x: Fraction) -> Fraction | None:
  if x < 0:
    return None
  # Exact only for squares of fractions. sqrt(2) is left to sympy.
  root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
  return root if root * root == x else None


def _total(*args: Fraction) -> Fraction:
  _limited(sum(map(_bits, args)))
  return sum(args, Fraction(0))


def _product(*args: Fraction) -> Fraction:
  _limited(sum(map(_bits, args)))
  return math.prod(args, start=Fraction(1))


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    '+': _total, '*': _product, '/': _quotient, '^': _power, '!': _factorial,
    'binom': _binomial, 'sqrt': _square_root, 'abs': abs,
    'floor': lambda x: Fraction(math.floor(x)),
    'ceil': lambda x: Fraction(math.ceil(x)),
}
