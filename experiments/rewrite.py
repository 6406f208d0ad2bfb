r"""Hinted Decoding of the problems that a model fails, at several strengths.

python -m experiments.rewrite --config configs/idft.py
python -m experiments.rewrite --config configs/idft.py --problems=50 --betas=0,3
python -m experiments.rewrite --config configs/idft.py --sweeps=0 \
    --config.model.path=MODEL --config.data.path=my.jsonl

Rewrites the reference solutions of training problems whose greedy answer is
wrong, at several strengths of the student's share (beta), and prints as Markdown
how often the verifier accepts them and how natural they are to the model. Rows
for the references and for the model's own samples stand beside them, and one for
the ends of exact chains that begin at accepted texts of the last beta. The workdir
gets every text with its analysis and its verdict, and lets an interrupted call
resume.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

from absl import flags
import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import significance
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import from_hints
from ddt_jax.rounds import leaks
from ddt_jax.rounds import select
from ddt_jax.rounds import stages
from ddt_jax.scoring import forward
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.run import workdir

_PROBLEMS = flags.DEFINE_integer('problems', 500, 'Failed problems, at most.')
_SWEEPS = flags.DEFINE_integer(
    'sweeps', 8, 'Moves of each exact chain, see ddt_jax.projection; 0: no row.')
_BETAS = flags.DEFINE_list('betas', ['0', '1', '3', '6'], 'hint.beta of rows.')

COPIED = 8  # a run of so many tokens of the reference is a leak

HEADER = (
    '| text | accepted, % | mean phi | tokens | leaks, % | skipped, % |\n'
    '|---|---:|---:|---:|---:|---:|'
)


def copies(tokens: Sequence[int], reference: Sequence[int]) -> bool:
  """Whether a text has `COPIED` tokens of the reference in a row."""
  runs = {tuple(reference[i: i + COPIED])
          for i in range(len(reference) - COPIED + 1)}
  return any(
      tuple(tokens[i: i + COPIED]) in runs
      for i in range(len(tokens) - COPIED + 1)
  )


def table_row(
    name: str,
    s: inputs.Inputs,
    problems: Sequence[records.Problem],
    responses: Sequence[records.Response],
    references: Sequence[Sequence[int]] | None,
    leaking: leaks.Finder,
    after: Callable[[], None],
) -> str:
  """A line of the table.

  Args:
    name: of the texts.
    s: whose model scores them.
    problems, responses: aligned; no tokens where a problem was skipped.
    references: token ids of the references, to look for leaks; None where the
      texts are the references.
    leaking: looks for mentions of the hint and words of the template.
    after: called after each batch that is scored; may raise to end the call.
  """
  accepted = significance.wilson(
      sum(r.correct is True for r in responses), len(responses))
  value, low, high = (100 * share for share in accepted)
  written = [i for i, r in enumerate(responses) if r.tokens]
  skipped = 100 * (1 - len(written) / len(responses))
  head = f'| {name} | {value:.1f} [{low:.1f}, {high:.1f}] |'
  if not written:  # all were skipped: there is nothing to score
    return f'{head} | | | {skipped:.1f} |'
  prompts = answers.prompt_ids(s.tokenizer, problems)
  stats = forward.token_stats(
      s.params, s.config,
      [chat.answered(prompts[i], responses[i].tokens) for i in written],
      batch=s.rows, mesh=s.mesh, after=after)
  phi = np.concatenate([x.phi for x in stats])
  error = significance.normal_half_width(phi.std(), len(phi))
  leaked = '' if references is None else '{:.1f}'.format(100 * np.mean([
      leaking(responses[i]) or copies(responses[i].tokens, references[i])
      for i in written
  ]))
  return (
      f'{head} {phi.mean():+.4f} ± {error:.4f} |'
      f' {np.mean([len(responses[i].tokens) for i in written]):.1f} | {leaked} |'
      f' {skipped:.1f} |'
  )


def failed_problems(
    c, s: inputs.Inputs, work: stages.Stages, most: int
) -> list[records.Problem]:
  """Training problems whose greedy answer is wrong, at most so many."""
  # Conversations are left out: their references are turns, not the solution alone.
  candidates = [p for p in s.corpus.train if p.answer and not p.messages]
  # Bounds the work where the model fails few problems.
  candidates = candidates[:4 * most]
  greedy = work.run('greedy', answer_stage(c, s, greedy=True), candidates)
  return [
      p for p, answer in zip(candidates, greedy, strict=True)
      if answer.correct is not True
  ][:most]


def answer_stage(c, s: inputs.Inputs, **sampling: Any) -> stages.Make:
  """The stage in which the model answers alone."""
  def make(first, problems, journal):
    del first  # all problems are one block
    return [row[0] for row in answers.answer(
        s.params, s.config, s.tokenizer, problems, key=jax.random.key(c.seed),
        verifier=c.verifier, max_new_tokens=c.evaluation.max_new_tokens,
        journal=journal, **sampling, **s.decoding)]

  return make


def rewrite_stage(c, s: inputs.Inputs, rewriting: answers.Rewriting) -> stages.Make:
  """The stage in which it rewrites the references."""
  def make(first, problems, journal):
    del first  # all problems are one block
    # The key of the other stages: their draws use the same random numbers.
    return answers.rewrite(
        s.params, s.config, s.tokenizer, problems, key=jax.random.key(c.seed),
        rewriting=rewriting, max_new_tokens=c.evaluation.max_new_tokens,
        decoding={**s.decoding, 'journal': journal}, verifier=c.verifier)

  return make


def projected(
    c, s: inputs.Inputs, work: stages.Stages, rewriting: answers.Rewriting,
    problems: Sequence[records.Problem], rewritten: Sequence[records.Response],
    leaking: leaks.Finder,
) -> list[records.Response]:
  """Ends of the chains that begin at accepted texts; the others are skipped."""
  good = functools.partial(select.is_accepted, end=s.end, leaking=leaking)
  by_id = {p.id: p for p in problems}

  def make(first, starts, journal):
    del first  # all starts are one block
    return from_hints.project(
        s.params, s.config, s.tokenizer, [by_id[r.problem_id] for r in starts],
        starts, rewriting=rewriting, chains=select.Projection(_SWEEPS.value),
        good=good, key=jax.random.key(c.seed),
        max_new_tokens=c.evaluation.max_new_tokens,
        decoding={**s.decoding, 'journal': journal}, verifier=c.verifier)[0]

  ends = {r.problem_id: r for r in work.run(
      f'projected-{rewriting.beta:g}-{_SWEEPS.value}', make,
      list(filter(good, rewritten)), runs=_SWEEPS.value)}
  return [
      ends.get(r.problem_id) or dataclasses.replace(
          r, tokens=(), text='', finish='skipped', correct=False)
      for r in rewritten]


def print_table(c, s: inputs.Inputs, work: stages.Stages) -> None:
  """Prints the table row by row, as its texts are made."""
  rewriting = answers.Rewriting(**c.hint)
  problems = failed_problems(c, s, work, _PROBLEMS.value)
  if not problems:
    raise errors.InputError('no problem whose greedy answer is wrong: nothing to'
                            ' rewrite; --problems is 0, or the model is right')
  print(
      f'{len(problems)} problems whose greedy answer is wrong; temperature'
      f' {rewriting.temperature:g}, top-p {rewriting.top_p:g}\n{HEADER}',
      flush=True)
  leaking = leaks.Finder(problems, rewriting.prompt_template())
  references = [
      # With the stop token, as the other rows have it: phi counts it.
      s.tokenizer.encode(p.solution, add_special_tokens=False) + [s.end.id]
      for p in problems
  ]

  def show(name, responses, its_references):
    with engine.progress_bar(len(problems), f'{name}, score') as bar:
      beat = engine.Journal(bar=bar, check_stop=lifecycle.check_stop).beat
      row = table_row(
          name, s, problems, responses, its_references, leaking, beat)
    print(row, flush=True)

  show('reference solutions', answers.verified(
      s.tokenizer, problems,
      [engine.Generated(tokens, 'eos') for tokens in references], 'reference',
      c.verifier), None)
  sampling = answers.sampling_options(rewriting.temperature, rewriting.top_p)
  show('own samples', work.run(
      'own', answer_stage(c, s, **sampling), problems), references)
  for beta in _BETAS.value:
    changed = dataclasses.replace(rewriting, beta=float(beta))
    rewritten = work.run(
        f'beta-{beta}', rewrite_stage(c, s, changed), problems,
        runs=rewriting.runs)
    show(f'rewritten, beta = {beta}', rewritten, references)
    if advice := select.advice_on_skipped(rewritten):
      print(f'\n{advice}\n', flush=True)
  if _SWEEPS.value and _BETAS.value:
    show(f'projected, beta = {beta}', projected(
        c, s, work, changed, problems, rewritten, leaking), references)


def checked_inputs(c) -> inputs.Inputs:
  """Inputs of the config; InputError where its template cannot be used."""
  answers.Rewriting(**c.hint).prompt_template()
  return inputs.make_untrained(c)


def main():
  c = flags.FLAGS.config
  folder = storage.path(
      flags.FLAGS.workdir or workdir.default_folder('rewrite', c))
  with workdir.owned(c, folder, checked_inputs) as s:
    # Other weights at the same path must not get the texts of these.
    made_from = {
        'seed': c.seed, 'parameters': inputs.fingerprint(s.params),
        'problems': _PROBLEMS.value}
    with lifecycle.explained_errors(errors.InputError):
      print_table(c, s, stages.Stages(
          folder, made_from, check_stop=lifecycle.check_stop))


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', 'Folder of the texts; default runs/rewrite/NAME-HASH, by the'
      ' config.')
  lifecycle.launch(main)
