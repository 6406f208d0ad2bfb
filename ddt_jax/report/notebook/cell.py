"""The base of all results that show themselves in a cell."""

import abc


class Cell(abc.ABC):
  """A result that a notebook shows as HTML, and a terminal as text.

  The HTML is a fragment with its own style, for light and dark notebooks. It
  needs no network and no script. All texts in it are escaped.
  """

  @abc.abstractmethod
  def html(self) -> str:
    """The result as a fragment of HTML."""

  @abc.abstractmethod
  def text(self) -> str:
    """The result as plain text of at most 100 columns."""

  def _repr_html_(self) -> str:
    return self.html()

  def __repr__(self) -> str:
    return self.text()
