r"""Is this data on-policy for my model?

python -m experiments.score --config configs/score.py \
    --config.data.path=my.jsonl [--config.model.path=DIR] [--workdir DIR]

Writes for each input a folder of scores (Parquet and JSON lines, with the rows'
own columns) and, over all of them, report.html, plots/ and summary.json. A second
call with the same workdir resumes. With --config.calibrate=True it first tests
itself on the model's own samples, and ends with status 1 if these are not taken
for such.
"""

import sys

from absl import app
from absl import flags

from ddt_jax import processes
from ddt_jax import report
from ddt_jax import storage
from ddt_jax.report import scores
from ddt_jax.scoring import calibration
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import scoring
from experiments.run import workdir

_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'The folder; default runs/<config.name>/<names of the inputs>.')


def default_workdir(c) -> str:
  inputs = (c.data.paths or c.data.path).split(',')
  stems = [storage.path(x.strip()).stem for x in inputs if x.strip()]
  return f'runs/{c.name}/{"+".join(stems) or "calibration"}'


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  c = flags.FLAGS.config
  folder = storage.path(_WORKDIR.value or default_workdir(c))
  with workdir.owned(c, folder, scoring.make) as s:
    # What a row is found to be on the way, and what the model makes of it.
    with lifecycle.explained_errors(
        ValueError, FloatingPointError, processes.FirstFailed
    ):
      run = scoring.Scoring(c, folder, s)
      sound = not c.calibrate or calibrate(run)
      corpora = {name: run.corpus(name) for name in s.files}
      if corpora:
        summary, examples = run.summary(corpora), run.examples(corpora)
        print(processes.from_first(
            lambda: scores.write(folder, summary, examples)))
  sys.exit(0 if sound else 1)


def calibrate(run: scoring.Scoring) -> bool:
  """Prints the self-test; whether it was passed."""
  found = run.calibrate()
  sound = calibration.passed(found['checks'])
  print('The self-test, on the model\'s own samples:\n')
  print(report.aligned(calibration.checks_table(found['checks'])))
  print('\nOwn samples rejected at 5 %, by length:\n')
  print(report.aligned(calibration.false_positives_table(found['by_length'])))
  for name, checks in found['controls'].items():
    print(f'\nControl, to be rejected: {name}\n')
    print(report.aligned(calibration.checks_table(checks)))
    sound &= not calibration.passed(checks)
  print('\nThe scores can be trusted.\n' if sound else
        '\nThe self-test failed: do not trust the scores. Wrong tokenizer, chat'
        ' template, dtype or mask?\n', flush=True)
  return sound


if __name__ == '__main__':
  options.define_config('configs/score.py')
  app.run(main)
