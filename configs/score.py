r"""Is this data on-policy for my model? Scores of any prompts and responses.

python -m experiments.score --config configs/score.py \
    --config.data.path=my.jsonl [--config.model.path=DIR] [--workdir DIR]

Several inputs side by side: --config.data.paths=a.jsonl,b.jsonl,own
Self-test, before you trust a score: --config.calibrate=True

Two CPU cores, the embedded student, 1,000 rows and 1,000 own samples: 36 s.
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.name = 'score'     # its folder is runs/<name>/<inputs> unless --workdir is given
  c.seed = 0           # of own samples, of the randomised PIT, of shown examples
  c.temperature = 1.0  # > 0: of the scored distribution and of own samples
  c.calibrate = False  # whether to run the self-test first
  c.shard = 2048       # rows in a file of scores, all that a kill can cost
  c.update(data() | self_test() | machine())
  return c


def data():
  return dict(
      # experiments.run.inputs.load_model
      model=dict(
          path='embedded',  # or smollm2, or a Hugging Face folder or id
          dtype='float32',  # of activations and products; or bfloat16
          remat='none',     # without effect: scoring has no backward
      ),
      # ddt_jax.lora.init: adapters on the model, see configs/README.md
      lora=dict(
          rank=0,           # of the adapters; 0: none
          alpha=32.0,       # they are scaled by alpha / rank
          targets='all-linear',  # as in the folder
          rslora=False,     # scale by alpha / sqrt(rank) instead
          path='',          # the PEFT folder that holds them
      ),
      data=dict(
          path='',          # a file, or org/name of the hub, see configs/README.md
          paths='',         # or several, with commas; own: the model's own samples
          columns=dict(     # their names in your files
              problem='problem',    # the question
              solution='solution',  # the response that is scored
              messages='messages',  # a chat, in place of the two
          ),
          source='source',  # column by which the report breaks a file down
          question='{problem}',  # how a problem, or a chat's last turn, is asked
          bad_rows='error',      # or skip
          max_tokens=0,     # longest prompt and response; 0: the model's context
          overlong='truncate',   # rule for longer ones: truncate | drop | error
          split_turns=True,      # chats that thinking templates render turn by turn
      ),
      write=dict(
          prefix='ddt_',    # of the columns that scores are written to
          keep='',          # filter whose rows go to kept.jsonl, e.g. accepted or
                            # phi>-0.5; see ddt_jax.scoring.filters
      ),
      report=dict(
          examples=1000,    # responses on the page, of all inputs together
          tokens=400,       # shown of each, at most
      ),
  )


def self_test():
  return dict(
      own=dict(
          samples=1000,         # number, where `own` is among data.paths
          max_new_tokens=256,   # longest sample, also in the self-test
      ),
      calibration=dict(
          samples=0,            # own samples; 0: as many as the minutes allow
          minutes=10.0,         # that they may take; at least 100 are drawn
          lengths=(16, 64, 256),  # tokens: false positives are counted at these
          controls=False,       # whether to test that wrong models and masks show
          noise=0.05,           # relative noise on the weights of the wrong model
      ),
  )


def machine():
  return dict(
      batch=dict(
          tokens=4096,  # in one forward on each device, padding included: this
                        # bounds the memory; a longer text is scored alone
      ),
      # ddt_jax.sharding.make_mesh: devices of each axis; -1: all that are left
      mesh=dict(
          data=1,          # copies of the model, which share the rows
          fsdp=-1,         # devices that share the model and the rows
          tensor=1,        # devices that share each product: heads, vocabulary
      ),
      # experiments.run.inputs.decoding_options
      decoding=dict(
          slots=256,       # responses decoded together
          tensor=1,        # devices that share the heads; the rest are copies
          cache_dtype='',  # of keys and values: '' (model.dtype), bfloat16, int8
      ),
  )
