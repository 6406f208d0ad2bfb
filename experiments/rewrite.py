r"""Hinted Decoding of the problems that a model fails, at several strengths.

python -m experiments.rewrite --config configs/idft.py [--problems=500]

Rewrites the reference solutions of training problems whose greedy answer is
wrong, at several strengths of the student's share (beta), and prints as Markdown
how often the verifier accepts them and how natural they are to the model. Rows
for the references and for the model's own samples stand beside them.
"""

from collections.abc import Sequence
import dataclasses

from absl import flags
import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import significance
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import select
from ddt_jax.scoring import forward
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options

_PROBLEMS = flags.DEFINE_integer('problems', 500, 'Failed problems, at most.')
_BETAS = flags.DEFINE_list('betas', ['0', '1', '3', '6'], 'hint.beta of rows.')

COPIED = 8  # a run of so many tokens of the reference is a leak

HEADER = (
    '| text | accepted, % | mean phi | tokens | leaks, % | skipped, % |\n'
    '|---|---:|---:|---:|---:|---:|'
)


def leaks(text: str, tokens: Sequence[int], reference: Sequence[int]) -> bool:
  """Whether a text mentions the hint or copies a run of it."""
  runs = {tuple(reference[i: i + COPIED])
          for i in range(len(reference) - COPIED + 1)}
  copied = any(
      tuple(tokens[i: i + COPIED]) in runs
      for i in range(len(tokens) - COPIED + 1)
  )
  return copied or bool(select.MENTION.search(text))


def table_row(
    name: str,
    s: inputs.Inputs,
    problems: Sequence[records.Problem],
    responses: Sequence[records.Response],
    references: Sequence[Sequence[int]] | None,
) -> str:
  """A line of the table.

  Args:
    name: of the texts.
    s: whose model scores them.
    problems, responses: aligned; no tokens where a problem was skipped.
    references: token ids of the references, to look for leaks; None where the
      texts are the references.
  """
  accepted = significance.wilson(
      sum(r.correct is True for r in responses), len(responses))
  written = [i for i, r in enumerate(responses) if r.tokens]
  prompts = answers.prompt_ids(s.tokenizer, problems)
  stats = forward.token_stats(
      s.params, s.config,
      [chat.answered(prompts[i], responses[i].tokens) for i in written],
      batch=s.rows, mesh=s.mesh)
  phi = np.concatenate([x.phi for x in stats])
  error = significance.normal_half_width(phi.std(), len(phi))
  leaked = '' if references is None else '{:.1f}'.format(100 * np.mean([
      leaks(responses[i].text, responses[i].tokens, references[i])
      for i in written
  ]))
  value, low, high = (100 * share for share in accepted)
  return (
      f'| {name} | {value:.1f} [{low:.1f}, {high:.1f}] |'
      f' {phi.mean():+.4f} ± {error:.4f} |'
      f' {np.mean([len(responses[i].tokens) for i in written]):.1f} | {leaked} |'
      f' {100 * (1 - len(written) / len(responses)):.1f} |'
  )


def failed_problems(c, s: inputs.Inputs, most: int) -> list[records.Problem]:
  """Training problems whose greedy answer is wrong, at most so many."""
  # Conversations are left out: their references are turns, not the solution alone.
  candidates = [p for p in s.corpus.train if p.answer and not p.messages]
  # Bounds the work where the model fails few problems.
  candidates = candidates[:4 * most]
  greedy = answers.answer(
      s.params, s.config, s.tokenizer, candidates, greedy=True,
      key=jax.random.key(c.seed), verifier=c.verifier,
      max_new_tokens=c.evaluation.max_new_tokens, **s.decoding)
  return [
      p for p, (answer,) in zip(candidates, greedy, strict=True)
      if answer.correct is not True
  ][:most]


def main():
  c = flags.FLAGS.config
  with lifecycle.explained_errors():
    rewriting = answers.Rewriting(**c.hint)
    rewriting.prompt_template()
    s = inputs.make(c)
  key = jax.random.key(c.seed)
  model = s.params, s.config, s.tokenizer
  problems = failed_problems(c, s, _PROBLEMS.value)
  print(
      f'{len(problems)} problems whose greedy answer is wrong; temperature'
      f' {rewriting.temperature:g}, top-p {rewriting.top_p:g}\n{HEADER}',
      flush=True)

  references = [
      # With the stop token, as the other rows have it: phi counts it.
      s.tokenizer.encode(p.solution, add_special_tokens=False) + [s.end.id]
      for p in problems
  ]
  given = answers.verified(
      s.tokenizer, problems,
      [engine.Generated(tokens, 'eos') for tokens in references], 'reference',
      c.verifier)
  print(table_row('reference solutions', s, problems, given, None), flush=True)
  own = answers.answer(
      *model, problems, key=key, temperature=rewriting.temperature,
      top_p=rewriting.top_p, verifier=c.verifier,
      max_new_tokens=c.evaluation.max_new_tokens, **s.decoding)
  print(table_row(
      'own samples', s, problems, [r for r, in own], references), flush=True)
  # One key for all rows: their draws use the same random numbers.
  for beta in _BETAS.value:
    rewritten = answers.rewrite(
        *model, problems, key=key,
        rewriting=dataclasses.replace(rewriting, beta=float(beta)),
        max_new_tokens=c.evaluation.max_new_tokens, decoding=s.decoding,
        verifier=c.verifier)
    print(table_row(
        f'rewritten, beta = {beta}', s, problems, rewritten, references),
        flush=True)


if __name__ == '__main__':
  options.define_config('configs/idft.py')
  lifecycle.launch(main)
