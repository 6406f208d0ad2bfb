r"""Speed of the verifier on one core: plain numbers, and expressions.

python -m experiments.bench.verify [--count=20000] [--rounds=5]

Plain numbers are written as responses write them, at the end of 400 characters, and
verified in this process. Expressions are compared as a worker does it, in this process
too. Every pair of expressions is new: SymPy would answer a repeated one from its cache.
"""

import random

from absl import flags

from ddt_jax import verify
from ddt_jax.verify import algebra
from ddt_jax.verify import judge
from experiments.bench import paired
from experiments.run import lifecycle

_COUNT = flags.DEFINE_integer('count', 20_000, 'Number of pairs of plain numbers.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 5, 'Number of rounds; each contender runs once in a round.')

PLAIN = ('{n}', '{n}', '{n}.0', '{n:,}', r'\frac{{{n}}}{{1}}', r'{n}\text{{ cm}}',
         r'\${n}', 'x = {n}', '{n}/1', r'\left({n}\right)')
SYMBOLIC = (
    ('(x+{n})(x-{n})', 'x^2-{n}^2'), (r'{n}\sqrt{{8}}', r'{n}\cdot 2\sqrt2'),
    (r'\frac{{{n}\pi}}{{6}}', r'{n}\pi/6'), ('{n}x+y', 'y+{n}x'),
    (r'(\sqrt{{{n}}}, {n})', r'({n}^{{1/2}}, {n})'),
    (r'\frac{{{n}x}}{{2}}', '{n}x'),
    (r'x \le \sqrt{{{n}}}', r'(-\infty, \sqrt{{{n}}}]'),
    (r'{n}+i\sqrt3', r'{n}-i\sqrt3'),
    (r'\frac{{1}}{{1+\sqrt{{{n}}}}}', r'\sqrt{{{n}}}'),
    ('y={n}x+1', '1+{n}x'),
)
TEXT = 'We add the numbers, $x_{1} + x_{2}$, and look at the result. ' * 6


def plain_numbers(count: int) -> list[tuple[str, str]]:
  """(response, answer) pairs; half of the responses are right."""
  draw = random.Random(0)
  numbers = [draw.randrange(10**draw.randint(1, 6)) for _ in range(count)]
  return [(f'{TEXT}So it is \\boxed{{{draw.choice(PLAIN).format(n=n)}}}.',
           str(n + draw.randint(0, 1))) for n in numbers]


def expressions(count: int) -> list[tuple[str, str]]:
  """(found, wanted) pairs, all of them different."""
  return [tuple(side.format(n=n) for side in SYMBOLIC[n % len(SYMBOLIC)])
          for n in range(2, count + 2)]


def main():
  plain, hard = plain_numbers(_COUNT.value), iter(
      expressions(_COUNT.value // 50 * (_ROUNDS.value + 1)))

  def numbers():
    verdicts = verify.verify_all(plain, workers=1)
    assert all(v.correct is not None for v in verdicts)

  def symbolic():
    for _ in range(_COUNT.value // 50):
      assert judge.judge(*next(hard), algebra)[0] is not None

  taken = paired.seconds({'numbers': numbers, 'symbolic': symbolic}, _ROUNDS.value)
  for name, count, target in (
      ('numbers', _COUNT.value, '>= 20,000'),
      ('symbolic', _COUNT.value // 50, '>= 200')):
    a_second = sorted(count / s for s in taken[name])
    paired.show(f'{name}, verdicts a second', {
        'median': a_second[len(a_second) // 2], 'low': a_second[0],
        'high': a_second[-1]}, target)


if __name__ == '__main__':
  lifecycle.launch(main)
