"""A synthetic world: stories that are sums, and two styles of solving them.

Fine-tuning on off-policy text is the problem that this project is about. The
world reproduces it at a size that trains in minutes on a CPU:

- **Two styles.** A story is a starting amount and some events. The student's own
  style varies in wording, while its arithmetic is fully determined. References are
  in the style of a bookkeeper: terse, with another notation and the operands in
  the other order. To the student a reference is off-policy: right, but unlikely.
  It knows the style from pre-training and uses it when asked to, otherwise in
  about one line of 25. So phi separates the two styles, yet no token is impossible.

- **A gap in knowledge.** Some containers have a customary size that stories do not
  state. Pre-training gives the containers in `KNOWN` their customary size, and
  those in `UNKNOWN` a random size in every story. The student therefore knows
  that a crate holds some number, but not which. Fine-tuning on references can
  close the gap for good; a hint closes it for one story.

Random draws are made in a fixed order: another order would be another world.
"""

import dataclasses
import random

NAMES = ('Ann', 'Ben', 'Cara', 'Dan', 'Eva', 'Finn', 'Gus', 'Hana')
NOUNS = ('apples', 'pears', 'plums', 'nuts', 'eggs', 'shells', 'coins', 'pens')
# Not in the splits `train`, `validation` and `test`.
OTHER_NOUNS = ('beads', 'cards', 'stamps', 'lemons', 'marbles', 'tickets')
# Customary size of each container. No name begins with another one: tests read the
# container back from the text of a story.
KNOWN = {'box': 6, 'bag': 4, 'jar': 8, 'case': 3}
UNKNOWN = {'crate': 9, 'sack': 7, 'tray': 5, 'basket': 2, 'barrel': 8}
CUSTOM = KNOWN | UNKNOWN


@dataclasses.dataclass(frozen=True)
class Event:
  """One sentence of a story and its effect on the amount.

  Attributes:
    text: the sentence.
    product: (count, size, thing) if `amount` has to be computed first, as
      count * size; otherwise None.
    sign: '+', '-' or '*'.
    amount: second operand; the first is the amount before the event.
  """

  text: str
  product: tuple[int, int, str] | None
  sign: str
  amount: int

  def apply(self, total: int) -> int:
    """The amount after the event."""
    return {'+': total + self.amount, '-': total - self.amount,
            '*': total * self.amount}[self.sign]


@dataclasses.dataclass(frozen=True)
class Story:
  """A story, with everything needed to solve it in either style.

  Attributes:
    name: the person.
    noun: what is counted.
    start: amount at the beginning.
    events: in order.
    question: the last sentence.
  """

  name: str
  noun: str
  start: int
  events: tuple[Event, ...]
  question: str

  @property
  def text(self) -> str:
    """The problem as the student reads it."""
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
    """The last amount."""
    return str(self.totals[-1])


def plural(container: str) -> str:
  """English plural of a container's name."""
  return container + ('es' if container[-1] in 'xs' else 's')


def _container_event(rng, name, noun, custom) -> Event:
  """A purchase by the container; see `story` for `custom`."""
  # Sorted, so that the draw does not depend on the order of the dict.
  container = rng.choice(sorted(custom or CUSTOM))
  size = custom[container] if custom else rng.randint(2, 9)
  count = rng.randint(2, 6)
  text = f'{rng.choice(("Then", "Now"))} {name} buys {count} {plural(container)}'
  text += rng.choice((f' of {noun}.', ' more.' if custom else '.'))
  if not custom:
    text += f' Each {container} holds {size}.'
  return Event(text, (count, size, plural(container)), '+', count * size)


def _plain_event(rng, name, noun, total) -> Event:
  # Bounds keep every amount positive and small enough to learn its arithmetic. A
  # kind that the amount rules out becomes a gain.
  kind = rng.choice(('gain', 'gain', 'lose', 'share', 'multiply'))
  if kind == 'multiply' and total <= 30:
    times = rng.choice((2, 3))
    word = {2: 'doubles', 3: 'triples'}[times]
    return Event(f'Then the number {word}.', None, '*', times)
  if kind == 'share' and total >= 8:
    count = rng.randint(2, 4)
    # At least one remains, so that no story reaches 0.
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
  """Draws a story with at most one event about containers.

  Args:
    rng: source of all choices.
    events: their number.
    nouns: one of them is counted.
    custom: {container: size}. Exactly one event is about one of these containers,
      and the story does not state its size. None: half of the stories have an
      event about any container, and state its size.
    start: range of the first amount, both ends included.
  """
  name, noun = rng.choice(NAMES), rng.choice(nouns)
  total = first = rng.randint(*start)
  with_container = custom is not None or rng.random() < 0.5
  place = rng.randrange(events) if with_container else None
  drawn = []
  for i in range(events):
    event = (
        _container_event(rng, name, noun, custom) if i == place
        else _plain_event(rng, name, noun, total)
    )
    total = event.apply(total)
    drawn.append(event)
  question = rng.choice((f'How many {noun} does {name} have now?',
                         f'How many {noun} are there in the end?'))
  return Story(name, noun, first, tuple(drawn), question)


# The student's own style. Wording varies freely, so that its entropy is high
# between the sums and low within them.
OPENERS = ('', 'Let me see. ', 'Okay. ', 'Step by step. ', 'Let us count. ',
           'We begin. ')
LINKS = ('Then ', 'Next, ', 'After that ', 'Now ', 'So ', '')


def _own_step(s: Story, i: int, rng: random.Random) -> str:
  """The student's line on event i: the product, if there is one, then the sum."""
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


# The bookkeeper's style: fixed wording, words for the signs, and the second operand
# first ("in 5 onto 12 makes 17").


def _bookkeeper_open(s: Story, rng: random.Random) -> str:
  book = rng.choice(('Ledger', 'Account'))
  return f'{book} of {s.name}; opening {s.start}; '


def _bookkeeper_step(s: Story, i: int) -> str:
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


def _bookkeeper_close(s: Story) -> str:
  return f'balance \\boxed{{{s.answer}}}'


def own_solution(
    s: Story, rng: random.Random, *, bookkeeper_share: float = 0.0
) -> str:
  """A solution in the student's own style.

  Args:
    s: the story.
    rng: source of the wording.
    bookkeeper_share: share of lines that are in the bookkeeper's style instead.
  """
  theirs = [rng.random() < bookkeeper_share for _ in range(len(s.events) + 2)]
  return ''.join([
      _bookkeeper_open(s, rng) if theirs[0] else rng.choice(OPENERS),
      *(_bookkeeper_step(s, i) if theirs[1 + i] else _own_step(s, i, rng)
        for i in range(len(s.events))),
      _bookkeeper_close(s) if theirs[-1] else _own_close(s, rng),
  ])


def bookkeeper_lines(s: Story, rng: random.Random) -> list[str]:
  """The bookkeeper's solution: the opening, a line for each event, the balance."""
  steps = (_bookkeeper_step(s, i) for i in range(len(s.events)))
  return [_bookkeeper_open(s, rng), *steps, _bookkeeper_close(s)]


def reference_solution(s: Story, rng: random.Random) -> str:
  """A solution in the bookkeeper's style, used as the reference."""
  return ''.join(bookkeeper_lines(s, rng))


def analysis(s: Story) -> str:
  """The sums of a solution without words: the first part of a rewrite.

  In a rewrite the student's own solution follows. The sums then already hold the
  container's size, which only the reference gives away.
  """
  sums = []
  for event, before, after in zip(
      s.events, s.totals[:-1], s.totals[1:], strict=True
  ):
    if event.product:
      sums.append(f'{event.product[0]}*{event.product[1]}={event.amount}')
    sums.append(f'{before}{event.sign}{event.amount}={after}')
  return ', '.join(sums)
