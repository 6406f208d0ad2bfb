r"""Rounds of Hinted Decoding and IDFT on the embedded student: the reference.

python -m experiments.train --config configs/idft.py --workdir DIR

Two CPU cores, nothing cached: about 4 minutes. pass@1 in %: target 51.0 -> 96.3,
generalisation 31.0 -> 68.0, retained 96.3 -> 94.7 (300 problems each). With
gamma_max=2, as in the official code: 88.0, 55.7 and 96.0.

Each section is the keyword arguments of the function or record that is named
above it; the meaning of a field is documented there.
"""

import ml_collections

from configs import presets


def get_config(preset=''):
  c = ml_collections.ConfigDict()
  c.name = 'idft'  # of the run; its folder is runs/<name> unless --workdir is given
  c.seed = 0       # of sampling and shuffling
  c.rounds = 2     # each makes its own data with the model as it is
  c.update(
      model() | data() | curation() | objective() | training() | measuring()
      | machine())
  presets.apply(c, preset)  # of --config configs/idft.py:PRESET
  return c


def model():
  return dict(
      # experiments.run.inputs.load_model
      model=dict(
          path='embedded',    # or smollm2, or a Hugging Face folder or id
          dtype='float32',    # of activations and products; or bfloat16 (bf16)
          remat='none',       # recomputed in the backward: none | dots | full | auto
      ),
      # ddt_jax.lora.init: low-rank adapters on a frozen base, see configs/README.md
      lora=dict(
          rank=0,                # of the adapters; 0: all parameters are trained
          alpha=32.0,            # they are scaled by alpha / rank
          targets='all-linear',  # or q_proj,k_proj,v_proj,o_proj,gate_proj,...
          rslora=False,          # scale by alpha / sqrt(rank) instead
          path='',               # PEFT folder to start from; the rest must fit it
      ),
  )


def data():
  return dict(
      # experiments.run.inputs.load_data
      data=dict(
          name='word_problems',  # where path is empty; or reasoning_gym:TASK[,TASK]
          path='',               # your .jsonl or .parquet, or org/name of the hub;
                                 # separate several by commas. See configs/README.md
          weights='',            # proportions of several files, e.g. 2,1; '': all
          validation=0.05,       # share of your prompts that is held out
          evaluation=0.05,       # another share, for the measurements
          evaluation_path='',    # or a file of its own for the measurements
          columns=dict(          # what they are called in your file
              problem='problem',    # the question
              solution='solution',  # the reference
              answer='answer',      # to verify by; '': none, see configs/README.md
              messages='messages',  # a chat, in place of problem and solution
              id='id',              # a name for the row; '': its number
          ),
          question='{problem}',  # how a problem, or a chat's last turn, is asked
          marker='\\boxed{',     # the final answer follows it; or e.g. 'Answer:'
          kind='math',           # math | text | choice | package.module:function, see verify
          bad_rows='error',      # or skip: leave out rows that cannot be used
          gym=dict(              # ddt_jax.data.reasoning.world, of reasoning_gym
              problems=2000,      # number, to train and to validate on
              generalisation='',  # harder tasks, TASK:OPTION=VALUE[,TASK]: measured only
              retained='',        # other tasks: measured only
              seed=0,             # decides the problems
          ),
          split_turns=True,      # chats that thinking templates render turn by turn
          max_tokens=256,        # longest example, prompt and response together
          overlong='truncate',   # rule for longer ones: truncate | drop | error
      ),
  )


def curation():
  return dict(
      # ddt_jax.rounds.select.Options
      curate=dict(
          problems='fresh',      # of a round: a slice of its own, or epochs: all
          per_round=0,           # at most so many problems; 0: all
          samples=2,             # own answers to each problem
          keep=1,                # right ones of them that are trained on
          temperature=1.0,       # of own answers; 0: greedy
          top_p=1.0,             # of own answers: nucleus, share of the probability
          max_new_tokens=128,    # longest answer, own or rewritten, in tokens
          fallback='reference',  # unsolved: drop | reference | reference_if_phi_above
          min_phi=-1e9,          # nats per token: responses below are dropped
          drop_lowest=0.0,       # share of own and rewritten responses to drop
          score=True,            # phi of each response; False: references alone, at once
          shard=250,             # problems that a kill can cost
          project=dict(          # select.Projection: rewritten texts made exact
              sweeps=0,          # moves of each chain; 0: none
              chains=1,          # of each text; `keep` of their ends are trained on
              restarts=0.5,      # share of moves that draw the whole text anew
          ),
      ),
      # ddt_jax.rounds.answers.Rewriting: Hinted Decoding of what was not solved
      hint=dict(
          enabled=True,          # False: nothing is rewritten
          template='short',      # or worked_example, or your TOML file
          analysis='model',      # written before a rewriting; or none: at once
          prefill='',            # the analysis begins with it, e.g. '# Analyze'
          max_analysis_tokens=256,  # longest analysis
          schedule='linear',     # of lambda: linear | sigmoid | piecewise
          beta=3.0,              # slope of linear and sigmoid; the paper: 0.7 to 3
          center=0.5,            # normalised entropy where sigmoid is 1/2
          bounds=(0.3, 0.7),     # normalised entropies of piecewise
          temperature=0.3,       # of the mixture, and of the analysis
          top_p=0.95,            # likewise: nucleus, share of the probability
          order='top_p_first',   # the paper's code; or temperature_first
      ),
  )


def objective():
  return dict(
      # ddt_jax.objectives.token_loss
      loss=dict(
          name='idft',           # a key of objectives.WEIGHTS; or dpo, simpo: of pairs
          beta=1.0,              # > 0, nats: temperature of exp(-phi / beta); the paper's
          gamma_min=0.1,         # lower bound of the exponent; 0 is SFT, 1 is DFT
          gamma_max=1.0,         # the upper bound; the official code has 2
          denominator='tokens',  # or kept: only tokens whose weight is not 0
          weight_grad='stop',    # or through: also differentiate p in p^gamma
          a=1.0,                 # power: exponent of p
          q=0.5,                 # threshold: least probability that is trained
          keep_p=False,          # threshold: weigh what is kept by p
          bound=5.0,             # phi_mask: nats
          one_sided=False,       # phi_mask: leave out only phi < -bound
          k=20,                  # eaft: likeliest tokens; 0: all
          alpha=1.0,             # eaft: exponent of the entropy
          normalised=True,       # eaft: the k probabilities sum to 1
          high=1.28,             # psft: largest p / p_old that is trained
          temperature=1.0,       # iw_sft: of the weight of a sequence
          most=16.0,             # iw_sft: largest weight
      ),
      # ddt_jax.training.pair_loss.Preference: losses of pairs, loss.name=dpo | simpo
      preference=dict(
          beta=0.1,              # scale of the margin; SimPO: 2.0 to 2.5
          gamma=1.0,             # simpo: margin that is asked for, about beta / 2
          label_smoothing=0.0,   # dpo: share of pairs labelled the wrong way round
          nll_weight=0.0,        # of the NLL of right answers, per token
      ),
      # ddt_jax.training.reference.Reference: the model that a loss compares with
      reference=dict(
          kl_weight=0.0,         # adds the KL from it to the model to the loss
          kind='frozen',         # the model before training; or refreshed: of at most
                                 # `every` steps ago | ema: moving average | live
          every=8,               # steps, of refreshed
          rate=0.05,             # of ema
      ),
      # ddt_jax.training.distill.Distillation, of loss.name='distill': the student
      # follows a teacher on its own responses, which `curate` says how to draw
      distill=dict(
          every=1,               # steps between two draws of responses
          responses='all',       # or right: those that the verifier calls right
          teacher='',            # the model of `reference`; or a folder with its tokenizer
          hint=True,             # the teacher reads the reference, see hint.template
          kind='forward',        # KL(teacher || student); or reverse, jsd
          mixture=0.5,           # of jsd: share of the teacher in the mixture
          temperature=1.0,       # of both distributions
          clip=0.0,              # largest divergence of a token, nats; 0: no bound
          skip=0,                # first tokens of a response that are not trained
          least_entropy=0.0,     # of the teacher, nats: other tokens are not trained
          most_entropy=0.0,      # 0: no bound
      ),
      # ddt_jax.objectives.curriculum, as shares of the steps: of a round, or of the
      # run with across_rounds='continue'
      curriculum=dict(
          warmup_ratio=0.0,      # at strength 0, where IDFT is DFT
          transition_ratio=0.0,  # rising linearly to strength 1
      ),
  )


def training():
  return dict(
      # ddt_jax.training.optimizer.make
      optim=dict(
          lr=3e-4,               # peak; -1: the paper's for the data
          schedule='cosine',     # or wsd, constant
          warmup_ratio=0.1,      # share of the steps, as of the curriculum
          decay_ratio=0.2,       # share of the steps that wsd decays over
          b1=0.9,                # of Adam; b1, b2, weight_decay and clip: the paper's
          b2=0.95,               # of Adam
          eps=1e-8,              # of Adam
          weight_decay=0.01,     # decoupled, on every parameter; 0: none
          clip=1.0,              # global norm of the gradient; 0: none
      ),
      # read by experiments/train.py
      train=dict(
          batch=32,              # rows of a step, over all devices: examples, if not packed;
                                 # pairs of rows, with a loss of pairs
          epochs=1,              # passes over a round's examples
          max_steps=0,           # of a round, at most; 0: those of its epochs
          pack=False,            # several examples in a row of data.max_tokens,
                                 # in training, validation and scoring
          micro_batches=1,       # a step's batch is cut into so many; same numbers;
                                 # 0: as few as fit
          across_rounds='restart',  # or continue: moments, schedule, curriculum
          mask_mode='correct',   # official: the official trainer's, off by one
          max_skipped_in_a_row=10,  # updates without a finite gradient end the run
      ),
  )


def measuring():
  return dict(
      # read by experiments/train.py; in steps
      validation=dict(
          every=25,              # NLL of the references held out; 0: never
          accuracy_every=100,    # greedy answers to `problems` of them; 0: never
          problems=200,          # at most, that are answered
          patience=0,            # a round ends after so many validations without a
                                 # better one, see checkpoint.export; 0: never
      ),
      # ddt_jax.rounds.evaluate.by_split: before and after training, each round
      evaluation=dict(
          problems=300,          # of each split, at most; 0: none
          samples=4,             # k of avg@k; 0 leaves it out
          temperature=1.0,       # of the samples; 0: greedy
          top_p=1.0,             # of the samples: nucleus, share of the probability
          max_new_tokens=128,    # longest answer, in tokens
      ),
      # experiments.run.drift.by_split: KL(base || model) before and after each
      # round, on answers of the model before training; in measured/*.json
      kl_to_base=dict(
          problems=0,            # prompts of each split; 0: none
          max_new_tokens=128,    # longest answer, in tokens
      ),
      # ddt_jax.verify.verify_all
      verifier=dict(
          workers=2,             # processes
          timeout_s=5.0,         # of one comparison, seconds
      ),
      # experiments.run.inputs.scoring_rows: of forwards without a gradient
      scoring=dict(
          rows=32,               # together, at most, on each device
          tokens=8192,           # together, at most, on each device; padding included
      ),
      report=dict(
          examples=1000,         # references whose phi is measured
          shown=3,               # examples on the page, coloured by phi
          problems=10,           # shown as reference, wrong answer and rewriting
      ),
  )


def machine():
  return dict(
      # ddt_jax.sharding.make_mesh: devices of each axis; -1: all that are left
      mesh=dict(
          data=1,                # copies of the model, which share the batch
          fsdp=-1,               # devices that share the model and the batch
          tensor=1,              # devices that share each product: heads, vocabulary
      ),
      # experiments.run.inputs.decoding_options
      decoding=dict(
          slots=256,             # responses decoded together; 0: as many as fit
          tensor=1,              # devices that share the heads, the rest are copies;
                                 # 0: as few as hold the weights
          cache_dtype='',        # of keys and values: '' (model.dtype), bfloat16, int8
      ),
      checkpoint=dict(
          every=50,              # steps; also at the end of a round
          keep=2,                # newest ones
          keep_every=0,          # also those of every so many steps, for good; 0: none
          export='last',         # parameters in <workdir>/model; or best: highest
                                 # validation accuracy; of sft without it, lowest NLL
      ),
      log=dict(
          every=5,               # steps
          tensorboard=True,      # whether to write its files
          wandb='',              # project; '' for none
      ),
  )
