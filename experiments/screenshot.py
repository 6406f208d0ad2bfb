r"""A picture of a page, or of a part of it, by headless Chromium.

python -m experiments.screenshot --page runs/idft/report.html --out page.png
python -m experiments.screenshot --page runs/idft/report.html --out phone.png \
    --width 390 --dark
python -m experiments.screenshot --page runs/score/mine/report.html \
    --out texts.png --width 900 --element '#highlights'

Needs Chromium on the PATH (apt-get install chromium). The ids of a score page are
highlights and examples, that of a run's page is problems.
"""

import io
import pathlib

from absl import flags
from PIL import Image

from ddt_jax import errors
from experiments.run import chromium
from experiments.run import lifecycle

_HEIGHT = 900  # of the window, CSS pixels
_HIGHEST = 16_000  # CSS pixels; Chromium draws no higher window
_MARGIN = 16  # around an element, CSS pixels


def take(
    page: pathlib.Path, *, width: int = 1280, dark: bool = False,
    element: str = 'html', density: float = 1.0,
) -> bytes:
  """PNG of a page.

  Args:
    page: the file.
    width: of the window, CSS pixels; below 600 the browser takes it for a phone.
    dark: whether the user prefers dark pages.
    element: CSS selector of the part to show.
    density: pixels of the picture for each CSS pixel.

  Raises:
    errors.InputError: there is no Chromium, no file or no such element.
  """
  if not page.is_file():
    raise errors.InputError(f'--page={page}: there is no such file')
  if not chromium.program():
    raise errors.InputError('Chromium is not on the PATH: apt-get install chromium')
  with chromium.started() as tab:
    tab.prefer('dark' if dark else 'light')
    tab.resize(width, _HEIGHT, density)
    tab.open(page.absolute())
    # A window as high as the page has no scroll bar, which would change the lines.
    height = tab.run('document.documentElement.scrollHeight')
    tab.resize(width, min(height, _HIGHEST), density)
    png = tab.picture(element, 0 if element == 'html' else _MARGIN)
  if png is None:
    raise errors.InputError(f'--element={element}: {page} has no such element')
  buffer = io.BytesIO()
  Image.open(io.BytesIO(png)).convert('RGB').save(buffer, 'png', optimize=True)
  return buffer.getvalue()


def main():
  given = flags.FLAGS
  with lifecycle.explained_errors():
    if not given.page or not given.out:
      raise errors.InputError('name a page and a picture: --page=FILE --out=FILE')
    png = take(
        pathlib.Path(given.page), width=given.width, dark=given.dark,
        element=given.element, density=given.density)
    pathlib.Path(given.out).write_bytes(png)
  print(f'{given.out}: {len(png) / 1000:.0f} kB')


if __name__ == '__main__':
  flags.DEFINE_string('page', '', 'The page, an HTML file.')
  flags.DEFINE_string('out', '', 'The picture, a PNG file.')
  flags.DEFINE_integer('width', 1280, 'Of the window, CSS pixels.', 100, 10000)
  flags.DEFINE_bool('dark', False, 'As for a user who prefers dark pages.')
  flags.DEFINE_string('element', 'html', 'CSS selector of the part to show.')
  flags.DEFINE_float('density', 1.0, 'Pixels for each CSS pixel.', 0.1, 4)
  lifecycle.launch(main)
