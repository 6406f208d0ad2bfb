r"""Accuracy of a model on the evaluation problems of a config.

python -m experiments.evaluate --config configs/idft.py --config.model.path=DIR
"""

from absl import app
from absl import flags
import jax
from ml_collections import config_flags

from ddt_jax.rounds import evaluate
from experiments.run import inputs
from experiments.run import lifecycle


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  c = flags.FLAGS.config
  with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
    s = inputs.make(c)
    if not s.corpus.evaluation:
      raise ValueError(
          'nothing to evaluate on: data.evaluation is 0, or no held-out problem'
          ' has an answer'
      )
  options = c.evaluation.to_dict()
  options.pop('problems')
  for split, problems in s.corpus.evaluation.items():
    found = evaluate.accuracy(
        s.params, s.config, s.tokenizer, problems, key=jax.random.key(c.seed),
        **s.decoding, **options,
    )
    print(f'{split}: {_in_words(found)}')


def _in_words(found: evaluate.SplitAccuracy) -> str:
  shares = ', '.join(
      f'{name} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]'
      for name, share in (
          ('pass@1', found.pass_at_1), ('avg@k', found.avg_at_k)) if share
  )
  return (
      f'{shares}; {found.problems} problems, k = {found.samples},'
      f' {found.abstained} abstained, {found.unfinished} unfinished,'
      f' {found.mean_tokens:.0f} tokens an answer'
  )


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  app.run(main)
