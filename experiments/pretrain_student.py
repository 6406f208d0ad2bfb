r"""Rebuilds the student that ships with the project, tokenizer included.

python -m experiments.pretrain_student --config configs/student.py --out DIR
python -m experiments.pretrain_student --config configs/student.py --out DIR \
    --config.seed=1
python -m experiments.pretrain_student --config configs/student.py --out DIR \
    --config.model.width=256 --config.model.num_layers=6

Writes a Hugging Face folder, and the student's accuracy to DIR/student.json.
"""

import itertools
import json
import random
import time

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
import ddt_jax.embedded.tokenizer
from ddt_jax.rounds import evaluate
from ddt_jax.storage import typed_json
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.run import lifecycle
from experiments.run import options

_TOKENIZER_TEXTS = 4000  # chats of each kind that its merges are learnt from


def train_tokenizer(max_positions: int):
  """A byte-pair tokenizer of the world's chats."""
  chats = itertools.chain(
      problems.pretraining('answers', _TOKENIZER_TEXTS),
      problems.pretraining('books', _TOKENIZER_TEXTS),
      problems.pretraining('rewrites', _TOKENIZER_TEXTS),
  )
  train = ddt_jax.embedded.tokenizer.train
  # The chat template needs a tokenizer; one without merges will do.
  blank = train([], max_positions=max_positions)
  texts = (blank.apply_chat_template(c, tokenize=False) for c in chats)
  return train(texts, max_positions=max_positions)


def make_config(c, tokenizer, end: chat.TurnEnd) -> model.ModelConfig:
  """The architecture, in the fields of Hugging Face's config.json."""
  return model.ModelConfig.from_hf(dict(
      architectures=['Qwen2ForCausalLM'], model_type='qwen2',
      vocab_size=len(tokenizer), hidden_size=c.width,
      intermediate_size=c.mlp_width, num_hidden_layers=c.num_layers,
      num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
      max_position_embeddings=c.max_positions, rope_theta=c.rope_theta,
      rms_norm_eps=1e-6, hidden_act='silu', tie_word_embeddings=True,
      use_sliding_window=False, bos_token_id=None,
      pad_token_id=tokenizer.pad_token_id, eos_token_id=end.id,
      initializer_range=c.init_std,
  ))


def shuffled_batches(examples, tokens_per_batch, seed):
  """Cuts examples into batches of one token count, each of about one length.

  Returns:
    [(time, rows, examples)], shuffled; time * rows is about `tokens_per_batch`.
  """
  # Rows of one length need no padding beyond 31 tokens, and few shapes are
  # compiled.
  by_length = {}
  for e in examples:
    by_length.setdefault(lengths.row_length([e], 32), []).append(e)
  cut = [
      (time, group[i: i + tokens_per_batch // time])
      for time, group in by_length.items()
      for i in range(0, len(group), tokens_per_batch // time)
  ]
  # Batches are shuffled, not examples: a batch keeps its one length.
  random.Random(seed).shuffle(cut)
  return [(time, tokens_per_batch // time, rows) for time, rows in cut]


def make_optimizer(total_steps, c) -> optax.GradientTransformation:
  """Muon for the layers, Adam for the rest.

  From random weights Muon needs about a quarter of AdamW's steps.
  """
  muon_lr, adam_lr = (
      optimizer.make_schedule(
          lr=lr, total_steps=total_steps, warmup_ratio=c.warmup_ratio
      ) for lr in (c.lr, c.adam_lr)
  )

  def matrices(params):
    # Layers are stacked: a kernel is [L, in, out]. None leaves a parameter to Adam.
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


def pretrain(config: model.ModelConfig, steps, c):
  """Trains on the batches of `shuffled_batches` and returns the parameters."""
  tx = make_optimizer(len(steps), c.optim)
  params = model.init(config, jax.random.key(c.seed))
  state = train_step.TrainState.create(params, tx)
  step = jax.jit(
      train_step.make_train_step(config, tx, name='sft'), donate_argnums=0
  )
  progress = tqdm.tqdm(steps, 'pre-train', mininterval=5)
  for i, (length, rows, group) in enumerate(progress):
    state, metrics = step(state, batches.collate(group, rows, length))
    if i % 50 == 0:  # reading the loss waits for the device
      progress.set_postfix(loss=f"{metrics['loss'] / metrics['count']:.4f}")
  return state.params


def measure(params, config, tokenizer, end, *, problems_each, samples):
  """Accuracy on each split, and on target problems shown with their solutions."""
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


def main():
  c, out, start = flags.FLAGS.config, flags.FLAGS.out, time.time()
  tokenizer = train_tokenizer(c.model.max_positions)
  end = chat.turn_end(tokenizer)
  config = make_config(c.model, tokenizer, end)
  examples = [
      chat.encode(tokenizer, turns, end)
      for kind, count in c.text.items()
      for turns in tqdm.tqdm(
          problems.pretraining(kind, count, c.seed), f'tokenise {kind}', count
      )
  ]
  # Kinds come one after the other here; the shuffle mixes them.
  steps = shuffled_batches(examples, c.optim.tokens_per_batch, c.seed)
  params = pretrain(config, steps, c)
  weights.save(out, config, params, tokenizer=tokenizer)
  seconds = time.time() - start
  record = {
      'parameters': sum(x.size for x in jax.tree.leaves(params)),
      'steps': len(steps), 'seconds': round(seconds),
      'accuracy': typed_json.plain(measure(
          params, config, tokenizer, end, **c.evaluation
      )),
  }
  text = json.dumps(record, indent=2)
  storage.publish(storage.path(out) / 'student.json', text)
  print(text)


if __name__ == '__main__':
  options.define_config('configs/student.py')
  flags.DEFINE_string('out', None, 'Folder to write.', required=True)
  lifecycle.launch(main)
