"""math-verify, kept from the mistakes that it is known to make.

It parses, and nothing is called equal that it does not call equal. Between the
two, decimals become exact rationals, so that nothing is rounded; numbers that
could not be written down are turned away; and both sides are evaluated to so
many digits that 2^-998 and 2^-999 differ, which it takes for the same. What is
neither refuted by that nor equal to math-verify is abstained from.
"""
import logging

import latex2sympy2_extended
import math_verify
import sympy

from ddt_jax.verify.numbers import Abstain

MAX_ITEMS = 16  # of a set: comparisons grow with the square
MAX_BITS = 1 << 17  # of any number that evaluating an expression can produce

# Units and malformed text were dealt with before: the library guesses there.
_CONFIG = [math_verify.LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=latex2sympy2_extended.NormalizationConfig(
        units=False, malformed_operators=False, nits=False, boxed='last'))]
_RELATION = sympy.core.relational.Relational
# Compared part by part; the first kind that fits.
_KINDS = (sympy.MatrixBase, sympy.Expr, sympy.Tuple, sympy.Interval,
          sympy.FiniteSet, sympy.Union, _RELATION)

logging.getLogger('math_verify').setLevel(logging.ERROR)  # "no timeout"


def same(got: str, want: str) -> bool:
  """Equality of two expressions, lists, sets, intervals, matrices, relations.

  Raises:
    Abstain: it could not be established.
  """
  try:
    a, b = _parse(got), _parse(want)
    if {type(a), type(b)} == {sympy.Tuple} and got[0] != want[0]:
      raise Abstain('different brackets')  # which a parsed tuple has lost
    if a == b:
      return True
    if not _agree(a, b):
      return False
    if math_verify.verify(
        b, a, numeric_precision=100, allow_set_relation_comp=True,
        timeout_seconds=None, raise_on_error=True):
      return True
  except Abstain:
    raise
  except Exception as e:  # sympy raises anything on what it did not expect
    raise Abstain(f'algebra failed: {type(e).__name__}') from e
  raise Abstain('equality could not be proved')


def _parse(text: str):
  if r'\pm' in text and ',' not in text:  # in a fraction it is not understood
    text = ', '.join(text.replace(r'\pm', sign) for sign in '+-')
  # The first match alone: otherwise a text that cannot be parsed is replaced
  # by any number found inside it.
  parsed = math_verify.parse(
      r'\boxed{' + text + '}', _CONFIG, fallback_mode='no_fallback',
      extraction_mode='first_match', parsing_timeout=None)
  if len(parsed) != 1:
    raise Abstain('cannot be parsed')
  expr = parsed[0]
  if isinstance(expr, sympy.MatrixBase):
    expr = expr.as_immutable()
  _bits(expr)
  exact = {x: sympy.Rational(str(x)) for x in expr.atoms(sympy.Float)}
  exact |= {x: sympy.I for x in expr.atoms(sympy.Symbol) if x.name == 'i'}
  expr = expr.xreplace(exact).doit()
  if expr.has(sympy.zoo, sympy.nan):
    raise Abstain('undefined value')
  if any(p.base.is_negative and p.exp.is_Rational and p.exp.q % 2 and p.exp.q > 1
         for p in expr.atoms(sympy.Pow)):
    raise Abstain('an odd root of a negative number')  # which of the three?
  if (not isinstance(expr, (*_KINDS[:-1], sympy.Eq))
      and len(expr.free_symbols) == 1):
    expr = expr.as_set()  # 1 < x < 2 is (1, 2); to repeat x^2 = 4 is no answer
  if isinstance(expr, sympy.FiniteSet):
    if len(expr.args) > MAX_ITEMS:
      raise Abstain(f'more than {MAX_ITEMS} items in a list')
    if len(expr.args) <= text.count(',') and not expr.atoms(sympy.Tuple):
      raise Abstain('an item twice in a list')  # 1, 1, 2 became {1, 2}
    if len(expr.args) == 1:
      expr = expr.args[0]
  return expr


def _bits(expr) -> int:
  """Bound on the length of the numbers that evaluating `expr` can produce."""
  args = [_bits(arg) for arg in expr.args]
  if isinstance(expr, sympy.Rational):
    bits = max(abs(expr.p), expr.q).bit_length()
  elif isinstance(expr, sympy.Pow) and expr.exp.is_Rational:
    bits = args[0] * max(1, int(abs(expr.exp)))
    if expr.base.is_Add and expr.exp > 32:  # expanded term by term
      bits = MAX_BITS + 1
  elif isinstance(expr, (sympy.Pow, sympy.factorial)):
    bits = args[0] << min(args[-1], 64)  # |exponent| < 2^bits; n! < n^n
  else:
    bits = 1 + sum(args)
  if bits > MAX_BITS:
    raise Abstain(f'a number of more than {MAX_BITS} bits')
  return bits


def _agree(a, b) -> bool:
  """Whether two parsed answers have the same parts, numerically."""
  if a == b:
    return True
  kinds = [next((kind for kind in _KINDS if isinstance(x, kind)), None)
           for x in (a, b)]
  if None in kinds:
    raise Abstain('not a number, list, interval, matrix or relation')
  kind = kinds[0]
  if kind is not kinds[1]:
    if (sympy.Expr in kinds and _RELATION not in kinds
        or {*kinds} <= {sympy.Tuple, sympy.Interval, sympy.Union}):
      return False
    raise Abstain('answers of different kinds')  # 1, 2 and (1, 2)
  if kind is sympy.Expr:
    return _agree_values(a, b)
  if kind is _RELATION:
    return _agree_relations(a, b)
  if kind is sympy.MatrixBase:
    return a.shape == b.shape and all(map(_agree, a, b))
  if kind is sympy.Interval:
    return a.args[2:] == b.args[2:] and all(map(_agree, a.args[:2], b.args))
  if len(a.args) != len(b.args):
    return False
  if kind is sympy.Tuple:
    return all(map(_agree, a, b))
  return all(any(_agree(x, y) for y in b.args) for x in a.args)


def _agree_values(a, b) -> bool:
  """Evaluates both at one point, to more digits than their numbers have."""
  if a.is_Rational and b.is_Rational or a.is_infinite or b.is_infinite:
    return a == b
  symbols = sorted(a.free_symbols | b.free_symbols, key=str)
  point = {s: sympy.Rational(7 + 2 * i, 5 + i) for i, s in enumerate(symbols)}
  digits = 100 + _bits(a) + _bits(b)
  x, y = (sympy.N(e.subs(point), digits, maxn=2 * digits, strict=True)
          for e in (a, b))
  gap = abs(x - y) > sympy.Float(10, digits)**(20 - digits) * (abs(x) + abs(y))
  if gap not in (sympy.true, sympy.false):
    raise Abstain('no numerical value')
  return gap is sympy.false


def _agree_relations(a, b) -> bool:
  """Whether one is a constant multiple of the other."""
  ratio = (a.lhs - a.rhs) / (b.lhs - b.rhs)
  elsewhere = ratio.subs({s: s**2 for s in ratio.free_symbols}, simultaneous=True)
  if a.func is b.func and _agree_values(ratio, elsewhere):
    if isinstance(a, sympy.Eq) or sympy.simplify(ratio).is_positive:
      return True
  raise Abstain('relations not shown to be equivalent')
