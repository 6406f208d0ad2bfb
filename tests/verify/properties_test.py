"""Random values in random spellings, against an oracle that knows no spelling.

A value is drawn, not parsed: its oracle is made of numbers. Two values are the same
if their kinds and shapes are and their numbers agree to 12 digits at random points.
"""
import math
import random
import re

import pytest

from ddt_jax.verify import algebra
from ddt_jax.verify import judge

RNG = random.Random(20_260_917)


# Values: (kind, payload); spellings and oracles by kind --------------------------


def rational(rng):
  return 'number', (rng.randint(-60, 60), rng.choice((1, 1, 1, 2, 3, 4, 5, 8, 20)))


def spell_number(rng, value):
  top, bottom = value
  divisor = math.gcd(top, bottom)
  p, q = top // divisor, bottom // divisor
  sign, a = '-' if p < 0 else '', abs(p)
  k = rng.randint(1, 4)
  if q == 1:
    forms = [f'{p}', f'{p}.0', rf'\frac{{{p * k}}}{{{k}}}', f'{sign}{a * k}/{k}',
             rf'{sign}\dfrac{{{a}}}1', f'({p})', rf'\left({p}\right)', f'{sign}0{a}',
             f'{sign}{a}{{,}}0', rf'{sign}{a}\times10^0', f'{sign}{a}.', f'{sign}{a}e0',
             f'{p + k}-{k}', f'\\text{{{p}}}', f'x={p}', f'$ {p} $', f'{a - a + p}']
  else:
    forms = [f'{p}/{q}', rf'\frac{{{p * k}}}{{{q * k}}}', rf'{sign}\tfrac{{{a}}}{{{q}}}',
             rf'{sign}{{{a} \over {q}}}', rf'\frac{{{-p}}}{{{-q}}}', f'({p})/({q})']
    if q < 10 and a < 10:
      forms.append(rf'{sign}\frac{a}{q}')
    if a > q:
      forms += [rf'{sign}{a // q}\frac{{{a % q}}}{{{q}}}', f'{sign}{a // q} {a % q}/{q}']
    if q in (2, 4, 5, 8, 20):
      decimal = f'{a / q:.3f}'.rstrip('0')
      forms += [sign + decimal, sign + decimal.lstrip('0') + '0',
                sign + decimal.replace('.', '{,}')
                if len(decimal.partition('.')[2]) != 3 else sign + decimal,
                rf'{sign}{a * 100}/{q}\%', rf'{sign}{a / q * 100:g}\%']
    if q == 3:
      forms += [rf'{sign}{a // 3}.\overline{{{a % 3 * 3}}}', f'{sign}{a // 3}.({a % 3 * 3})']
    if (a, q) == (1, 2):
      forms.append(f'{sign}½')
  return rng.choice(forms)


def root(rng):
  """a + b sqrt(c), c without square factors."""
  return 'root', (rng.randint(-6, 6), rng.choice((-3, -2, -1, 1, 2, 3)),
                  rng.choice((2, 3, 5, 6, 7, 10)))


def spell_root(rng, value):
  a, b, c = value
  size = abs(b)
  inner = rng.choice([
      rf'{size}\sqrt{{{c}}}', rf'\sqrt{{{size * size * c}}}', rf'\sqrt{{{c}}}\cdot{size}',
      rf'{size} √{c}', rf'{size}\cdot {c}^{{1/2}}', rf'\frac{{{size * c}}}{{\sqrt{{{c}}}}}'])
  sign = '-' if b < 0 else '+'
  if not a:
    return inner if b > 0 else f'-{inner}'
  return rng.choice([f'{a}{sign}{inner}', f'{"" if b > 0 else "-"}{inner}{a:+}'])


def expression(rng):
  """Coefficients of 1, x, y, xy, x^2."""
  return 'expression', tuple(rng.randint(-3, 3) for _ in range(4)) + (
      rng.choice((-2, -1, 1, 2)),)


MONOMIALS = (('', ''), ('x', 'x'), ('y', 'y'), ('xy', r'y\cdot x'), ('x^2', 'x^{2}'))


def spell_expression(rng, value):
  parts = [(c, rng.choice(names)) for c, names in zip(value, MONOMIALS, strict=True) if c]
  rng.shuffle(parts)
  text = ''
  for c, name in parts:
    size = str(abs(c)) if abs(c) > 1 or not name else ''
    dot = rng.choice(('', r'\cdot ', ' ')) if size and name else ''
    text += ('-' if c < 0 else '+') + size + dot + name
  text = text.removeprefix('+')
  return rng.choice([text, f'({text})', rf'\frac{{2({text})}}{{2}}', f'f(x,y)={text}'
                     if rng.random() < .1 else text])


def several(kind, low, high):
  def draw(rng):
    inner = rng.choice((rational, rational, rational, root))
    return kind, tuple(inner(rng) for _ in range(rng.randint(low, high)))
  return draw


def spell_several(opened, closed, between):
  def spell(rng, items):
    items = list(items)
    if not opened.strip(r'\left') or '{' in opened:
      rng.shuffle(items)
    parts = [spelled(rng, x, bare=True) for x in items]
    return f'{opened}{rng.choice(between).join(parts)}{closed}'
  return spell


def interval(rng):
  low = rng.randint(-9, 8)
  return 'interval', (low, rng.randint(low + 1, 10), rng.choice('[('), rng.choice(')]'))


def spell_interval(rng, value):
  low, high, opened, closed = value
  left, right = '<' if opened == '(' else r'\le', '<' if closed == ')' else r'\leq'
  back = '>' if closed == ')' else r'\ge'
  forms = [f'{opened}{low},{high}{closed}', f'{opened}{low}; {high}{closed}',
           rf'\left{opened}{low}, {high}\right{closed}', f'{low}{left} x {right} {high}',
           rf'x\in{opened}{low},{high}{closed}']
  if (opened, closed) in (('(', ')'), ('[', ']')):
    forms.append(f'{high}{back} x {back} {low}')
  return rng.choice(forms)


def quantity(rng):
  return 'quantity', (rng.randint(1, 50), rng.choice(list(UNITS)))


UNITS = {'length': {'m': 1, 'meters': 1, 'cm': .01, 'km': 1000},
         'time': {'hours': 3600, 'h': 3600, 'minutes': 60, 'min': 60, 's': 1},
         'money': {'dollars': 1, '$': 1, 'cents': .01}}


def spell_quantity(rng, value):
  number, dimension = value
  unit = rng.choice(list(UNITS[dimension]))
  number = number / UNITS[dimension][unit]
  text = f'{number:.9f}'.rstrip('0').rstrip('.') if number < 1 else f'{number:.6g}'
  if not math.isclose(float(text), number, rel_tol=1e-12):
    return None
  if unit == '$':
    return rf'\${text}'
  return rng.choice([f'{text} {unit}', rf'{text}\text{{ {unit}}}', rf'{text}\,\mathrm{{{unit}}}'])


KINDS = {
    'number': (rational, spell_number), 'root': (root, spell_root),
    'expression': (expression, spell_expression),
    'tuple': (several('tuple', 3, 4), spell_several('(', ')', (',', ', ', ' , ', ';'))),
    'set': (several('set', 2, 4), spell_several(r'\{', r'\}', (',', ', ', ';'))),
    'list': (several('list', 2, 4), spell_several('', '', (', ', '; ', ' and ', ', and '))),
    'interval': (interval, spell_interval), 'quantity': (quantity, spell_quantity),
}


def spelled(rng, value, bare=False):
  kind, payload = value
  for _ in range(50):
    text = KINDS[kind][1](rng, payload)
    # In a list a name, a percent sign or a comma would be another list.
    if text is not None and not (bare and re.search(r'[=%$]|\{,\}|e0|\.$', text)):
      return text
  raise AssertionError(value)


def oracle(value):
  """Numbers that determine a value, whatever its spelling."""
  kind, payload = value
  if kind == 'number':
    return 'number', round(payload[0] / payload[1], 12)
  if kind == 'root':
    return 'number', round(payload[0] + payload[1] * math.sqrt(payload[2]), 12)
  if kind == 'expression':
    return kind, tuple(round(sum(
        c * m for c, m in zip(payload, (1, x, y, x * y, x * x), strict=True)), 9)
        for x, y in ((1.37, -2.11), (-.71, 3.3), (5.9, 1.13), (2.2, 7.7), (-4., .3)))
  if kind in ('tuple', 'set', 'list'):
    items = [oracle(x) for x in payload]
    return ('tuple', *items) if kind == 'tuple' else (
        'collection', *sorted(items if kind == 'list' else set(items)))
  return kind, *payload


def neighbour(rng, value):
  """A value that is easily taken for another: one number in it is changed."""
  kind, payload = value
  if kind in ('tuple', 'set', 'list'):
    items = list(payload)
    i = rng.randrange(len(items))
    change = rng.random()
    if change < .3:
      rng.shuffle(items)
    elif change < .5:
      items.append(items[i])
    elif change < .6 and len(items) > 2:
      del items[i]
    else:
      items[i] = neighbour(rng, items[i])
    return rng.choice((kind, kind, 'tuple')), tuple(items)
  payload = list(payload)
  i = rng.randrange(len(payload))
  if isinstance(payload[i], int):
    payload[i] = rng.choice((-payload[i], payload[i] + 1, 10 * payload[i]))
    if kind == 'number' and payload[1] not in (1, 2, 3, 4, 5, 8, 20) or (
        kind == 'root' and (payload[2] not in (2, 3, 5, 6, 7, 10) or not payload[1])) or (
        kind == 'interval' and payload[0] >= payload[1]) or (
        kind == 'expression' and not any(payload)) or (
        kind == 'quantity' and payload[0] <= 0):
      return value
  elif kind == 'interval':
    payload[i] = {'[': '(', '(': '[', ']': ')', ')': ']'}[payload[i]]
  else:
    payload[i] = rng.choice(list(UNITS))
  return kind, tuple(payload)


def pairs(count, kinds):
  """(spelling, spelling, whether the values are the same, kind)."""
  for _ in range(count):
    value = KINDS[RNG.choice(kinds)][0](RNG)
    draw = RNG.random()
    # A unit on one side only is taken for granted: such pairs have no oracle.
    strangers = ('quantity',) if value[0] == 'quantity' else [
        k for k in kinds if k != 'quantity']
    other = value if draw < .5 else neighbour(RNG, value) if draw < .9 else (
        KINDS[RNG.choice(strangers)][0](RNG))
    yield spelled(RNG, value), spelled(RNG, other), oracle(value) == oracle(other), value[0]


@pytest.mark.parametrize('count, kinds', [
    (30_000, ('number', 'number', 'interval', 'quantity')),
    (4_000, ('number', 'root', 'expression', 'tuple', 'set', 'list', 'interval'))])
def test_equal_is_never_called_different_nor_different_equal(count, kinds):
  decided = 0
  for got, want, same, kind in pairs(count, kinds):
    correct, reason = judge.judge(got, want, algebra)
    assert correct is None or correct is same, (got, want, same, kind, reason)
    decided += correct is not None
  assert decided > .8 * count  # abstaining from all would be of no use


# Mutations -----------------------------------------------------------------------

TOKEN = re.compile(r'\\[A-Za-z]+|\\.|[A-Za-z]+|\d+|.', re.DOTALL)
TO_PYTHON = [(re.compile(a), b) for a, b in (
    (r'\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}', r'((\1)/(\2))'),
    (r'\\[dt]?frac(\d)(\d)', r'(\1/\2)'), (r'\\sqrt\{([^{}]+)\}', r'((\1)**.5)'),
    (r'\\sqrt(\d)(?!\d)', r'(\1**.5)'), (r'\\cdot|\\times', '*'), (r'\\pi(?![A-Za-z])', ' P'),
    (r'\^\{([^{}]+)\}', r'**(\1)'), (r'\^(-?\w+)', r'**\1'), (r'\{([^{}]*)\}', r'(\1)'),
    (r'(?<=[\d)xyP]) *(?=[(xyP])', '*'), (r'(?<=\))(?=\d)', '* '), (r'\b0+(?=\d)', ''))]
RIGHT = [
    r'\frac{12}{35}', r'3\sqrt{2}+1', r'2\cdot(7-4)', '17/4', '-3', '0.25', '12.5',
    r'\frac{1}{\sqrt{3}}', r'2^{10}', '2^{3}+5', r'\frac{3\pi}{4}', r'x^{2}+3x-1',
    '(x+1)(x-2)', r'\frac{x+1}{y}', '2xy', r'\frac12', '3-2', '7(2+3)', r'4\times 10^{3}',
    '1234', 'x-y', r'\frac{-5}{6}', r'2\pi(x+3)', r'\sqrt{x^{2}+1}', '(1,2)', '(3,x,5)',
    r'\{1,2,4\}', '3, 5', '[1,4)', 'x=5', r'x\le 7',
]


def evaluate(text):
  """The value of TeX arithmetic at two points, by Python; None if it is none."""
  for pattern, new in TO_PYTHON:
    text = pattern.sub(new, text)
  if '\\' in text or not re.fullmatch(r'[-+*/().\dxyP ,]+', text):
    return None
  try:
    values = [eval(text, {'__builtins__': {}}, {'x': x, 'y': y, 'P': math.pi})
              for x, y in ((1.25, 2.5), (2.75, .375))]
    return [tuple(round(float(v), 9) for v in (value if isinstance(value, tuple) else (value,)))
            for value in values]
  except Exception:
    return None


def mutations(text):
  """Texts with one token dropped, doubled, or swapped with the next."""
  tokens = TOKEN.findall(text)
  for i in range(len(tokens)):
    yield tokens[:i] + tokens[i + 1:]
    yield tokens[:i + 1] + tokens[i:]
    if i + 1 < len(tokens):
      yield tokens[:i] + [tokens[i + 1], tokens[i]] + tokens[i + 2:]


# Mutations without a numeric value that say the same as the answer they come from.
HARMLESS = {
    'x=5': {'=5', 'x==5', '5=x'}, r'x\le 7': {r'x\le7', r'x \le7', r'x\le  7', r'x\le7 '},
    r'\frac{1}{\sqrt{3}}': {r'\frac{1}\sqrt{{3}}', r'\frac{1}{{\sqrt3}}'},
    r'\{1,2,4\}': {r'\{2,1,4\}', '{1,2,4\\}'}, '3, 5': {'3,5', '3,  5', '3 ,5', ',3 5'},
}


@pytest.mark.parametrize('right', RIGHT)
def test_a_mutation_is_right_only_if_its_value_is_the_same(right):
  assert judge.judge(right, right)[0] is True
  for tokens in mutations(right):
    text = ''.join(tokens)
    correct, _ = judge.judge(text, right, algebra)
    if correct and text != right and text.strip() not in HARMLESS.get(right, ()):
      value = evaluate(text)
      assert value is not None and value == evaluate(right), text


def test_no_text_makes_the_grammar_fail():
  """Neither random tokens nor mutations raise anything but an abstention."""
  vocabulary = [
      *'0123456789+-*/^_=<>(){}[],;:|!&.%$\'"?xyziBe ~', r'\frac', r'\sqrt', r'\pm',
      r'\text{', r'\mathrm{', r'\left', r'\right', r'\{', r'\}', r'\pi', r'\infty',
      r'\cup', r'\in', r'\sum', r'\begin{pmatrix}', r'\end{pmatrix}', r'\\', r'\sin',
      r'\log', r'\binom', r'\degree', r'\$', r'\%', r'\overline', r'\over', r'\mathbb',
      r'\le', r'\lfloor', r'\langle', 'and', 'or', 'cm', 'm', 'tenths', 'Option', 'sqrt',
      'seven', 'per', 'square', '½', '√', '°', '²', '€', '1{,}234', '0.(3)', r'\boxed{']
  assert judge.judge(r'\binom.0', '5') == (None, 'a decimal point is no number')
  for _ in range(20_000):
    text = ''.join(RNG.choices(vocabulary, k=RNG.randint(1, 9)))
    judged = judge.judge(text, RNG.choice(('5', 'x+1', '(1,2)', 'no', r'2\text{ m}', text[::-1])))
    assert judged is None or 'failed' not in judged[1], text
