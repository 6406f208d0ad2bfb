r"""Accuracy of a model on the evaluation problems of a config.

python -m experiments.evaluate --config configs/idft.py
python -m experiments.evaluate --config configs/idft.py \
    --config.model.path=runs/idft/model --config.evaluation.samples=0
python -m experiments.evaluate --config configs/idft.py --config.model.path=MODEL \
    --config.data.evaluation_path=test.jsonl --config.data.path=my.jsonl

Prints a line for each split. The workdir gets every answer with its verdict,
<split>.jsonl, and lets an interrupted call resume.
"""

from absl import flags
import jax

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.rounds import evaluate
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import workdir


def main():
  c = flags.FLAGS.config
  folder = storage.path(
      flags.FLAGS.workdir or workdir.default_folder('evaluate', c))
  with workdir.owned(c, folder, checked_inputs) as s:
    # Other weights at the same path must not get the answers of these.
    made_from = {'seed': c.seed, 'parameters': inputs.fingerprint(s.params)}
    with lifecycle.explained_errors(errors.InputError):
      found = evaluate.by_split(
          s.params, s.config, s.tokenizer, s.corpus.evaluation,
          key=jax.random.key(c.seed), verifier=c.verifier, folder=folder,
          made_from=made_from, check_stop=lifecycle.check_stop, **s.decoding,
          **c.evaluation)
  for split, measured in found.items():
    print(f'{split}: {in_words(measured)}')
  print(f'Answers: {folder}/*.jsonl')


def checked_inputs(c) -> inputs.Inputs:
  """Inputs of the config; InputError where there is nothing to evaluate on."""
  s = inputs.make_untrained(c)
  # Without this the command would print nothing and succeed.
  if not s.corpus.evaluation or not c.evaluation.problems:
    raise errors.InputError(
        'nothing to evaluate on: evaluation.problems or data.evaluation is 0,'
        ' or no held-out problem has an answer'
    )
  return s


def in_words(measured: evaluate.SplitAccuracy) -> str:
  """One line: accuracies with their intervals, and how the answers look."""
  shares = ', '.join(
      f'{name} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]'
      for name, share in (
          ('pass@1', measured.pass_at_1), ('avg@k', measured.avg_at_k)) if share
  )
  return (
      f'{shares}; {measured.problems} problems, k = {measured.samples},'
      f' {measured.abstained} abstained, {measured.unfinished} unfinished,'
      f' {measured.mean_tokens:.0f} tokens an answer'
  )


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', 'Folder of the answers; default runs/evaluate/NAME-HASH, by the'
      ' config.')
  lifecycle.launch(main)
