"""The model's responses to problems, sampled or rewritten, with verdicts."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.data import records

ANALYSES = ('model', 'none')  # who writes the analysis of a reference


def check_sampling(section: str, temperature: float, top_p: float) -> None:
  """Raises InputError where responses cannot be drawn with these options.

  Args:
    section: of the config, for the message.
    temperature: 0 is greedy, see `sampling_options`.
    top_p: in (0, 1].
  """
  if not temperature >= 0:
    raise errors.InputError(
        f'{section}.temperature={temperature}: 0 for greedy answers, or more')
  if not 0 < top_p <= 1:
    raise errors.InputError(f'{section}.top_p={top_p} is not in (0, 1]')


def sampling_options(temperature: float, top_p: float) -> dict[str, Any]:
  """Options of `engine.generate`; temperature 0 takes the likeliest token."""
  if temperature == 0:
    return dict(greedy=True)
  return dict(temperature=temperature, top_p=top_p)


@dataclasses.dataclass(frozen=True)
class Rewriting:
  """How Hinted Decoding rewrites a reference: the config's section `hint`.

  Attributes:
    enabled: whether problems without a verified answer are rewritten at all.
    template: a name or a TOML file, see `prompts.load`.
    analysis: 'model', it analyses the reference before it rewrites it; 'none', it
      begins at once, having read problem and reference.
    prefill: text that the analysis begins with, for models that do not keep to
      the template's form, e.g. '# Analyze'.
    max_analysis_tokens: limit of the analysis.
    schedule, beta, center, bounds: of the mixture, see `hinting.hint_weight`.
    temperature, top_p, order: of the draw, see `sampling.distribution`.
  """

  enabled: bool = True
  template: str = 'worked_example'
  analysis: str = 'model'
  prefill: str = ''
  max_analysis_tokens: int = 2048
  schedule: str = 'linear'
  beta: float = 3.0
  center: float = 0.5
  bounds: tuple[float, float] = (0.3, 0.7)
  temperature: float = 0.3
  top_p: float = 0.95
  order: str = 'top_p_first'

  def __post_init__(self):
    check_sampling('hint', self.temperature, self.top_p)
    sampling.check_order(self.order)
    if self.analysis not in ANALYSES:
      raise errors.no_choice('hint.analysis', self.analysis, ANALYSES)
    if self.prefill and self.analysis == 'none':
      raise errors.InputError(
          f'hint.prefill={self.prefill!r} begins the analysis, and'
          ' hint.analysis=none writes none')
    # Any vocabulary will do: the model is not loaded yet.
    hinted_decode.check_mixture(
        hinted_decode.Mixture(
            self.beta, self.center, self.schedule, tuple(self.bounds)),
        vocab_size=2)

  @property
  def runs(self) -> int:
    """Decoding runs that a rewriting takes: the analysis, and the text."""
    return 2 if self.analysis == 'model' else 1

  def prompt_template(self) -> prompts.Template:
    """The template's content; InputError where there is no such template."""
    return prompts.load(self.template)

  def decoding(self) -> dict[str, Any]:
    """Keyword arguments of `hinted_decode.rewrite`."""
    fields = dataclasses.asdict(self)
    # The caller decides about these two; `rewrite` does not know them.
    for name in ('enabled', 'template'):
      del fields[name]
    # `rewrite` requires a temperature above 0, which greedy decoding then ignores.
    if self.temperature == 0:
      fields |= dict(temperature=1.0, greedy=True)
    return fields


def prompt_ids(
    tokenizer: Any, problems: Sequence[records.Problem]
) -> list[list[int]]:
  """Token ids of problems as the model is asked them, without their solutions."""
  return chat.encode_prompts(
      tokenizer, [p.conversation[:-1] for p in problems])


def verified(
    tokenizer: Any,
    problems: Sequence[records.Problem],
    drawn: Sequence[engine.Generated | hinted_decode.Rewritten],
    source: str,
    verifier: Mapping[str, Any],
) -> list[records.Response]:
  """Responses out of drawn tokens: decoded, and verified in one call.

  Args:
    tokenizer: the model's.
    problems: problems[i] is what drawn[i] answers.
    drawn: token ids, and why they end.
    source: 'own' or 'hinted', who wrote them.
    verifier: options of `verify.verify_all`: workers, timeout_s.
  """
  # Otherwise the answer after a marker would be '5<|im_end|>'.
  texts = [tokenizer.decode(d.tokens, skip_special_tokens=True) for d in drawn]
  verdicts = verify.verify_all(
      [(text, p.answer) for text, p in zip(texts, problems, strict=True)],
      kind=[p.kind for p in problems], marker=[p.marker for p in problems],
      **verifier,
  )
  return [
      records.Response(
          p.id, tuple(d.tokens), text, d.finish, source, v.correct, v.extracted,
          v.reason)
      for p, d, text, v in zip(problems, drawn, texts, verdicts, strict=True)
  ]


def answer(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    turns_of: Callable[[records.Problem], prompts.Chat] | None = None,
    samples: int = 1,
    max_new_tokens: int,
    verifier: Mapping[str, Any],
    **decoding: Any,
) -> list[list[records.Response]]:
  """Samples responses to each problem and verifies them.

  A prompt that fills the model's context is not answered: its responses have no
  tokens, finish 'skipped' and a reason. One that leaves little room gets a lower
  limit.

  Args:
    params, config, tokenizer: the model.
    problems: with answers to verify against.
    turns_of: the conversation to answer; default: the problem as it is.
    samples: responses to each problem.
    max_new_tokens: limit of a response.
    verifier: options of `verify.verify_all`: workers, timeout_s.
    **decoding: further options of `engine.generate`: key, eos_ids, temperature
      and others.

  Returns:
    For each problem its `samples` responses.
  """
  if turns_of is None:
    ids = prompt_ids(tokenizer, problems)
  else:
    ids = chat.encode_prompts(tokenizer, [turns_of(p) for p in problems])
  # The prompt and the answer share the model's positions.
  room = [config.max_positions - len(prompt) for prompt in ids]
  asked = [i for i, n in enumerate(room) if n > 0 for _ in range(samples)]
  drawn = engine.generate(
      params, config, [ids[i] for i in asked], max_new_tokens=max_new_tokens,
      max_tokens=[room[i] for i in asked], **decoding)
  responses = iter(verified(
      tokenizer, [problems[i] for i in asked], drawn, 'own', verifier))
  rows = []
  for p, prompt, n in zip(problems, ids, room, strict=True):
    if n > 0:
      rows.append([next(responses) for _ in range(samples)])
    else:
      # As many as were asked for, so that it counts as wrong in every mean over
      # samples.
      rows.append([_skipped(p, prompt, config)] * samples)
  return rows


def _skipped(problem, prompt, config) -> records.Response:
  return records.Response(
      problem.id, (), '', 'skipped', 'own', False, None,
      f'the prompt has {len(prompt)} tokens, the model {config.max_positions}'
      ' positions')


def rewrite(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    rewriting: Rewriting,
    key: jax.Array,
    max_new_tokens: int,
    decoding: Mapping[str, Any],
    verifier: Mapping[str, Any],
) -> list[records.Response]:
  """Rewrites the references of problems in the model's own words; verified.

  Args:
    params, config, tokenizer: the model.
    problems: at least one, each with an answer; all with the same marker, the
      splitter after which the hint has no say.
    rewriting: how.
    key: random key.
    max_new_tokens: limit of a rewritten solution.
    decoding: options of `engine.generate`: eos_ids, slots, cache_dtype, mesh,
      journal.
    verifier: options of `verify.verify_all`: workers, timeout_s.
  """
  markers = {p.marker for p in problems}
  if len(markers) > 1:
    raise errors.InputError(
        f'problems with several markers, {sorted(markers)}: one call of Hinted'
        ' Decoding has one splitter')
  template = rewriting.prompt_template()
  hinted = chat.encode_prompts(
      tokenizer, [template.hinted_chat(p.problem, p.solution) for p in problems])
  requests = list(zip(prompt_ids(tokenizer, problems), hinted, strict=True))
  drawn = hinted_decode.rewrite(
      params, config, requests, tokenizer=tokenizer, key=key,
      marker=template.marker, splitter=problems[0].marker,
      max_new_tokens=max_new_tokens, **rewriting.decoding(), **decoding,
  )
  responses = verified(tokenizer, problems, drawn, 'hinted', verifier)
  return [
      dataclasses.replace(
          r, analysis=tokenizer.decode(d.analysis, skip_special_tokens=True),
          # A skipped request has no text: it is wrong, for the reason it was skipped.
          **dict(correct=False, reason=d.reason) if d.reason else {})
      for r, d in zip(responses, drawn, strict=True)
  ]
