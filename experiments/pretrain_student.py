"""Rebuilds the student that ships with the project.

python -m experiments.pretrain_student --config configs/student.py --out DIR

Writes a Hugging Face folder and prints what the student can do.
"""

import itertools
import json
import random
import time

from absl import app
from absl import flags
import jax
import optax
from optax.contrib import MuonDimensionNumbers
import tqdm

from ddt_jax import model
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import prompts
from ddt_jax.embedded import problems
from ddt_jax.embedded import tokenizer as student_tokenizer
from ddt_jax.rounds import evaluate
from ddt_jax.storage import typed_json
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.run import options

_CONFIG = options.define_config('configs/student.py')
_OUT = flags.DEFINE_string('out', None, 'Folder to write.', required=True)
_TOKENIZER_TEXTS = 4000


def train_tokenizer(max_positions: int):
  chats = itertools.chain(
      problems.pretraining('answers', _TOKENIZER_TEXTS),
      problems.pretraining('books', _TOKENIZER_TEXTS),
      problems.pretraining('rewrites', _TOKENIZER_TEXTS),
  )
  blank = student_tokenizer.train([], max_positions=max_positions)
  texts = (blank.apply_chat_template(c, tokenize=False) for c in chats)
  return student_tokenizer.train(texts, max_positions=max_positions)


def shuffled_batches(examples, tokens_per_batch, seed):
  """Batches of equal token counts, each of examples of about one length."""
  by_length = {}
  for e in examples:
    by_length.setdefault(lengths.row_length([e], 32), []).append(e)
  cut = [
      (time, group[i: i + tokens_per_batch // time])
      for time, group in by_length.items()
      for i in range(0, len(group), tokens_per_batch // time)
  ]
  random.Random(seed).shuffle(cut)
  return [
      (time, tokens_per_batch // time, rows) for time, rows in cut
  ]


def make_optimizer(total_steps, c) -> optax.GradientTransformation:
  """Muon: from random weights it needs about a quarter of AdamW's steps."""
  muon_lr, adam_lr = (
      optimizer.make_schedule(
          lr=lr, total_steps=total_steps, warmup_ratio=c.warmup_ratio
      ) for lr in (c.lr, c.adam_lr)
  )

  def matrices(params):
    # Stacked kernels [L, in, out]; None leaves a parameter to Adam.
    return jax.tree.map(
        lambda x: MuonDimensionNumbers((1,), (2,)) if x.ndim == 3 else None,
        params,
    )

  return optax.chain(
      optax.clip_by_global_norm(c.clip),
      optax.contrib.muon(
          muon_lr, adam_learning_rate=adam_lr, weight_decay=c.weight_decay,
          muon_weight_dimension_numbers=matrices,
      ),
  )


def measure(params, config, tokenizer, end, *, problems_each, samples):
  """Greedy accuracy on every split, and on targets given their solutions."""
  def solve(split, turns_of=None):
    return evaluate.accuracy(
        params, config, tokenizer, list(problems.problems(split, problems_each)),
        turns_of=turns_of, key=jax.random.key(0), samples=samples, eos_ids=(end.id,),
        max_new_tokens=192,
    )

  template = prompts.load('short')

  def hinted(p):
    return template.hinted_chat(p.problem, p.solution)

  return {
      'target': solve('test'),
      'target, hinted': solve('test', hinted),
      'generalisation': solve('generalisation'),
      'retained': solve('retained'),
  }


def main(argv):
  del argv
  c, start = _CONFIG.value, time.time()
  tokenizer = train_tokenizer(c.model.max_positions)
  end = chat.turn_end(tokenizer)
  config = model.ModelConfig.from_hf(dict(
      architectures=['Qwen2ForCausalLM'], model_type='qwen2',
      vocab_size=len(tokenizer), hidden_size=c.model.width,
      intermediate_size=c.model.mlp_width,
      num_hidden_layers=c.model.num_layers,
      num_attention_heads=c.model.num_heads,
      num_key_value_heads=c.model.num_kv_heads,
      max_position_embeddings=c.model.max_positions,
      rope_theta=c.model.rope_theta, rms_norm_eps=1e-6, hidden_act='silu',
      tie_word_embeddings=True, use_sliding_window=False,
      bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
      eos_token_id=end.id, initializer_range=c.model.init_std,
  ))
  examples = [
      chat.encode(tokenizer, turns, end)
      for kind, count in c.text.items()
      for turns in tqdm.tqdm(
          problems.pretraining(kind, count, c.seed), f'tokenise {kind}', count
      )
  ]
  steps = shuffled_batches(examples, c.optim.tokens_per_batch, c.seed)
  tx = make_optimizer(len(steps), c.optim)
  params = model.init(config, jax.random.key(c.seed))
  state = train_step.TrainState.create(params, tx)
  step = jax.jit(
      train_step.make_train_step(config, tx, name='sft'), donate_argnums=0
  )
  progress = tqdm.tqdm(steps, 'pre-train', mininterval=5)
  for i, (length, rows, group) in enumerate(progress):
    state, metrics = step(state, batches.collate(group, rows, length))
    if i % 50 == 0:
      progress.set_postfix(loss=f"{metrics['loss'] / metrics['count']:.4f}")
  weights.save(_OUT.value, config, state.params, tokenizer=tokenizer)
  seconds = time.time() - start
  record = {
      'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
      'steps': len(steps), 'seconds': round(seconds),
      'accuracy': typed_json.plain(measure(
          state.params, config, tokenizer, end, **c.evaluation
      )),
  }
  text = json.dumps(record, indent=2)
  storage.publish(storage.path(_OUT.value) / 'student.json', text)
  print(text)


if __name__ == '__main__':
  app.run(main)
