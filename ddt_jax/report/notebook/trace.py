"""Hinted Decoding of one problem, step by step."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.report import page
from ddt_jax.report import style
from ddt_jax.report.notebook import cell
from ddt_jax.report.notebook import plots
from ddt_jax.report.notebook import texts
from ddt_jax.rounds import answers
from ddt_jax.scoring import two_streams


@dataclasses.dataclass(frozen=True, repr=False)
class Trace(cell.Cell):
  """One problem, its rewritten solution, and both streams at each token.

  Attributes:
    problem: with its reference solution.
    analysis: text that the model wrote before its own solution, the marker
      included.
    rewritten: text of the solution, without the end of the turn.
    reason: why nothing was rewritten, or ''; then the fields below are empty.
    tokens: text of each token of the solution.
    hinted_top, student_top: at each token the likeliest ones of the hinted and
      of the student stream, as (text, probability).
    lam: weight of the student stream at each token, in [0, 1].
    student_only_from: see `engine.Generated`.
  """

  problem: records.Problem
  analysis: str
  rewritten: str
  reason: str
  tokens: tuple[str, ...] = ()
  hinted_top: tuple[tuple[tuple[str, float], ...], ...] = ()
  student_top: tuple[tuple[tuple[str, float], ...], ...] = ()
  lam: tuple[float, ...] = ()
  student_only_from: int | None = None

  def differs(self) -> list[bool]:
    """Whether the likeliest tokens of both streams differ, at each place."""
    return [p[0][0] != q[0][0] for p, q in zip(
        self.hinted_top, self.student_top, strict=True)]

  def text(self) -> str:
    if self.reason:
      return f'not rewritten: {self.reason}'
    alone = ''
    if self.student_only_from is not None:
      alone = (f' From token {self.student_only_from + 1} on the student decides'
               ' alone.')
    return (
        f'{len(self.tokens)} tokens: the streams would write different tokens at'
        f' {sum(self.differs())} of them; mean lam {np.mean(self.lam):.3f}.{alone}')

  def html(self) -> str:
    shown = [('problem', self.problem.problem),
             ('reference solution, read by the hinted stream alone',
              self.problem.solution),
             ('analysis, written and read by the hinted stream', self.analysis),
             ('rewritten by both streams', self.rewritten)]
    pictures = []
    if self.tokens:
      pictures.append(page.Plot(
          '', 'At each token: lam, the weight of the student; the token drawn'
          ' (black); the likeliest tokens of both streams, darker where likelier,'
          ' framed where drawn. Grey columns: the streams disagree.',
          style.draw(plots.trace, self)))
    return page.cell(
        'trace', sentence=self.text(), plots=pictures,
        texts=[(heading, text) for heading, text in shown if text])


def trace(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problem: records.Problem,
    rewriting: answers.Rewriting,
    *,
    key: jax.Array,
    max_new_tokens: int,
    mesh: jax.sharding.Mesh,
    top_k: int = 3,
) -> Trace:
  """Rewrites the reference of one problem and reads both streams along the text.

  Args:
    params, config, tokenizer: the model.
    problem: with its reference solution.
    rewriting: how, the config's section `hint`.
    key: random key.
    max_new_tokens: most tokens of the rewritten solution.
    mesh: the one that `params` are sharded over.
    top_k: likeliest tokens of each stream that are kept.
  """
  template, end = rewriting.prompt_template(), chat.turn_end(tokenizer)
  (student,) = answers.prompt_ids(tokenizer, [problem])
  hinted = chat.encode_prompt(
      tokenizer, template.hinted_chat(problem.problem, problem.solution))
  options = rewriting.decoding()
  (written,) = hinted_decode.rewrite(
      params, config, [(student, hinted)], tokenizer=tokenizer, key=key,
      marker=template.marker, splitter=problem.marker,
      max_new_tokens=max_new_tokens, eos_ids=(*config.eos_ids, end.id), **options)
  found = Trace(
      problem, tokenizer.decode(written.analysis),
      tokenizer.decode(written.tokens, skip_special_tokens=True), written.reason)
  if not written.tokens:
    return found
  mixture = hinted_decode.Mixture(
      **{name: options[name] for name in ('beta', 'center', 'schedule')},
      bounds=tuple(options['bounds']))
  both = two_streams.along(
      params, config, (student, [*hinted, *written.analysis]), written.tokens,
      mixture, student_only_from=written.student_only_from, mesh=mesh, top_k=top_k)
  return dataclasses.replace(
      found, tokens=texts.decoded(tokenizer, written.tokens),
      hinted_top=texts.top_tokens(tokenizer, both.hinted),
      student_top=texts.top_tokens(tokenizer, both.student),
      lam=tuple(both.lam.tolist()), student_only_from=written.student_only_from)
