r"""The page of a run made anew, or one page that compares several runs.

python -m experiments.report --workdir runs/idft
python -m experiments.report --workdir runs/idft,runs/sft
python -m experiments.report --workdir runs/idft,runs/sft --out idft-sft.html

One folder: report.html, report.md and plots/ in it, also of a run that is not
finished. Several folders: curves over each other, accuracies with their intervals,
and the options in which the runs differ.
"""

from absl import flags

from ddt_jax import errors
from ddt_jax import report
from ddt_jax import storage
from experiments.run import lifecycle


def main():
  folders = flags.FLAGS.workdir
  with lifecycle.explained_errors():
    if not folders:
      raise errors.InputError('no run is named: --workdir=DIR, or --workdir=DIR,DIR')
    if len(folders) == 1:
      print(report.write(folders[0]))
    else:
      print(report.compare(folders, storage.path(flags.FLAGS.out)))


if __name__ == '__main__':  # other commands have a --workdir, too
  flags.DEFINE_list('workdir', [], 'Folder of a run; several by commas.')
  flags.DEFINE_string(
      'out', 'comparison.html', 'The page to write, of several runs.')
  lifecycle.launch(main)
