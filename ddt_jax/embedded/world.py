"""The world the embedded student lives in: stories that are sums.

A story is a starting amount and some events. Two hands write its solution: the
student's own, whose wording varies and whose arithmetic is forced, and somebody
else's, a terse bookkeeper with another notation and another order of operands.
The student can write like the bookkeeper when asked to; of its own accord it
does so in a line now and then.

Some containers have a customary size that stories leave unsaid. The student
knows the custom for those in `KNOWN`; of the others it has read everywhere
something else. So of a crate it knows that it holds *some* number: a gap that
the bookkeeper's solutions can close, and that a hint closes for one story.
"""

import dataclasses
import random

NAMES = ('Ann', 'Ben', 'Cara', 'Dan', 'Eva', 'Finn', 'Gus', 'Hana')
NOUNS = ('apples', 'pears', 'plums', 'nuts', 'eggs', 'shells', 'coins', 'pens')
OTHER_NOUNS = ('beads', 'cards', 'stamps', 'lemons', 'marbles', 'tickets')
KNOWN = {'box': 6, 'bag': 4, 'jar': 8, 'case': 3}
UNKNOWN = {'crate': 9, 'sack': 7, 'tray': 5, 'basket': 2, 'barrel': 8}
CUSTOM = KNOWN | UNKNOWN


@dataclasses.dataclass(frozen=True)
class Event:
  """One sentence of a story and what it does to the amount.

  Attributes:
    text: the sentence.
    product: (count, size, thing) where a product comes first, else None.
    sign: '+', '-' or '*'.
    amount: the second operand.
  """

  text: str
  product: tuple[int, int, str] | None
  sign: str
  amount: int

  def apply(self, total: int) -> int:
    return {'+': total + self.amount, '-': total - self.amount,
            '*': total * self.amount}[self.sign]


@dataclasses.dataclass(frozen=True)
class Story:
  name: str
  noun: str
  start: int
  events: tuple[Event, ...]
  question: str

  @property
  def text(self) -> str:
    first = f'{self.name} has {self.start} {self.noun}.'
    return ' '.join([first, *(e.text for e in self.events), self.question])

  @property
  def totals(self) -> list[int]:
    """The amount before the first event, and after each."""
    totals = [self.start]
    for event in self.events:
      totals.append(event.apply(totals[-1]))
    return totals

  @property
  def answer(self) -> str:
    return str(self.totals[-1])


def plural(container: str) -> str:
  return container + ('es' if container[-1] in 'xs' else 's')


def _container_event(rng, name, noun, custom) -> Event:
  """`custom`: containers whose size goes unsaid; None: any, size stated."""
  container = rng.choice(sorted(custom or CUSTOM))
  size = custom[container] if custom else rng.randint(2, 9)
  count = rng.randint(2, 6)
  text = f'{rng.choice(("Then", "Now"))} {name} buys {count} {plural(container)}'
  text += rng.choice((f' of {noun}.', ' more.' if custom else '.'))
  if not custom:
    text += f' Each {container} holds {size}.'
  return Event(text, (count, size, plural(container)), '+', count * size)


def _plain_event(rng, name, noun, total) -> Event:
  kind = rng.choice(('gain', 'gain', 'lose', 'share', 'multiply'))
  if kind == 'multiply' and total <= 30:
    times = rng.choice((2, 3))
    word = {2: 'doubles', 3: 'triples'}[times]
    return Event(f'Then the number {word}.', None, '*', times)
  if kind == 'share' and total >= 8:
    count = rng.randint(2, 4)
    size = rng.randint(1, min(9, (total - 1) // count))
    text = f'{name} hands {size} to each of {count} friends.'
    return Event(text, (count, size, 'friends'), '-', count * size)
  if kind == 'lose' and total >= 5:
    amount = rng.randint(2, min(20, total - 1))
    text = rng.choice((f'{name} gives away {amount}.',
                       f'{name} loses {amount} {noun}.'))
    return Event(text, None, '-', amount)
  amount = rng.randint(2, 20)
  text = rng.choice((f'{name} finds {amount} more.',
                     f'A friend brings {amount} {noun}.'))
  return Event(text, None, '+', amount)


def story(
    rng: random.Random,
    *,
    events: int,
    nouns: tuple[str, ...],
    custom: dict[str, int] | None = None,
    start: tuple[int, int] = (3, 30),
) -> Story:
  """A story of so many events, one or none of them about containers.

  Args:
    rng: decides everything.
    events: how many.
    nouns: what it may be about.
    custom: containers whose size goes unsaid; exactly one event is about one.
      None: half of the stories have one, with its size stated.
    start: range of the first amount.
  """
  name, noun = rng.choice(NAMES), rng.choice(nouns)
  total = first = rng.randint(*start)
  with_container = custom is not None or rng.random() < 0.5
  place = rng.randrange(events) if with_container else None
  told = []
  for i in range(events):
    event = (
        _container_event(rng, name, noun, custom) if i == place
        else _plain_event(rng, name, noun, total)
    )
    total = event.apply(total)
    told.append(event)
  question = rng.choice((f'How many {noun} does {name} have now?',
                         f'How many {noun} are there in the end?'))
  return Story(name, noun, first, tuple(told), question)


OPENERS = ('', 'Let me see. ', 'Okay. ', 'Step by step. ', 'Let us count. ',
           'We begin. ')
LINKS = ('Then ', 'Next, ', 'After that ', 'Now ', 'So ', '')


def _own_step(s: Story, i: int, rng: random.Random) -> str:
  event, before, after = s.events[i], s.totals[i], s.totals[i + 1]
  step = ''
  link = rng.choice(('First ', '', '')) if i == 0 else rng.choice(LINKS)
  if event.product:
    count, size, thing = event.product
    sum_ = f'{count}*{size}={event.amount}'
    step = link + rng.choice((
        f'the {thing} make {sum_}. ', f'{sum_} for the {thing}. ',
        f'we get {sum_}. ',
    ))
    link = rng.choice(LINKS)
  sum_ = f'{before}{event.sign}{event.amount}={after}'
  return step + link + rng.choice((
      f'{sum_}. ', f'we have {sum_}. ', f'{sum_} {s.noun}. ',
      f'this gives {sum_}. ',
  ))


def _own_close(s: Story, rng: random.Random) -> str:
  box = f'\\boxed{{{s.answer}}}'
  return rng.choice((
      f'The answer is {box}.', f'So {s.name} has {box} {s.noun}.',
      f'In the end: {box}.', f'That makes {box}.', f'Answer: {box}.',
  ))


def _their_open(s: Story, rng: random.Random) -> str:
  book = rng.choice(('Ledger', 'Account'))
  return f'{book} of {s.name}; opening {s.start}; '


def _their_step(s: Story, i: int) -> str:
  event, before, after = s.events[i], s.totals[i], s.totals[i + 1]
  entry, verb, result = {
      '+': ('in', 'onto', 'makes'), '-': ('out', 'off', 'leaves'),
      '*': ('fold', 'times', 'yields'),
  }[event.sign]
  amount = str(event.amount)
  if event.product:
    count, size, _ = event.product
    amount = f'{count} by {size} is {event.amount},'
  return f'{entry} {amount} {verb} {before} {result} {after}; '


def _their_close(s: Story) -> str:
  return f'balance \\boxed{{{s.answer}}}'


def own_solution(
    s: Story, rng: random.Random, *, other_hand: float = 0.0
) -> str:
  """The student's own hand: free wording, forced arithmetic.

  Args:
    s: the story.
    rng: decides the wording.
    other_hand: share of the lines that are the bookkeeper's instead.
  """
  theirs = [rng.random() < other_hand for _ in range(len(s.events) + 2)]
  return ''.join([
      _their_open(s, rng) if theirs[0] else rng.choice(OPENERS),
      *(_their_step(s, i) if theirs[1 + i] else _own_step(s, i, rng)
        for i in range(len(s.events))),
      _their_close(s) if theirs[-1] else _own_close(s, rng),
  ])


def reference_solution(s: Story, rng: random.Random) -> str:
  """Somebody else's hand: a bookkeeper, second operand first."""
  steps = (_their_step(s, i) for i in range(len(s.events)))
  return ''.join([_their_open(s, rng), *steps, _their_close(s)])


def analysis(s: Story) -> str:
  """What a solution does, as bare sums: the first half of a rewrite."""
  sums = []
  for event, before, after in zip(
      s.events, s.totals[:-1], s.totals[1:], strict=True
  ):
    if event.product:
      sums.append(f'{event.product[0]}*{event.product[1]}={event.amount}')
    sums.append(f'{before}{event.sign}{event.amount}={after}')
  return ', '.join(sums)
