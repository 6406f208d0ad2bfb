"""`--help` of a command: its docstring, its own flags, and where fields are."""

import re
import sys
import textwrap

from absl import flags

HELP = ('--help', '-help', '-h', '-?', '--helpshort', '-helpshort')
_INDENT = ' ' * 6


def is_asked(argv: list[str]) -> bool:
  """Whether a command line asks for help and not for work."""
  words = argv[1:argv.index('--')] if '--' in argv else argv[1:]
  return any(word in HELP for word in words)


def text(doc: str, values: flags.FlagValues) -> str:
  """Returns the help of a command.

  Args:
    doc: its docstring: what it does, and examples.
    values: all flags; those of libraries are left out.
  """
  lines = [doc.strip(), '', 'Flags:', '']
  for flag in own(values):
    if flag.name == 'config':  # with the fields, below
      continue
    value = '' if flag.boolean else '=' + ('|'.join(
        getattr(flag.parser, 'enum_values', None) or ()) or 'VALUE')
    no = '[no]' if flag.boolean else ''
    default = (flag.default_as_str or '').strip("'")
    help_text = re.sub('^<.*?>: ', '', flag.help)  # absl's list of an enum's values
    help_text += f' (default: {default})' if default else ''
    lines.append(f'  --{no}{flag.name}{value}')
    lines += textwrap.wrap(help_text, 84, initial_indent=_INDENT,
                           subsequent_indent=_INDENT)
  if 'config' in values:
    default = values['config'].default_as_str.strip("'")
    lines += [
        '  --config=FILE[:PRESET]',
        f'{_INDENT}All options, with a comment each. (default: {default}) Presets:'
        ' configs/README.md.',
        '  --config.SECTION.FIELD=VALUE',
        f'{_INDENT}Changes an option. configs/OPTIONS.md explains every field.',
    ]
  lines += ['', '--helpfull prints the flags of libraries as well.']
  return '\n'.join(lines)


def own(values: flags.FlagValues) -> list[flags.Flag]:
  """Flags of the command itself and of our modules, by name."""
  found = {}
  for module, some in values.flags_by_module_dict().items():
    # absl calls the main module by the path of its file.
    if module == sys.argv[0] or module.startswith('experiments.'):
      found |= {flag.name: flag for flag in some}
  return [found[name] for name in sorted(found)]
