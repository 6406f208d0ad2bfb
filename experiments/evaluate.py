r"""Accuracy of a model on the evaluation problems of a config.

python -m experiments.evaluate --config configs/idft.py --config.model.path=DIR
"""

from absl import flags
import jax

from ddt_jax import errors
from ddt_jax.rounds import evaluate
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options


def main():
  c = flags.FLAGS.config
  with lifecycle.explained_errors():
    s = inputs.make(c)
    # Without this the command would print nothing and succeed.
    if not s.corpus.evaluation or not c.evaluation.problems:
      raise errors.InputError(
          'nothing to evaluate on: evaluation.problems or data.evaluation is 0,'
          ' or no held-out problem has an answer'
      )
  found = evaluate.by_split(
      s.params, s.config, s.tokenizer, s.corpus.evaluation,
      key=jax.random.key(c.seed), verifier=c.verifier, **s.decoding,
      **c.evaluation)
  for split, measured in found.items():
    print(f'{split}: {in_words(measured)}')


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
  lifecycle.launch(main)
