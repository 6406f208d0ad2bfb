r"""Is this data on-policy for my model? Phi of any texts, with a verdict.

python -m experiments.score --config configs/score.py --config.data.path=my.jsonl \
    --config.model.path=MODEL
python -m experiments.score --config configs/score.py \
    --config.data.paths=a.jsonl,b.jsonl,own
python -m experiments.score --config configs/score.py --config.calibrate=True

Writes one folder of scores for each input (Parquet and JSON lines, with the rows'
own columns), and report.html, plots/ and summary.json for all of them. A second
call with the same workdir resumes. `own` are samples of the model itself. With
--config.calibrate=True the command first tests itself on the model's own samples;
it exits with status 1 if they fail.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags
import jax
import tqdm

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.report import scores
from ddt_jax.report import scores_advice
from ddt_jax.report import scores_examples
from ddt_jax.report import scores_words
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import controls
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import filters
from ddt_jax.scoring import forward
from ddt_jax.scoring import own_samples
from ddt_jax.scoring import sample_size
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import sources
from ddt_jax.storage import typed_json
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import score_inputs
from experiments.run import workdir

_TOP = 5  # likeliest tokens shown at each place
_EXAMPLES = 128  # scored at a time for the page


def execute(c, folder: str) -> tuple[bool, str]:
  """Scores or resumes scoring; the whole command, also for notebooks.

  Args:
    c: the config, see configs/score.py.
    folder: of the scores, local or gs://.

  Returns:
    Whether the self-test passed, True without one; and the report as text.
  """
  folder, text = storage.path(folder), ''
  with workdir.owned(c, folder, score_inputs.make) as s:
    # Some mistakes show late: a bad row far down in a file, weights with NaN.
    with lifecycle.explained_errors(errors.InputError, processes.FirstFailed):
      # The self-test, before any score is trusted.
      sound = not c.calibrate or self_test(c, folder, s)

      # Scores: a folder for each input.
      corpora = {}
      for i, (name, file) in enumerate(s.files.items()):
        if file is None:
          corpora[name] = scored(
              c, folder / score_inputs.OWN, s, own(c, folder, s, c.own.samples))
        else:
          corpora[name] = scored(c, folder / f'{i}-{score_inputs.stem(name)}', s, file)

      # Summary and page.
      if corpora:
        summary = summarise(
            c, folder, corpora, sum(x.size for x in jax.tree.leaves(s.params)))
        shown = examples(c, s, corpora)
        text = processes.from_first(scores.write, folder, summary, shown)
        text += processes.from_first(kept, c, corpora)
  return sound, text


def main():
  c = flags.FLAGS.config
  folder = flags.FLAGS.workdir or default_workdir(c)
  sound, text = execute(c, folder)
  print(text)
  if text:
    print(f'Rows with their scores: {folder}/*/*.jsonl and .parquet')
  sys.exit(0 if sound else 1)


def default_workdir(c) -> str:
  """runs/<config.name>/<names of the inputs>, with the model's name but the toy's."""
  stems = '+'.join(map(score_inputs.stem, score_inputs.input_names(c)))
  model = pathlib.Path(c.model.path).name
  by = '' if c.model.path == scores_advice.EMBEDDED else f'-by-{model}'
  return f'runs/{c.name}/{stems or "calibration"}{by}'


# Scores ------------------------------------------------------------------------


def own(c, folder, s: score_inputs.Inputs, samples: int) -> sources.Samples:
  """So many of the model's own answers to the prompts of the files."""
  return own_samples.draw(
      s.params, s.config, s.tokenizer, s.problems, samples=samples,
      folder=folder / f'drawn-{samples}', made_from=made_from(c),
      key=jax.random.key(c.seed), max_new_tokens=c.own.max_new_tokens,
      temperature=c.temperature, max_tokens=s.max_tokens, decoding=s.decoding,
      check_stop=lifecycle.check_stop)


def scored(
    c, folder: os.PathLike, s: score_inputs.Inputs, source: sources.Source,
    size: int = 0
) -> scored_corpus.ScoredCorpus:
  """The scores of all rows, in a folder; `size` rows a file, 0: config.shard."""
  corpus = scored_corpus.ScoredCorpus(
      folder, source, size=size or c.shard, made_from=made_from(c),
      prefix=c.write.prefix)
  with tqdm.tqdm(total=source.count, desc=f'score {source.name}') as bar:
    def after(rows):
      bar.update(rows)
      lifecycle.check_stop()

    corpus.score(
        lambda some: s.dispatch(s.params, examples=some, tail=True),
        seed=c.seed, after=after, after_batch=lifecycle.check_stop)
  return corpus


def made_from(c) -> dict[str, Any]:
  """Everything that scores depend on besides the rows."""
  return {'config': workdir.config_hash(c)}


def summarise(
    c, folder: os.PathLike, corpora: Mapping[str, scored_corpus.ScoredCorpus],
    parameters: int
) -> corpus_summary.ScoresSummary:
  """The numbers of all corpora, also as summary.json."""
  numbers = processes.from_first(
      lambda: typed_json.plain(corpus_summary.summarise(
          corpora, model=c.model.path, parameters=parameters,
          temperature=c.temperature, source=c.data.source,
          own=score_inputs.OWN if score_inputs.OWN in corpora else '',
          options=score_inputs.columns_given(c))))
  workdir.Workdir(folder).publish('summary', json.dumps(numbers, indent=1))
  return typed_json.parse(numbers, corpus_summary.ScoresSummary)


def kept(c, corpora: Mapping[str, scored_corpus.ScoredCorpus]) -> str:
  """Writes the rows that write.keep keeps, and says how many they are."""
  lines = []
  for name, corpus in corpora.items() if c.write.keep else ():
    if name != score_inputs.OWN:
      file = corpus.folder / 'kept.jsonl'
      some, rows = filters.write(corpus, c.write.keep, file)
      lines.append(f'{name}: {c.write.keep} keeps {some:,} of {rows:,} rows: {file}\n')
  return ''.join(lines)


def examples(
    c, s: score_inputs.Inputs, corpora: Mapping[str, scored_corpus.ScoredCorpus]
) -> list[scores_examples.ScoredResponse]:
  """Responses for the page, scored again for the likeliest tokens."""
  shown = []
  for name, corpus in corpora.items():
    # Process 0 has the files; all need the same choice, as scoring runs on all of
    # them.
    kinds = processes.from_first(
        lambda corpus=corpus: corpus_summary.choose(
            corpus.columns('phi')['phi'], c.report.examples // len(corpora),
            c.seed))
    chosen = [(kind, i) for kind, some in kinds.items() for i in some]
    found = corpus.examples([i for _, i in chosen])
    stats = []
    for first in range(0, len(found), _EXAMPLES):
      block = [example for _, example in found[first:first + _EXAMPLES]]
      stats += forward.split(
          *s.dispatch(s.params, examples=block, top_k=_TOP).collect())
      lifecycle.check_stop()
    shown += [
        scores_examples.ScoredResponse.of(
            s.tokenizer, name, kind, row, corpus.prefix, example, of_tokens,
            most=c.report.tokens, source=c.data.source)
        for (kind, _), (row, example), of_tokens in zip(
            chosen, found, stats, strict=True)
    ]
  return shown


# The self-test -----------------------------------------------------------------


def self_test(c, folder, s: score_inputs.Inputs) -> bool:
  """Prints the self-test; returns whether the scores can be trusted."""
  length, size = max(c.calibration.lengths), test_size(c, folder, s)
  samples = own_samples.draw(
      s.params, s.config, s.tokenizer, s.problems, samples=size.samples,
      endless=True, block=size.block,
      folder=folder / 'calibration-drawn', made_from=made_from(c),
      # Another key than `own`: these must not be the beginnings of the same
      # samples.
      key=jax.random.key(c.seed + 1), max_new_tokens=length,
      temperature=c.temperature, max_tokens=s.max_tokens, decoding=s.decoding,
      check_stop=lifecycle.check_stop)
  corpus = scored(c, folder / 'calibration', s, samples, size.block)
  texts = calibration.Texts.of(corpus, s.decoding['eos_ids'])
  test = calibration.self_test(texts)
  print('Self-test on the model\'s own samples:\n')
  print(table.aligned(scores_words.self_test_table(test)))
  print('\nFalse positives: own samples rejected at 5 %, by length:\n')
  print(table.aligned(scores_words.false_positives_table(
      calibration.false_positives(
          texts.stats, texts.pit, c.calibration.lengths))))
  told = True
  if c.calibration.controls:
    found = {
        f'weights with {100 * c.calibration.noise:.0f} % noise': controls.noisy_weights(
            s.params, texts, samples.prompts, s.dispatch,
            noise=c.calibration.noise, seed=c.seed,
            check_stop=lifecycle.check_stop),
        'a mask shifted by one token': controls.shifted_mask(
            s.params, texts, samples.prompts, s.dispatch, seed=c.seed)}
    told = any(control.is_told for control in found.values())
    print('\nControls, which the self-test has to tell from own samples:\n')
    print(table.aligned(scores_words.controls_table(found)))
  print(f'\n{scores_words.conclusion(test, told)}\n', flush=True)
  return test.passed and told


def test_size(c, folder, s: score_inputs.Inputs) -> sample_size.Size:
  """Samples of the self-test; says how long they take.

  The measured time decides, so the number is kept for a resumed call.
  """
  length = max(c.calibration.lengths)

  def measured():
    prompts = [
        chat.encode_prompt(s.tokenizer, p.conversation[:-1])
        for p in s.problems[:100]]
    each = sample_size.seconds_per_text(
        s.params, s.config, prompts, s.dispatch, length=length,
        scored=2 if c.calibration.controls else 1, decoding=s.decoding)
    return dataclasses.asdict(sample_size.choose(
        each, minutes=c.calibration.minutes, samples=c.calibration.samples))

  found = workdir.Workdir(folder).once('self-test-size', measured)
  del found['seconds']  # that measuring took
  size = sample_size.Size(**found)
  print(f'Self-test: {size.samples:,} own samples of {length} tokens; expected to'
        f' take {table.duration(size.expected_s)}'
        ' (--config.calibration.samples=N takes N)\n', flush=True)
  return size


if __name__ == '__main__':
  options.define_config('configs/score.py')
  flags.DEFINE_string('workdir', '', 'Default runs/<config.name>/<inputs>.')
  lifecycle.launch(main)
