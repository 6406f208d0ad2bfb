r"""Is this data on-policy for my model?

python -m experiments.score --config configs/score.py \
    --config.data.path=my.jsonl [--config.model.path=DIR] [--workdir DIR]

Writes one folder of scores for each input (Parquet and JSON lines, with the rows'
own columns), and report.html, plots/ and summary.json for all of them. A second
call with the same workdir resumes. With --config.calibrate=True the command first
tests itself on the model's own samples; it exits with status 1 if they fail.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import sys
from typing import Any

from absl import flags
import jax
import tqdm

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import report
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.report import scores
from ddt_jax.report import scores_examples
from ddt_jax.report import scores_words
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import forward
from ddt_jax.scoring import own_samples
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import sources
from ddt_jax.storage import typed_json
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import workdir

OWN = 'own'  # stands for the model's own samples among the inputs
_TOP = 5  # likeliest tokens shown at each place
_EXAMPLES = 128  # scored at a time for the page


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of scoring, checked before any work.

  Attributes:
    mesh, tokenizer, config, params: the model, and the mesh of scoring.
    files: name -> rows, in the user's order; None for own samples.
    problems: the prompts that own samples answer.
    max_tokens: of prompt and response together.
    dispatch: (params, examples=...) -> Pending, see `forward.dispatch`.
    decoding: options of `engine.generate`.
  """

  mesh: jax.sharding.Mesh
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  files: dict[str, sources.File | None]
  problems: list[records.Problem]
  max_tokens: int
  dispatch: calibration.Dispatch
  decoding: dict[str, Any]


def execute(c, folder: str) -> tuple[bool, str]:
  """The command, for notebooks too: (self-test passed or not asked for, report)."""
  folder, text = storage.path(folder), ''
  with workdir.owned(c, folder, make_inputs) as s:
    # Some mistakes show late: a bad row far down in a file, weights with NaN.
    with lifecycle.explained_errors(errors.InputError, processes.FirstFailed):
      # The self-test, before any score is trusted.
      sound = not c.calibrate or self_test(c, folder, s)

      # Scores: a folder for each input.
      corpora = {}
      for i, (name, file) in enumerate(s.files.items()):
        if file is None:
          corpora[name] = scored(
              c, folder / OWN, s, own(c, folder, s, c.own.samples))
        else:
          corpora[name] = scored(c, folder / f'{i}-{stem(name)}', s, file)

      # Summary and page.
      if corpora:
        summary = summarise(c, folder, corpora)
        shown = examples(c, s, corpora)
        text = processes.from_first(scores.write, folder, summary, shown)
  return sound, text


def main():
  c = flags.FLAGS.config
  sound, text = execute(c, flags.FLAGS.workdir or default_workdir(c))
  print(text)
  sys.exit(0 if sound else 1)


def default_workdir(c) -> str:
  """runs/<config.name>/<names of the inputs>."""
  stems = '+'.join(map(stem, input_names(c)))
  return f'runs/{c.name}/{stems or "calibration"}'


def stem(name: str) -> str:
  """The name of an input as part of a folder's name."""
  # org/name:config:split of the hub: not every file system takes a colon.
  return storage.path(name).stem.replace(':', '-')


def input_names(c) -> list[str]:
  """Paths of the inputs, as the user gave them."""
  names = (c.data.paths or c.data.path).split(',')
  return [name.strip() for name in names if name.strip()]


# Inputs ------------------------------------------------------------------------


def make_inputs(c) -> Inputs:
  """Reads the model and looks through the files.

  Raises:
    errors.InputError: an option, the model or a file cannot be used.
  """
  mesh = sharding.make_mesh(**c.mesh)
  names = input_names(c)
  check_options(c, names)
  tokenizer, config, params = inputs.load_model(mesh, **c.model)
  end = chat.turn_end(tokenizer, config.eos_ids)
  max_tokens = c.data.max_tokens or config.max_positions
  inputs.check_positions(max_tokens, config)
  paths = [name for name in names if name != OWN]
  short = [storage.path(path).name for path in paths]
  # Prompts of own samples are drawn from all files alike.
  most = max(c.own.samples, c.calibration.samples if c.calibrate else 0)
  sample = -(-most // max(len(paths), 1))
  files = {}
  for name in names:
    if name == OWN:
      files[name] = None
      continue
    stem = storage.path(name).name
    files[name if short.count(stem) > 1 else stem] = open_file(
        c, name, sample, tokenizer=tokenizer, end=end,
        vocab_size=config.vocab_size, max_tokens=max_tokens)
  prompts = [p for file in files.values() if file for p in file.found.sample]
  if OWN in names or c.calibrate:
    prompts = inputs.renderable(tokenizer, prompts, c.data.bad_rows)
  if not prompts and c.model.path == 'embedded':
    prompts = list(problems.problems('validation', 500))
  if not prompts:
    raise errors.InputError(
        'own samples answer the prompts of your files: name a file in'
        ' --config.data.paths too')
  # Rows are spread over these axes; devices of the tensor axis share a row.
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  dispatch = functools.partial(
      forward.dispatch, config=config, mesh=mesh, batch=devices,
      tokens=c.batch.tokens * devices, temperature=c.temperature)
  return Inputs(
      mesh, tokenizer, config, params, files, prompts, max_tokens, dispatch,
      inputs.decoding_options(mesh, config, end, **c.decoding))


def check_options(c, names: list[str]) -> None:
  """Raises errors.InputError naming an option that cannot be used."""
  if not names and not c.calibrate:
    raise errors.InputError(
        'nothing to score: --config.data.path=FILE, or --config.data.paths=A,B,own')
  if len(set(names)) < len(names):
    raise errors.InputError(
        f'data.paths names an input twice: {", ".join(names)}')
  if c.temperature <= 0:
    raise errors.InputError(f'temperature must be positive, not {c.temperature}')
  for name, value in (
      ('own.samples', c.own.samples), ('shard', c.shard),
      ('calibration.samples', c.calibration.samples),
      ('batch.tokens', c.batch.tokens)):
    if value < 1:
      raise errors.InputError(f'{name}={value}: at least 1')
  lengths = c.calibration.lengths
  if not lengths or not all(isinstance(n, int) and n > 0 for n in lengths):
    raise errors.InputError(
        f'calibration.lengths={lengths}: numbers of tokens, e.g. (16,64)')


def open_file(
    c, path: str, sample: int, **model_options: Any
) -> sources.File:
  """Counts the rows of a file and keeps a sample of its problems.

  Args:
    c: the config.
    path: of the file.
    sample: problems to keep.
    **model_options: tokenizer, end, vocab_size and max_tokens of `sources.File`.
  """
  # Nothing is verified here, and two rows may have the same id.
  columns = c.data.columns.to_dict() | {'answer': '', 'id': ''}
  reading = {'question': c.data.question}
  found = census.take(
      path, columns=columns, bad_rows=c.data.bad_rows, sample=sample,
      seed=c.seed, **reading)
  print(f'{path}: {found.rows:,} rows, {found.bad:,} of them bad', flush=True)
  return sources.File(
      path, columns, reading, found, overlong=c.data.overlong,
      bad_rows=c.data.bad_rows, split_turns=c.data.split_turns, **model_options)


# Scores ------------------------------------------------------------------------


def own(c, folder, s: Inputs, samples: int) -> sources.Samples:
  """So many of the model's own answers to the prompts of the files."""
  return own_samples.draw(
      s.params, s.config, s.tokenizer, s.problems, samples=samples,
      folder=folder / f'drawn-{samples}', made_from=made_from(c),
      key=jax.random.key(c.seed), max_new_tokens=c.own.max_new_tokens,
      temperature=c.temperature, max_tokens=s.max_tokens, decoding=s.decoding,
      check_stop=lifecycle.check_stop)


def scored(
    c, folder: os.PathLike, s: Inputs, source: sources.Source
) -> scored_corpus.ScoredCorpus:
  """The scores of all rows, in a folder."""
  corpus = scored_corpus.ScoredCorpus(
      folder, source, size=c.shard, made_from=made_from(c),
      prefix=c.write.prefix)
  with tqdm.tqdm(total=source.count, desc=f'score {source.name}') as bar:
    def after(rows):
      bar.update(rows)
      lifecycle.check_stop()

    corpus.score(
        lambda some: s.dispatch(s.params, examples=some, tail=True),
        seed=c.seed, after=after)
  return corpus


def made_from(c) -> dict[str, Any]:
  """Everything that scores depend on besides the rows."""
  return {'config': workdir.config_hash(c)}


def summarise(
    c, folder: os.PathLike, corpora: Mapping[str, scored_corpus.ScoredCorpus]
) -> corpus_summary.ScoresSummary:
  """The numbers of all corpora, also as summary.json."""
  numbers = processes.from_first(
      lambda: typed_json.plain(corpus_summary.summarise(
          corpora, model=c.model.path, temperature=c.temperature,
          own=OWN if OWN in corpora else '', source=c.data.source)))
  workdir.Workdir(folder).publish('summary', json.dumps(numbers, indent=1))
  return typed_json.parse(numbers, corpus_summary.ScoresSummary)


def examples(
    c, s: Inputs, corpora: Mapping[str, scored_corpus.ScoredCorpus]
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


def self_test(c, folder, s: Inputs) -> bool:
  """Prints the self-test; returns whether the scores can be trusted."""
  samples = own(c, folder, s, c.calibration.samples)
  corpus = scored(c, folder / 'calibration', s, samples)
  numbers = typed_json.parse(
      processes.from_first(
          lambda: typed_json.plain(corpus_summary.describe(corpus))),
      corpus_summary.CorpusSummary)
  stats, pit = calibration.endless_samples(
      s.params, s.config,
      [chat.encode_prompt(s.tokenizer, p.conversation[:-1]) for p in s.problems],
      s.dispatch, samples=samples.count,
      length=max(c.calibration.lengths),
      # Another key than `own`: these must not be the beginnings of the same
      # samples.
      max_tokens=s.max_tokens, key=jax.random.key(c.seed + 1), seed=c.seed,
      temperature=c.temperature, decoding=s.decoding, block=c.shard)
  test = calibration.SelfTest.of(numbers, calibration.stopped_variance(stats))
  by_length = calibration.false_positives(stats, pit, c.calibration.lengths)

  print('Self-test on the model\'s own samples:\n')
  print(report.aligned(scores_words.self_test_table(test)))
  print('\nFalse positives: own samples rejected at 5 %, by length:\n')
  print(report.aligned(scores_words.false_positives_table(by_length)))
  sound = test.passed
  controls = {}
  if c.calibration.controls:
    controls = calibration.controls(
        s.params, samples, s.dispatch, noise=c.calibration.noise, seed=c.seed,
        block=c.shard)
  for name, control in controls.items():
    print(f'\nControl that must fail: {name}\n')
    print(report.aligned(scores_words.self_test_table(control)))
    sound &= not control.passed
  print('\nThe scores can be trusted.\n' if sound else
        '\nThe self-test failed: do not trust the scores. Check the tokenizer,'
        ' the chat template, the dtype and the mask.\n', flush=True)
  return sound


if __name__ == '__main__':
  options.define_config('configs/score.py')
  flags.DEFINE_string('workdir', '', 'Default runs/<config.name>/<inputs>.')
  lifecycle.launch(main)
