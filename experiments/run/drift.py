"""KL(base || model) of a run, on samples that the base draws once."""

from typing import Any

import jax

from ddt_jax import engine
from ddt_jax.data import chat
from ddt_jax.rounds import answers
from ddt_jax.scoring import kl_to_base
from experiments.run import inputs
from experiments.run import workdir

BASE_SAMPLES = 'measured/base_samples'  # the file, below a run's folder


def by_split(
    c, s: inputs.Inputs, files: workdir.Workdir, r: int, params: Any
) -> dict[str, float]:
  """KL of the base to the model after r rounds, nats per token, by split.

  The base answers `c.kl_to_base.problems` prompts of each split of the evaluation
  at temperature 1, before the first round; the answers stay in the run's folder.
  Its parameters are loaded again for each call and freed after it, so training
  holds no second model. With adapters the base is the model without them.

  Args:
    c, s: the config, and the inputs made from it.
    files: of the run.
    r: the round; 0 is before training, where the model is the base, unless it
      starts from adapters.
    params: of the model.

  Returns:
    {split: KL}; empty where it is switched off.
  """
  if not c.kl_to_base.problems:
    return {}
  texts = files.once(BASE_SAMPLES, lambda: draw(
      c, s, params if s.base is None else s.base))['texts']
  if r == 0 and not c.lora.path:
    return {split: 0.0 for split, of_split in texts.items() if of_split}
  base = s.base
  if base is None:
    _, _, base = inputs.load_model(s.mesh, **c.model)
  found = {
      split: kl_to_base.kl_to_base(
          base, params, s.config, [chat.answered(*text) for text in of_split],
          batch=s.rows, mesh=s.mesh)
      for split, of_split in texts.items() if of_split}
  if s.base is None:
    jax.tree.map(lambda x: x.delete(), base)
  return found


def draw(c, s: inputs.Inputs, params: Any) -> dict[str, Any]:
  """Samples of a model, {'texts': {split: [[prompt, response], ...]}} as token ids.

  Args:
    c, s, params: see `by_split`.
  """
  texts = {}
  for i, (split, problems) in enumerate(s.corpus.evaluation.items()):
    prompts = answers.prompt_ids(s.tokenizer, problems[:c.kl_to_base.problems])
    # The prompt and the answer share the model's positions.
    prompts = [p for p in prompts if len(p) < s.config.max_positions]
    drawn = engine.generate(
        params, s.config, prompts, temperature=1.0, top_p=1.0,
        key=jax.random.fold_in(jax.random.key(c.seed), i),
        max_new_tokens=c.kl_to_base.max_new_tokens,
        max_tokens=[s.config.max_positions - len(p) for p in prompts], **s.decoding)
    # A sample holds its stop token, so each has at least one token.
    texts[split] = [
        [list(p), list(d.tokens)] for p, d in zip(prompts, drawn, strict=True)]
  return {'texts': texts}
