"""A cursor over tokens, the base of the parser."""

from fractions import Fraction

from ddt_jax.verify import tree
from ddt_jax.verify.tokens import Abstain
from ddt_jax.verify.tokens import Token

SIGNS = {'+': '+', '-': '-', r'\pm': '±', r'\mp': '∓'}


class Cursor:
  """A position in the tokens, and the basic steps of a parser."""

  def __init__(self, found: list[Token]):
    self.tokens, self.at = found, 0
    self.angle = False  # within the argument of a sine, where degrees are numbers
    self.absolute = False  # within |...|, where | closes

  @property
  def next(self) -> Token:
    return self.tokens[self.at]

  @property
  def kind(self) -> str:
    return self.tokens[self.at].kind

  @property
  def word(self) -> str:
    """The next token's letters, '' if it is no word."""
    token = self.tokens[self.at]
    return token.value if token.kind == 'word' else ''

  def advance(self) -> Token:
    token = self.tokens[self.at]
    # Stays at the end token, so that looking ahead never runs off the list.
    self.at += token.kind != 'end'
    return token

  def accept(self, kind: str) -> bool:
    if self.tokens[self.at].kind == kind:
      self.at += 1
      return True
    return False

  def expect(self, *kinds: str) -> Token:
    if self.kind not in kinds:
      raise self.unclear()
    return self.advance()

  def unclear(self) -> Abstain:
    token = self.next
    where = repr(token.text) if token.kind != 'end' else 'the end'
    before = ''.join(t.text for t in self.tokens[max(0, self.at - 3):self.at])
    return Abstain(f'not understood: {where} after {before!r}')

  def split(self, parts: list[Token]) -> None:
    """Replaces the next token by its parts."""
    self.tokens[self.at:self.at + 1] = [
        parts[0], *(part._replace(space=False) for part in parts[1:])]

  def op(self, head: str, *args) -> tree.Expr:
    """A node of the tree; `-`, and products of numbers, are written by `*`."""
    # Sums of lists, sets or words have no meaning here.
    if not all([tree.is_expr(x) for x in args]):
      raise Abstain(f'{head!r} beside what is no number')
    if head == '-':
      return tree.Op('+', (args[0], tree.Op('*', (Fraction(-1), args[1]))))
    # -5 becomes a number at once: most answers then compare without algebra.
    if head == '*' and args[0] == -1 and type(args[1]) is Fraction:
      return -args[1]
    if head in '+*' and isinstance(args[0], tree.Op) and args[0].head == head:
      args = (*args[0].args, args[1])  # flat, however long
    return tree.Op(head, args)
