"""Runs a command that keeps what it draws after every few decode steps.

`python -m tests.support.often MODULE FLAGS`: an interruption then finds texts in
the middle of a block, however fast the model is.
"""

import runpy
import sys

from ddt_jax.engine import journaling

STEPS = 4


def main():
  journaling.KEEP_SECONDS = 0.0
  journaling.Journal.steps = lambda self, most: min(most, STEPS)
  module = sys.argv.pop(1)
  runpy.run_module(module, run_name='__main__')


if __name__ == '__main__':
  main()
