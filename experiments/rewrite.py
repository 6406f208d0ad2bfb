r"""What Hinted Decoding makes of the problems that a model fails.

python -m experiments.rewrite --config configs/idft.py [--problems=500]

Rewrites the reference solutions of training problems whose greedy answer is
wrong, at several strengths of the student's share (beta), and prints as Markdown
how often the verifier accepts them and how natural they are to the model. Rows
for the references themselves and for the model's own samples stand beside them.
"""

from collections.abc import Sequence

from absl import app
from absl import flags
import jax
from ml_collections import config_flags
import numpy as np

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import significance
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.rounds import curate
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import forward
from experiments.run import inputs
from experiments.run import lifecycle

_PROBLEMS = flags.DEFINE_integer('problems', 500, 'Failed problems, at most.')
_BETAS = flags.DEFINE_list('betas', ['0', '1', '3', '6'], 'hint.beta of rows.')

COPIED = 8  # tokens in a row that are the reference's


def leaks(text: str, tokens: Sequence[int], reference: Sequence[int]) -> bool:
  """Whether a text mentions the hint or copies a run of it."""
  runs = {tuple(reference[i: i + COPIED])
          for i in range(len(reference) - COPIED + 1)}
  copied = any(
      tuple(tokens[i: i + COPIED]) in runs
      for i in range(len(tokens) - COPIED + 1)
  )
  return copied or bool(curate.MENTION.search(text))


class Table:
  """Rows of texts for the same problems."""

  def __init__(self, s: inputs.Setup, problems, workers: int, timeout_s: float):
    self.s, self.problems = s, problems
    self.verifier = dict(workers=workers, timeout_s=timeout_s)
    self.students = [
        chat.encode_prompt(s.tokenizer, prompts.student_chat(p.problem))
        for p in problems
    ]
    self.references = [
        s.tokenizer.encode(p.solution, add_special_tokens=False) + [s.end.id]
        for p in problems
    ]
    self.lines = [
        '| text | accepted, % | mean phi | tokens | leaks, % | skipped, % |',
        '|---|---:|---:|---:|---:|---:|',
    ]

  def add(
      self, name: str, texts: Sequence[Sequence[int]], *, may_leak: bool = True
  ) -> None:
    """A row of response tokens for each problem, empty where it was skipped."""
    words = [
        self.s.tokenizer.decode(t, skip_special_tokens=True) for t in texts
    ]
    verdicts = verify.verify_all(
        [(w, p.answer) for w, p in zip(words, self.problems, strict=True)],
        kind=[p.kind for p in self.problems],
        marker=[p.marker for p in self.problems], **self.verifier,
    )
    accepted = significance.wilson(
        sum(v.correct is True for v in verdicts), len(verdicts)
    )
    there = [i for i, t in enumerate(texts) if len(t)]
    examples = [
        chat.Example(
            np.array([*self.students[i], *texts[i]], np.int32),
            np.arange(len(self.students[i]) + len(texts[i]))
            >= len(self.students[i]),
        ) for i in there
    ]
    stats = forward.token_stats(
        self.s.params, self.s.config, examples, batch=32, mesh=self.s.mesh
    )
    phi = np.concatenate([x.phi for x in stats])
    error = significance.normal_half_width(phi.std(), len(phi))
    leaked = ''
    if may_leak:
      leaked = '{:.1f}'.format(100 * np.mean([
          leaks(words[i], texts[i], self.references[i]) for i in there
      ]))
    shown = '{value:.1f} [{low:.1f}, {high:.1f}]'.format(
        **{k: 100 * v for k, v in accepted._asdict().items()}
    )
    self.lines.append(
        f'| {name} | {shown} | {phi.mean():+.4f} ± {error:.4f} |'
        f' {np.mean([len(texts[i]) for i in there]):.1f} | {leaked} |'
        f' {100 * (1 - len(there) / len(texts)):.1f} |'
    )
    print(self.lines[-1], flush=True)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  c = flags.FLAGS.config
  with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
    hint = c.hint.to_dict()
    hint.pop('enabled')
    template = prompts.load(hint.pop('template'))
    s = inputs.make(c)
  e, key = c.evaluation, jax.random.key(c.seed)
  shared = s.decoding | {'max_new_tokens': e.max_new_tokens}
  verifier = dict(workers=e.workers, timeout_s=e.timeout_s)
  candidates = [p for p in s.corpus.train if p.answer and not p.messages]
  answers = evaluate.answer(
      s.params, s.config, s.tokenizer, candidates[:4 * _PROBLEMS.value],
      greedy=True, key=key, **verifier, **shared,
  )
  failed = [
      p for p, (answer,) in zip(candidates, answers, strict=False)
      if answer.correct is not True
  ][:_PROBLEMS.value]
  drawn = {k: hint[k] for k in ('temperature', 'top_p')}
  print(f'{len(failed)} problems whose greedy answer is wrong; temperature'
        ' {temperature:g}, top-p {top_p:g}'.format(**drawn))

  table = Table(s, failed, **verifier)
  print('\n'.join(table.lines))
  table.add('reference solutions', table.references, may_leak=False)
  own = engine.generate(
      s.params, s.config, table.students, key=key, **drawn, **shared
  )
  table.add('own samples', [r.tokens for r in own])
  requests = [
      (student, chat.encode_prompt(
          s.tokenizer, template.hinted_chat(p.problem, p.solution)
      )) for student, p in zip(table.students, failed, strict=True)
  ]
  for beta in _BETAS.value:
    found = hinted_decode.rewrite(
        s.params, s.config, requests, tokenizer=s.tokenizer, key=key,
        marker=template.marker, splitter=c.data.marker,
        **hint | {'beta': float(beta)}, **shared,
    )
    table.add(f'rewritten, beta = {beta}', [r.tokens for r in found])


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  app.run(main)
