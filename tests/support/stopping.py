"""Runs a training command that is asked to stop while it answers for a validation.

`python -m tests.support.stopping N MODULE FLAGS`: SIGTERM comes as the N-th
validation of the call begins to answer, N from 1.
"""

import itertools
import os
import runpy
import signal
import sys

from ddt_jax.rounds import evaluate


def main():
  which, module = int(sys.argv.pop(1)), sys.argv.pop(1)
  accuracy, calls = evaluate.accuracy, itertools.count(1)

  def stopped(*args, work=None, **options):
    # Evaluation has a folder for its answers, validation has none.
    if work.folder is None and next(calls) == which:
      os.kill(os.getpid(), signal.SIGTERM)
    return accuracy(*args, work=work, **options)

  evaluate.accuracy = stopped
  runpy.run_module(module, run_name='__main__')


if __name__ == '__main__':
  main()
