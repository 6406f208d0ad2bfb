"""Equality of expressions by sympy. Only worker processes import this module.

True needs two things. Both sides agree at rational points, to more digits than their
numbers have: 2^-998 and 2^-999 differ. And sympy, or math-verify after it, proves
that they are equal. Agreement without a proof ends in `Abstain`.
"""
from collections.abc import Callable
from fractions import Fraction
import itertools
import logging

import math_verify
import sympy

from ddt_jax.verify import tree
from ddt_jax.verify.tokens import Abstain

logging.getLogger('math_verify').setLevel(logging.ERROR)  # "no timeout"

_SYMBOLS = {'pi': sympy.pi, 'e': sympy.E, 'i': sympy.I, 'oo': sympy.oo}
_HEADS: dict[str, Callable] = {
    '+': sympy.Add, '*': sympy.Mul, '/': lambda a, b: a / b, '^': sympy.Pow,
    '!': sympy.factorial, 'binom': sympy.binomial, 'sqrt': sympy.sqrt,
    'root': sympy.root, 'abs': sympy.Abs, 'floor': sympy.floor,
    'ceil': sympy.ceiling, 'ln': sympy.log, 'log': sympy.log, 'log_': sympy.log,
    'exp': sympy.exp,
    **{f'{arc}{name}': getattr(sympy, f'{arc and "a"}{name}')
       for arc in ('', 'arc') for name in ('sin', 'cos', 'tan')},
    **{name: getattr(sympy, name) for name in
       ('cot', 'sec', 'csc', 'sinh', 'cosh', 'tanh')},
}


def same(a: tree.Expr, b: tree.Expr) -> bool:
  """Equality of two expressions, for every value of their letters."""
  if not (tree.contains(a, 'log') or tree.contains(b, 'log')):
    return _equal(_expr(a), _expr(b))
  # The base of a plain log is e or 10, or any other: if it matters, who knows?
  verdicts = {_equal(_expr(a, base), _expr(b, base))
              for base in (sympy.E, sympy.Integer(10), sympy.Symbol('base'))}
  # ln 2 / ln 3 is the same in any base, ln 2 is not.
  if len(verdicts) == 2:
    raise Abstain('a logarithm of unknown base')
  return verdicts.pop()


def same_relation(a: tree.Relation, b: tree.Relation) -> bool:
  """Whether one equation or inequality is a multiple of the other."""
  (op, x), (other_op, y) = map(_one_side, (a, b))
  if op != other_op:
    raise Abstain('relations of different kinds')
  # x - 2 = 0 and 2x - 4 = 0: their quotient is a number. For an inequality it must
  # be positive, since a negative one turns the sign.
  ratio = sympy.cancel(x / y)
  if ratio.is_number and ratio.is_finite and (
      op in ('=', '!=') and ratio.is_nonzero or ratio.is_positive):
    return True
  # A point of one curve that is not on the other refutes. None found proves
  # nothing.
  if op == '=' and (_leaves(x, y) or _leaves(y, x)):
    return False
  raise Abstain('relations not shown to be equivalent')


def same_set(a, b) -> bool:
  """Equality of sets of real numbers: lists, intervals, unions, differences."""
  known: list[sympy.Expr] = []  # one form for equal ends of intervals

  def end(node: tree.Expr) -> sympy.Expr:
    # sympy orders and unites sets of real numbers only.
    value = _expr(node)
    if value.free_symbols or value.is_extended_real is not True:
      raise Abstain('a set of what are no real numbers')
    for x in known:
      if _equal(x, value):
        return x
    known.append(value)
    return value

  x, y = _set(a, end), _set(b, end)
  # `is_empty` is None where sympy does not know, so only True counts.
  return x == y or sympy.SymmetricDifference(x, y).is_empty is True


def _set(node, end: Callable[[tree.Expr], sympy.Expr]) -> sympy.Set:
  if node == tree.REALS:
    return sympy.S.Reals
  if isinstance(node, tree.SetOp):
    make = {r'\cup': sympy.Union, r'\cap': sympy.Intersection,
            r'\setminus': sympy.Complement}[node.op]
    return make(_set(node.left, end), _set(node.right, end))
  if not isinstance(node, tree.Group) or not all(map(tree.is_expr, node.items)):
    raise Abstain('a set and what is none')
  if node.opened in ('', r'\{'):
    return sympy.FiniteSet(*map(end, node.items))
  if len(node.items) != 2:
    raise Abstain('a set and what is none')
  low, high = map(end, node.items)
  if not low < high:
    raise Abstain('an interval whose ends are not in order')
  return sympy.Interval(low, high, node.opened == '(', node.closed == ')')


def _expr(node: tree.Expr, base: sympy.Expr | None = None) -> sympy.Expr:
  """An expression of sympy; `base` is that of logarithms that have none."""
  expr = _build(node, base)
  if expr.has(sympy.zoo, sympy.nan):
    raise Abstain('undefined value')
  if any(p.base.is_negative and p.exp.is_Rational and p.exp.q % 2 and p.exp.q > 1
         for p in expr.atoms(sympy.Pow)):
    raise Abstain('an odd root of a negative number')  # which of the three?
  return expr


def _build(node: tree.Expr, base: sympy.Expr | None) -> sympy.Expr:
  if isinstance(node, Fraction):
    return sympy.Rational(node.numerator, node.denominator)
  if isinstance(node, str):
    # Plain symbols without assumptions: the answer does not say that x is real.
    return _SYMBOLS.get(node) or sympy.Symbol(node)
  args = [_build(x, base) for x in node.args]
  if node.head == 'log' and base is not None:
    args.append(base)
  # sympy takes the root of any index, also of n or -2.
  if node.head == 'root' and not args[1].is_positive:
    raise Abstain('a root of unknown index')
  return _HEADS[node.head](*args)


def _equal(a: sympy.Expr, b: sympy.Expr) -> bool:
  if a == b:
    return True
  # sympy keeps rationals and infinities in one exact form: unequal forms differ.
  if a.is_Rational and b.is_Rational or a.is_infinite or b.is_infinite:
    return False
  symbols = sorted(a.free_symbols | b.free_symbols, key=str)
  # Rational points, unlike floats, keep values exact. Two of them, so that one at
  # which unequal expressions happen to agree does no harm.
  for start in (7, 11):
    point = {s: sympy.Rational(start + 2 * i, 5 + i) for i, s in enumerate(symbols)}
    if not _agree(a.subs(point), b.subs(point)):
      return False
    if not symbols:
      break
  # Cheap proofs first. No timeout of math-verify's: it rests on SIGALRM, which
  # works in a main thread only; `worker` kills what hangs.
  if sympy.expand(a - b) == 0 or sympy.cancel(a - b) == 0 or math_verify.verify(
      b, a, numeric_precision=100, timeout_seconds=None, raise_on_error=True):
    return True
  raise Abstain('equality could not be proved')


def _agree(a: sympy.Expr, b: sympy.Expr) -> bool:
  """Whether two numbers agree to more digits than they have."""
  if a.is_Rational and b.is_Rational:
    return a == b
  # 2^-998 and 2^-999 differ first in their 301st decimal. A fixed precision would
  # call them equal, as math-verify does.
  digits = 100 + _length(a) + _length(b)
  x, y = (sympy.N(e, digits, maxn=2 * digits, strict=True) for e in (a, b))
  # Of the digits computed, 20 are left for rounding.
  gap = abs(x - y) > sympy.Float(10, digits)**(20 - digits) * (abs(x) + abs(y))
  if gap not in (sympy.true, sympy.false):
    raise Abstain('no numerical value')
  return gap is sympy.false


def _length(expr: sympy.Expr) -> int:
  """Bound on the bits of a value; `tree.check_size` has bounded it before."""
  if expr.is_Rational:
    return max(abs(expr.p), expr.q).bit_length()
  args = [_length(x) for x in expr.args]
  if expr.is_Pow and expr.exp.is_Rational:
    return args[0] * max(1, int(abs(expr.exp)))
  return 1 + sum(args)


def _one_side(relation: tree.Relation) -> tuple[str, sympy.Expr]:
  """(=, != , < or <=, left minus right)."""
  op, left, right = relation
  # One direction only, so that x > 2 and 2 < x become the same.
  if op[0] == '>':
    op, left, right = op.replace('>', '<'), right, left
  return op, _expr(left) - _expr(right)


def _leaves(x: sympy.Expr, y: sympy.Expr) -> bool:
  """Whether a point of x = 0, found where x is linear in a letter, has y != 0."""
  symbols = sorted(x.free_symbols | y.free_symbols, key=str)
  for s, start in itertools.product(symbols, (3, 8)):
    point = {r: sympy.Rational(start + 2 * i, 5 + i)
             for i, r in enumerate(symbols) if r != s}
    slope = sympy.expand(x.subs(point)).coeff(s)
    rest = sympy.expand(x.subs(point) - slope * s)
    if slope.is_nonzero and not rest.has(s):
      value = y.subs(point).subs(s, -rest / slope)
      if value.is_number and not _agree(value, sympy.Integer(0)):
        return True
  return False
