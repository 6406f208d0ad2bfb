r"""Builds the on-policy corpus of one round, or its pairs, for any trainer.

python -m experiments.curate --config configs/idft.py --out corpus.jsonl
python -m experiments.curate --config configs/idft.py --out corpus.parquet \
    --config.data.path=my.jsonl --config.model.path=MODEL
python -m experiments.curate --config configs/dpo.py --out pairs.parquet

Writes one conversation a line, {"messages": [...], "id", "source", "phi"}; with
--out corpus.parquet one a row. A config of a loss of pairs, configs/dpo.py, writes
one pair a line, {"prompt": [...], "chosen": [...], "rejected": [...], "id"}. What was
sampled on the way, wrong answers too, stays in the folder beside it, from which an
interrupted call resumes.
"""

from typing import Any

from absl import flags

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import tables
from ddt_jax.rounds import counts
from ddt_jax.rounds import curate
from ddt_jax.rounds import pair_corpus
from ddt_jax.rounds import pairs
from experiments.run import curation
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import workdir


def execute(c, out: str) -> curate.Corpus | pair_corpus.PairCorpus:
  """Makes or completes the corpus; the whole command, also for notebooks.

  Args:
    c: the config, see configs/idft.py; its `rounds` is taken for 1.
    out: the file to write; Parquet if its name ends so, else JSON lines.

  Returns:
    The corpus, or the pairs, in the file.
  """
  c = c.copy_and_resolve_references()  # the caller's config stays as it is
  c.rounds = 1  # of all problems
  out = storage.path(out)
  with lifecycle.explained_errors(errors.InputError):
    if out.suffix.lower() not in ('.jsonl', '.parquet'):
      raise errors.InputError(f'--out={out}: its name must end in .jsonl or .parquet')
  folder = out.parent / f'{out.name}.shards'
  with workdir.owned(c, folder, inputs.make_untrained) as s:
    with lifecycle.explained_errors(
        errors.InputError, curation.NothingAccepted
    ):
      corpus = curation.corpus_of_round(c, s, 0, s.params, folder, step=0)
    processes.from_first(tables.write, out, rows(corpus))
  asked = bool(c.curate.samples) or c.hint.enabled
  print(f'{out}: {described(corpus.summary, asked)}')
  held = [len(s.corpus.validation), len(s.corpus.evaluation.get('evaluation', ()))]
  if c.data.path and any(held):
    print(f'not in the file: problems held out for validation ({held[0]}) and'
          f' evaluation ({held[1]}); with --config.data.validation=0'
          ' --config.data.evaluation=0 it has all')
  return corpus


def rows(corpus: curate.Corpus | pair_corpus.PairCorpus) -> list[dict[str, Any]]:
  """Conversations, or pairs, in the format of other trainers."""
  if isinstance(corpus, pair_corpus.PairCorpus):
    return [
        pairs.to_chat(*row)
        for row in zip(corpus.pairs, corpus.problems, strict=True)]
  return [
      curate.to_chat(*row)
      for row in zip(corpus.responses, corpus.problems, strict=True)]


def described(summary: counts.RoundSummary, asked: bool = True) -> str:
  """Says how many problems gave a response, or pairs.

  Args:
    summary: of the round.
    asked: whether the config asks the model for answers or rewritings.
  """
  if summary.pairs:
    long = summary.dropped['too long']
    return f'{summary.pairs}' + (f'; {long} pairs left out as too long' if long else '')
  solved, projected = summary.solved, ''
  if n := solved.get('projected'):
    projected = f'{n} by projection, '
  examples = sum(source.examples for source in summary.sources.values())
  said = (
      f'{examples} of {summary.problems} problems;'
      f' {solved["own"]} solved by the model itself, {solved["hinted"]} by'
      f' hinting, {projected}{solved["reference"]} given as references')
  if long := summary.dropped.get('too long'):
    said += f'; {long} texts left out as longer than data.max_tokens'
  if asked and examples and not solved['own'] + solved['hinted'] + solved.get('projected', 0):
    tried = summary.own.responses + summary.hinted.responses + summary.hinted.skipped
    said += '\nwarning: nothing in it is by the model. ' + (
        'No answer of its own and no rewriting was both right and complete' if tried
        else 'No problem has an answer to verify, so nothing was sampled or rewritten')
  return said


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  flags.DEFINE_string(
      'out', 'corpus.jsonl', 'The file to write: .parquet, or JSON lines.')
  lifecycle.launch(lambda: execute(flags.FLAGS.config, flags.FLAGS.out))
