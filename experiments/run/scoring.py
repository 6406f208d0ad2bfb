"""What the score command does, step by step; each step keeps what it made."""

from collections.abc import Mapping
import functools
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
import transformers

from ddt_jax import ddt
from ddt_jax import engine
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.embedded import problems as embedded_problems
from ddt_jax.report import scores_page
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_stats
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import forward
from ddt_jax.scoring import own_samples
from ddt_jax.scoring import sources
from ddt_jax.scoring import store
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import workdir

OWN = 'own'
_DRAWN = 500  # answers that a kill can cost


class Setup(NamedTuple):
  """What scoring starts from, checked before any work."""

  mesh: jax.sharding.Mesh
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  end: chat.TurnEnd
  files: dict[str, sources.File | None]  # in the user's order; None: own
  asked: list[records.Problem]  # what own samples answer
  max_tokens: int


def make(c) -> Setup:
  """Reads the model and looks through the inputs; says what is wrong with them."""
  mesh = sharding.make_mesh(**c.mesh)
  names = [x.strip() for x in (c.data.paths or c.data.path).split(',')]
  names = [x for x in names if x]
  if not names and not c.calibrate:
    raise ValueError(
        'nothing to score: --config.data.path=FILE, or --config.data.paths=A,B,own')
  if c.own.samples < 1 or c.calibration.samples < 1:
    raise ValueError('own.samples and calibration.samples must be at least 1')
  if len(set(names)) < len(names):
    raise ValueError(f'data.paths names an input twice: {", ".join(names)}')
  folder = inputs.model_folder(c.model.path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  config, params = weights.load(
      folder, mesh=mesh, dtype=c.model.dtype, remat=c.model.remat)
  end = chat.turn_end(tokenizer, config.eos_ids)
  max_tokens = c.data.max_tokens or config.max_positions
  paths = [x for x in names if x != OWN]
  short = [storage.path(x).name for x in paths]
  share = -(-_most_samples(c) // max(len(paths), 1))
  files = {}
  for x in names:
    if x == OWN:
      files[x] = None
      continue
    name = storage.path(x).name
    files[x if short.count(name) > 1 else name] = _file(
        c, x, share, tokenizer, end, config.vocab_size, max_tokens)
  asked = [p for file in files.values() if file for p in file.found.sample]
  if not asked and c.model.path == 'embedded':
    asked = list(embedded_problems.problems('validation', 500))
  if not asked:
    raise ValueError('own samples answer prompts: name a file in data.paths too')
  return Setup(
      mesh, tokenizer, config, params, end, files, asked, max_tokens)


def _most_samples(c) -> int:
  return max(c.own.samples, c.calibration.samples if c.calibrate else 0)


def _file(c, path, sample, tokenizer, end, vocab_size, max_tokens):
  # Nothing is verified, and any two rows may have one id.
  columns = census.named_columns(
      path, c.data.columns.to_dict() | {'answer': '', 'id': ''})
  options = {'question': c.data.question}
  found = census.take(
      path, columns=columns, bad_rows=c.data.bad_rows, sample=sample,
      seed=c.seed, **options)
  print(f'{path}: {found.rows:,} rows, {found.bad:,} of them bad', flush=True)
  return sources.File(
      path, columns, options, found, tokenizer, end, vocab_size, max_tokens,
      c.data.overlong, c.data.bad_rows)


class Scoring:
  """The steps, over what is in the folder already."""

  def __init__(self, c, folder: Any, s: Setup):
    self._c, self._workdir, self._s = c, folder, s
    ways = s.mesh.shape['data'] * s.mesh.shape['fsdp']
    self._score_by = functools.partial(
        forward.dispatch, config=s.config, mesh=s.mesh, batch=c.batch.rows * ways,
        tokens=c.batch.tokens * ways, temperature=c.temperature)
    self._score = functools.partial(self._score_by, s.params)
    self._decoding = dict(
        slots=c.decoding.slots,
        mesh=sharding.decoding_mesh(s.mesh, c.decoding.tensor))
    self._made_from = {'config': workdir.config_hash(c)}

  def corpus(self, name: str) -> store.Shards:
    """The scores of an input."""
    file = self._s.files[name]
    if file is None:
      return self._scored(OWN, self._own(self._c.own.samples))
    index = list(self._s.files).index(name)
    return self._scored(f'{index}-{storage.path(name).stem}', file)

  def summary(
      self, corpora: Mapping[str, store.Shards]
  ) -> dict[str, Any]:
    """All in numbers; also in summary.json."""
    c = self._c

    def make():
      own = OWN if OWN in corpora else ''
      found = {
          'model': c.model.path, 'temperature': c.temperature, 'own': own,
          'corpora': {
              name: corpus_summary.describe(shards, c.data.source)
              for name, shards in corpora.items()
          },
          'auroc': corpus_summary.compare(corpora, own) if own else {},
      }
      storage.publish(self._workdir / 'summary.json', json.dumps(found, indent=1))
      return found

    return processes.from_first(make)

  def examples(
      self, corpora: Mapping[str, store.Shards]
  ) -> list[dict[str, Any]]:
    """What the page shows, scored again for the likeliest alternatives."""
    c, s, shown = self._c, self._s, []
    each = c.report.examples // max(len(corpora), 1)
    for name, shards in corpora.items():
      chosen = processes.from_first(
          lambda shards=shards: corpus_summary.choose(shards, each, c.seed))
      rows = [(kind, i) for kind, places in chosen.items() for i in places]
      if not rows:
        continue
      found = shards.examples([i for _, i in rows])
      stats = []
      for first in range(0, len(found), 128):
        lengths, flat = self._score(
            examples=[e for _, e in found[first:first + 128]], top_k=5).collect()
        ends = np.cumsum(lengths)
        stats += [
            flat.map(lambda x, n=n, end=end: x[end - n:end])
            for n, end in zip(lengths, ends, strict=True)
        ]
        lifecycle.check_stop()
      shown += [
          scores_page.example(
              s.tokenizer, name, kind, row, shards.prefix, example, of_tokens,
              most=c.report.tokens, source=c.data.source)
          for (kind, _), (row, example), of_tokens in zip(
              rows, found, stats, strict=True)
      ]
    return shown

  def calibrate(self) -> dict[str, Any]:
    """Checks of own samples, of controls, and false positives by length."""
    c, s = self._c, self._s
    samples = self._own(c.calibration.samples)
    shards = self._scored('calibration', samples)
    numbers = processes.from_first(lambda: corpus_summary.describe(shards))
    stats, pit = self._endless(samples.count, max(c.calibration.lengths))
    controls = {}
    if c.calibration.controls:
      other = calibration.perturbed(
          s.params, jax.random.key(c.seed), c.calibration.noise)
      examples = [
          row.example for block in samples.blocks(c.shard, 0) for row in block]
      moved = [calibration.shifted(e) for e in examples]
      controls = {
          f'weights with {c.calibration.noise:.0%} noise':
              calibration.check(self._control(other, examples)),
          'a mask shifted by one': calibration.check(self._control(s.params, moved)),
      }
    return {
        'checks': calibration.check(numbers, calibration.stopped_variance(stats)),
        'controls': controls,
        'by_length': calibration.false_positives(
            stats, pit, c.calibration.lengths),
    }

  def _control(self, params: Any, examples: list) -> dict[str, Any]:
    """Numbers of examples under other parameters, or masked otherwise."""
    lengths, stats = self._score_by(
        params, examples=examples, tail=True).collect()
    uniform = np.random.default_rng(self._c.seed).random(len(stats.log_p))
    pit = ddt.randomised_pit(stats, uniform.astype(np.float32))
    columns = corpus_stats.per_response(stats, lengths, pit)
    columns['rejected'] = corpus_stats.rejected(columns['pit_p_value'])
    sums = corpus_stats.TokenSums.of(stats.phi, lengths, pit)
    return corpus_summary.numbers(columns, sums)

  def _own(self, samples: int) -> sources.Samples:
    c, s = self._c, self._s
    return own_samples.draw(
        s.params, s.config, s.tokenizer, s.asked, samples=samples,
        folder=self._workdir / f'drawn-{samples}', made_from=self._made_from,
        key=jax.random.key(c.seed), max_new_tokens=c.own.max_new_tokens,
        temperature=c.temperature, max_tokens=s.max_tokens, size=_DRAWN,
        decoding=self._decoding | {'eos_ids': (*s.config.eos_ids, s.end.id)},
        check_stop=lifecycle.check_stop,
    )

  def _scored(
      self, folder: str, source: sources.Source
  ) -> store.Shards:
    c = self._c
    shards = store.Shards(
        self._workdir / folder, source, size=c.shard, made_from=self._made_from,
        prefix=c.write.prefix)
    with tqdm.tqdm(total=source.count, desc=f'score {source.name}') as bar:
      def after(rows):
        bar.update(rows)
        lifecycle.check_stop()

      shards.make(
          lambda examples: self._score(examples=examples, tail=True),
          seed=c.seed, after=after)
    shards.rank()
    return shards

  def _endless(self, texts: int, length: int) -> tuple[ddt.TokenStats, np.ndarray]:
    """Statistics and PIT [texts, length] of samples that nothing ends."""
    c, s = self._c, self._s
    fitting = [
        ids for p in s.asked
        if len(ids := chat.encode_prompt(s.tokenizer, p.conversation[:-1]))
        + length <= s.max_tokens
    ]
    if not fitting:
      raise ValueError(f'no prompt leaves room for {length} tokens')
    prompts = [fitting[i % len(fitting)] for i in range(texts)]
    drawn = engine.generate(
        s.params, s.config, prompts, key=jax.random.key(c.seed + 1),
        max_new_tokens=length, temperature=c.temperature, eos_ids=(),
        **self._decoding)
    found = []
    for first in range(0, texts, c.shard):
      here = slice(first, first + c.shard)
      _, stats = self._score(examples=[
          chat.answered(p, g.tokens)
          for p, g in zip(prompts[here], drawn[here], strict=True)
      ], tail=True).collect()
      found.append(stats.map(lambda x: x.reshape(-1, length)))
    stats = jax.tree.map(lambda *x: np.concatenate(x), *found)
    uniform = np.random.default_rng(c.seed).random(stats.log_p.shape)
    return stats, ddt.randomised_pit(stats, uniform.astype(np.float32))
