"""Pictures of pages, by Chromium."""

import io

from PIL import Image
import pytest

from ddt_jax import errors
from experiments import screenshot
from experiments.run import chromium

PAGE = ('<meta name="viewport" content="width=device-width"><style>body { margin: 0 }'
        ' @media (prefers-color-scheme: dark) { body { background: #000 } }</style>'
        '<div style="height: 3000px"></div>'
        '<p id="part" style="margin: 0; width: 100px; height: 50px"></p>')


@pytest.fixture
def page(tmp_path):
  file = tmp_path / 'page.html'
  file.write_text(PAGE)
  return file


def test_a_page_or_a_part_of_it_light_or_dark(page):
  if not chromium.program():
    pytest.skip('needs Chromium')
  def picture(**how):
    return Image.open(io.BytesIO(screenshot.take(page, **how)))

  whole = picture(width=400, dark=True)
  assert whole.size == (400, 3050) and whole.getpixel((5, 5)) == (0, 0, 0)
  # With a margin, that ends where the page does.
  part = picture(width=700, element='#part', density=2)
  assert part.size == (2 * (100 + 16), 2 * (16 + 50 + 16))
  assert part.getpixel((5, 5)) == (255, 255, 255)
  with pytest.raises(errors.InputError, match='no such element'):
    picture(element='#absent')


def test_what_is_missing_is_named(page, monkeypatch):
  with pytest.raises(errors.InputError, match='no such file'):
    screenshot.take(page.parent / 'absent.html')
  monkeypatch.setattr(chromium, 'program', lambda: None)
  with pytest.raises(errors.InputError, match='apt-get install chromium'):
    screenshot.take(page)
