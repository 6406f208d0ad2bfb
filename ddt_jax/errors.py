"""The one exception for mistakes in what a user gave."""


class InputError(ValueError):
  """An option, a file or a row cannot be used as it is.

  Commands print its message as one line and exit with status 2. Any other
  exception is a bug of ours and keeps its traceback. The message names the
  file and line, or the option, and says what to change.
  """
