"""A command's inputs: model and data of a config, checked before any work."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import stopping
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.data import corpus
from ddt_jax.data import lengths
from ddt_jax.data import reasoning
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.data import token_store
from ddt_jax.data import turns
from ddt_jax.embedded import word_problems
from ddt_jax.rounds import answers
from ddt_jax.rounds import curate
from experiments.run import adapters
from experiments.run import checks
from experiments.run import fitting
from experiments.run import model_files


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of a command: the mesh, the model and the data of its config.

  Attributes:
    mesh: of training and scoring.
    source: the model's Hugging Face folder.
    tokenizer, config, params: the model; with adapters, `params` apply them.
    end: the token that ends a turn.
    corpus: problems by use.
    train, validation: the tokenised references of `corpus`.
    decoding: options of `engine.generate`: eos_ids, slots, cache_dtype, mesh.
    rows: of a scoring batch, over all devices.
    base, adapters: with adapters, the frozen parameters and what a run starts to
      train on them; else None.
    teacher: see `distilling.Teacher`; None if it is the model itself.
  """

  mesh: jax.sharding.Mesh
  source: str
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  end: chat.TurnEnd
  corpus: corpus.Corpus
  train: lengths.Fitted
  validation: lengths.Fitted
  decoding: dict[str, Any]
  rows: int
  base: Any = None
  adapters: lora.Adapters | None = None
  teacher: Any = None

  @property
  def trained(self) -> Any:
    """What a run starts to train: all parameters, or the adapters."""
    return self.params if self.adapters is None else self.adapters

  def applied(self, trained: Any) -> Any:
    """Parameters for `model.forward` of what a run trains, see `lora.applied`."""
    return lora.applied(trained, self.base)

  def context(self, c, params: Any) -> curate.Context:
    """Inputs of `curate.curate` besides the problems."""
    return curate.Context(
        params, self.config, self.tokenizer, self.end, self.decoding,
        c.verifier.to_dict(), self.mesh, self.rows, c.data.max_tokens, c.train.pack)


def make(c, *, trains: bool = True) -> Inputs:
  """Reads model and data of a config, and prints what was read.

  Args:
    c: the config; fields that it leaves open are filled in, see `fitting`.
    trains: whether the command trains the model.

  Raises:
    errors.InputError: an option, the model or the data cannot be used.
  """
  # Options first: a misspelt one must not cost the time of loading a model.
  mesh = fitting.prepare(c, trains=trains)
  if not c.data.name and not c.data.path:
    raise errors.InputError(
        'data.path is empty, and this config has no problems of its own; name your'
        ' data: --config.data.path=FILE, or ORG/NAME of the hub')
  source = model_files.model_folder(c.model.path)
  tokenizer, config, params, base, start = load_adapted(c, mesh, source)
  check_positions(c.data.max_tokens, config)
  end = chat.turn_end(tokenizer, config.eos_ids)
  if (rewriting := answers.Rewriting(**c.hint)).enabled:
    check_hint(tokenizer, rewriting)
  problems, train, validation = load_data(
      tokenizer, end, evaluation_problems=c.evaluation.problems, **c.data)
  if trains and c.validation.patience and not validation.examples:
    raise errors.InputError(
        f'validation.patience={c.validation.patience}: no problem is held out to'
        ' validate on; --config.data.validation=0.05 holds out a share')
  print(problems.description)
  print(model_files.stops(tokenizer, config, end))
  print(
      f'{train.truncated} of {len(problems.train)} training examples truncated to'
      f' {c.data.max_tokens} tokens, {train.dropped} dropped,'
      f' {problems.bad_rows} bad rows left out; every answer is trained up to and'
      f' including its {end.text}', flush=True,
  )
  return Inputs(
      mesh, source, tokenizer, config, params, end, problems, train, validation,
      decoding_options(mesh, config, end, **c.decoding),
      scoring_rows(mesh, c.data.max_tokens, **c.scoring), base, start)


def make_untrained(c) -> Inputs:
  """`make` for a command that trains nothing: its adapters come from a folder."""
  adapters.check_applied(**c.lora)
  return make(c, trains=False)


def fingerprint(params: Any) -> str:
  """Digest of the parameters' bits, whatever devices hold them."""
  def folded(x):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16 if x.dtype.itemsize == 2
                                        else jnp.uint32)
    # Whole numbers modulo 2^32: the sum depends on no order of the devices.
    return jnp.sum(bits, dtype=jnp.uint32)

  sums = processes.to_host(jax.jit(lambda tree: jnp.stack([
      folded(x) for x in jax.tree.leaves(tree)]))(params))
  return stage_cache.digest(json.dumps(sums.tolist()).encode())[:16]


def check_positions(max_tokens: int, config: model.ModelConfig) -> None:
  """Raises InputError where rows are longer than the model's context."""
  if max_tokens > config.max_positions:
    raise errors.InputError(
        f'data.max_tokens={max_tokens} is more than the {config.max_positions}'
        " positions of the model, config.json's max_position_embeddings;"
        f' --config.data.max_tokens={config.max_positions} is the most')


def check_hint(tokenizer: Any, rewriting: answers.Rewriting) -> None:
  """Raises InputError where the chat template cannot render the hinted prompt."""
  try:
    chat.encode_prompt(
        tokenizer, rewriting.prompt_template().hinted_chat('x', 'y'))
  except errors.InputError as e:
    raise errors.InputError(
        f'hint.template={rewriting.template!r}: {e}. For a chat template without a'
        ' system turn, use a TOML file whose system is empty') from e


def load_adapted(
    c, mesh: jax.sharding.Mesh, source: str
) -> tuple[Any, model.ModelConfig, Any, Any, lora.Adapters | None]:
  """The model of a config, with its adapters if there are any.

  Args:
    c: the config.
    mesh: of training.
    source: the folder of its model.

  Returns:
    (tokenizer, config, parameters for `model.forward`, base, adapters); without
    adapters the last two are None. A base is held in the compute dtype.

  Raises:
    errors.InputError: see `load_model` and `adapters.start`.
  """
  options = c.model.to_dict() | {'path': source}
  if not c.lora.rank:
    return *load_model(mesh, **options), None, None
  # Adapters first: a bad folder must not cost the time of loading a base.
  start = adapters.start(
      weights.check_folder(source), mesh, seed=c.seed, **c.lora)
  tokenizer, config, base = load_model(mesh, frozen=True, **options)
  if processes.is_first():
    print(adapters.described(start, base))
  return tokenizer, config, lora.attach(base, start), base, start


def load_model(
    mesh: jax.sharding.Mesh, *, path: str, dtype: str, remat: str,
    frozen: bool = False
) -> tuple[Any, model.ModelConfig, Any]:
  """Tokenizer, config and parameters of a Hugging Face folder or id.

  Args:
    mesh, path, dtype, remat: see `weights.load`.
    frozen: hold the parameters in the compute dtype too, as they are not trained.

  Raises:
    errors.InputError: an option or a file of the folder cannot be used.
  """
  if dtype not in checks.DTYPES:
    raise errors.no_choice('model.dtype', dtype, checks.DTYPES)
  folder = model_files.model_folder(path)
  weights.check_folder(folder)
  tokenizer = model_files.load_tokenizer(folder)
  config, params = weights.load(
      folder, mesh=mesh, dtype=checks.DTYPES[dtype], remat=remat,
      param_dtype=checks.DTYPES[dtype] if frozen else 'float32')
  stopping.check_eos(tokenizer, config.vocab_size)
  return tokenizer, model_files.with_generation_eos(config, folder), params


def load_data(
    tokenizer: Any, end: chat.TurnEnd, *, evaluation_problems: int, name: str,
    path: str, max_tokens: int, overlong: str,
    split_turns: bool = True, gym: Mapping[str, Any] | None = None,
    **options: Any
) -> tuple[corpus.Corpus, lengths.Fitted, lengths.Fitted]:
  """Problems, and the tokenised references of training and validation.

  Args:
    tokenizer, end: see `lengths.prepare`.
    evaluation_problems: at most so many of each split are evaluated.
    name: of the data set: word_problems, or reasoning_gym:TASK[,TASK].
    path: a user's files instead, see `corpus.from_file`; '' for none.
    max_tokens, overlong: see `lengths.cut`.
    split_turns: one example for each turn of a conversation whose template is not
      prefix-stable, see `turns`. Otherwise such a row is a bad one.
    gym: options of `reasoning.world`, where name is reasoning_gym.
    **options: of `corpus.from_file`.
  """
  store = None
  # data.name=org/name is taken for a data set of the hub.
  if path or '/' in name:
    # A tokenizer written in Python has no backend, whose settings name the store.
    if hasattr(tokenizer, 'backend_tokenizer'):
      store = token_store.TokenStore(tokenizer, end, path or name)
    check = turns.TemplateCheck(
        tokenizer, end, split_turns=split_turns, store=store,
        tokenise=options.get('question', '{problem}') == '{problem}')
    problems = turns.split_corpus(corpus.from_file(
        path or name, evaluation_problems=evaluation_problems, accept=check,
        **options), check.unstable)
  elif options.get('evaluation_path') or options.get('weights'):
    raise errors.InputError(
        'data.evaluation_path and data.weights are for files of your own; name them'
        ' with --config.data.path=FILE')
  elif name == 'word_problems':
    problems = word_problems.world(evaluation_problems)
  elif name.startswith(f'{reasoning.NAME}:'):
    problems = reasoning.world(
        name.partition(':')[2], evaluation_problems=evaluation_problems,
        **{key: options[key] for key in ('validation', 'question', 'marker')},
        **gym or {})
  else:
    raise errors.InputError(
        f'data.name={name!r}: there are word_problems and'
        f' {reasoning.NAME}:TASK[,TASK]; for your own data,'
        ' --config.data.path=FILE'
        + errors.did_you_mean(
            name.partition(':')[0], ('word_problems', reasoning.NAME)))
  train, validation = (
      lengths.prepare(tokenizer, some, end, max_tokens, overlong=overlong, store=store)
      for some in (problems.train, problems.validation))
  if store:
    store.save()
  return problems, train, validation


def renderable(
    tokenizer: Any, some: list[records.Problem], bad_rows: str
) -> list[records.Problem]:
  """Returns the problems whose prompts the chat template renders.

  Raises:
    errors.InputError: it refuses one, and bad_rows is 'error'; names the row.
  """
  kept = []
  for p in some:
    try:
      chat.encode_prompt(tokenizer, p.conversation[:-1])
    except errors.InputError as e:
      if bad_rows == 'error':
        raise errors.InputError(
            f'{p.source}: {e}; --config.data.bad_rows=skip leaves such rows out'
        ) from e
      continue
    kept.append(p)
  return kept


def decoding_options(
    mesh: jax.sharding.Mesh, config: model.ModelConfig, end: chat.TurnEnd, *,
    slots: int, tensor: int, cache_dtype: str
) -> dict[str, Any]:
  """Options of `engine.generate` that all calls of a run share."""
  return dict(
      # Both: a base model's own stop token is often not the one that ends a chat
      # turn.
      eos_ids=(*config.eos_ids, end.id), slots=slots,
      cache_dtype=checks.cache_dtype(cache_dtype),
      mesh=sharding.decoding_mesh(mesh, tensor))


def scoring_rows(
    mesh: jax.sharding.Mesh, max_tokens: int, *, rows: int, tokens: int
) -> int:
  """Rows of a forward without a gradient, over all devices of the mesh.

  Args:
    mesh: rows are spread over its data and fsdp axes.
    max_tokens: longest row.
    rows: at most so many on each of these devices.
    tokens: at most so many on each, padding included; at least one row.
  """
  return _row_devices(mesh) * max(1, min(rows, tokens // max_tokens))


def _row_devices(mesh: jax.sharding.Mesh) -> int:
  return mesh.shape['data'] * mesh.shape['fsdp']
