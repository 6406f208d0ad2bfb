"""`python -m experiments`, --help, and the page of all options."""

import doctest
import importlib
import re

from absl import flags
import pytest

from ddt_jax import errors
from experiments import __main__ as listing
from experiments import options_table
from experiments.run import options
from experiments.run import usage
from tests.support import command_sources
from tests.support import commands
from tests.support import paths

# Benchmarks explain themselves by one call.
COMMANDS = [name for name in command_sources.FILES if not name.startswith('bench.')]


def test_the_list_has_every_command_with_a_line():
  found = dict(listing.commands())
  assert found.keys() == command_sources.FILES.keys()
  assert list(found)[:len(listing.FIRST)] == list(listing.FIRST)
  text = listing.listing()
  for line in found.values():
    assert line and len(line) < 90 and f'{line}\n' in text
  for page in re.findall(r'[\w/]+\.md', text):
    assert (paths.ROOT / page).exists()


@pytest.mark.parametrize('words, status, said', [
    ([], 0, 'score'), (['--help'], 0, 'score'),
    (['trian'], 2, "there is no command 'trian'; did you mean train?"),
    (['experiments.train'], 2, 'python -m experiments.train')])
def test_the_list_is_what_a_lost_user_gets(words, status, said, capsys):
  assert listing.main(words) == status
  printed = capsys.readouterr()
  assert said in printed.out + printed.err


def test_the_list_imports_no_jax():
  done = commands.run('experiments', JAX_PLATFORMS='no such platform')
  assert 'train ' in done.stdout and not done.stderr


@pytest.mark.parametrize('name', command_sources.FILES)
def test_examples_of_help_are_calls_that_exist(name):
  found = command_sources.examples(name)
  assert len(found) >= (3 if name in COMMANDS else 1)
  if name == 'tpu_vm':
    return  # argparse; tpu_vm_dry_run_test.py runs them
  known = command_sources.flags(name)
  for words in found:
    text = ' '.join(words)
    config = re.search(r'--config[ =]configs/(\w+)\.py(?::([\w.-]+))?', text)
    fields = ()
    if config:
      made = importlib.import_module(f'configs.{config[1]}').get_config
      fields = dict(options.flat(made(config[2]) if config[2] else made()))
    for flag in re.findall(r'--([\w.]+)', text):
      if flag.startswith('config.'):
        assert flag.removeprefix('config.') in fields
      else:
        assert flag.removeprefix('no') in known or flag in known


def test_help_has_the_flags_of_the_command_and_where_fields_are(monkeypatch):
  values = flags.FlagValues()
  mine = dict(flag_values=values, module_name='command.py')
  flags.DEFINE_enum('which', None, ['last', 'best'], 'Which one.', **mine)
  flags.DEFINE_bool('check', False, 'Only check.', **mine)
  flags.DEFINE_string('config', 'configs/idft.py', 'of the library', **mine)
  flags.DEFINE_string('other', '', 'of a library', flag_values=values,
                      module_name='absl.logging')
  monkeypatch.setattr(usage.sys, 'argv', ['command.py'])
  text = usage.text('Does it.\n\npython -m experiments.train\n', values)
  assert text.startswith('Does it.\n\npython -m')
  assert '--which=last|best\n      Which one.\n' in text
  assert '--[no]check' in text and '(default: false)' in text
  assert '--other' not in text and 'of the library' not in text
  assert '--config=FILE[:PRESET]' in text and 'configs/OPTIONS.md' in text
  assert usage.is_asked(['x', '--help']) and not usage.is_asked(['x', '--', '-h'])


def test_help_is_printed_with_status_0():
  done = commands.run('experiments.train', '--help')
  assert done.stdout.startswith('Rounds of on-policy fine-tuning')
  assert '--workdir' in done.stdout and 'configs/OPTIONS.md' in done.stdout
  assert 'logtostderr' not in done.stdout  # a flag of absl


def test_the_page_of_options_is_what_the_configs_say():
  assert (paths.ROOT / 'configs' / 'OPTIONS.md').read_text() == options_table.page(), (
      'python -m experiments.options_table writes it anew')


def test_the_page_has_every_field_once():
  text = options_table.tables('idft')
  config = importlib.import_module('configs.idft').get_config()
  for field, value in options.flat(config):
    assert text.count(f'| `{field}` | `{value!r}` |') == 1


def test_comments_are_read_as_they_stand():
  found = options_table.documented('''
def part():
  return dict(
      # of the section
      loss=dict(  # and beside it
          a=1,     # one,
                   # on two lines
          # of the next: no part of a's
          b=(2,
             3),   # two
          c=4,
      ),
  )
''')
  assert [tuple(d) for d in found] == [
      ('loss', 'of the section and beside it', True), ('loss.a', 'one, on two lines',
                                                       False),
      ('loss.b', 'two', False), ('loss.c', '', False)]


@pytest.mark.parametrize('module', [options_table, options])
def test_examples_in_docstrings(module):
  failed, attempted = doctest.testmod(module)
  assert attempted and not failed


def test_a_field_without_a_comment_is_refused(monkeypatch):
  without = [options_table.Documented('name', '', False)]
  monkeypatch.setattr(options_table, 'documented', lambda source: without)
  with pytest.raises(errors.InputError, match='no comment beside name, batch.tokens'):
    options_table.tables('score')
