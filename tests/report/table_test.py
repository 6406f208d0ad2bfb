"""Tables as plain text and as Markdown."""

from ddt_jax.report import table

CELLS = table.Table(
    ['split', 'share', 'outcome'],
    [['target', '51.0', 'rose'], ['b|c', '7.5', 'within noise']], words=(0, 2))


def test_words_are_left_and_numbers_right():
  assert table.aligned(CELLS).split('\n') == [
      'split   share  outcome',
      '---------------------------',
      'target   51.0  rose',
      'b|c       7.5  within noise']


def test_markdown_has_one_cell_a_column():
  assert table.markdown_table(CELLS).split('\n') == [
      '| split | share | outcome |', '| :-- | --: | :-- |',
      '| target | 51.0 | rose |', '| b&#124;c | 7.5 | within noise |']


def test_what_markdown_would_interpret_is_escaped():
  for text in ('<b>', '**x**', '[a](b)', '`c`', '@name', ':tada:', ':100:', 'http://x',
               '# h', 'a|b', '$x$', '~~s~~', '\\n', '&amp;'):
    escaped = table.escape(text)
    assert not set('<>*[]`@#|$~\\') & set(escaped.replace('&#', ''))
    assert '://' not in escaped and ':tada' not in escaped
  for text in ('_x_', 'a _b', 'a_ b', '__c__', '[1, 2](a)', '[1, 2][a]', '[1]'):
    assert not set('_[]') & set(table.escape(text)), text
  for text in ('a@b: c', 'hd_sft', 'a_b_1', '07:58:29', '88.0 [83.8%, -91.2%]'):
    assert table.escape(text) == text
  assert table.escape('one\n two') == 'one two'


def test_durations():
  assert [table.duration(s) for s in (0, 59.94, 59.96, 3599.4, 3600)] == [
      '0.0 s', '59.9 s', '1 min 0 s', '59 min 59 s', '1 h 0 min']


def test_control_characters_are_visible():
  assert table.visible('a\n\tb\x1b') == 'a\u21b5\u21e5b\\x1b'
