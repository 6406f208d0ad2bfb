"""The way of the data, from a row of a file to a batch of tokens.

  formats        a JSONL or Parquet file, or a data set of the hub -> rows
  layouts        rows of other projects (ShareGPT, Alpaca, GSM8K, ...) -> our columns
  public_sets    GSM8K, NuminaMath-CoT, DeepMath from the hub's Parquet files -> rows
  conversations  the turns of a row, checked and in one form
  rows           a row of a file -> a `records.Problem`, or the reason why not
  readers        a file -> problems and bad rows
  census         one pass over a file too large for memory: counts, types, sample
  records        Problem and Response, and their JSON lines
  tables         rows of messages or pairs -> files that other trainers read
  splits         problems -> training, validation, evaluation
  corpus         files -> the problems of a run (`readers`, then `splits`)
  reasoning      tasks of the package reasoning-gym -> the problems of a run;
                 `reasoning_worker` makes and scores them in subprocesses
  prompts        a problem -> the turns that ask for its solution or its rewrite;
                 `templates/` holds the wording of the latter
  rendering      turns -> text by the model's chat template, with checks
  chat           turns -> token ids, and which of them are supervised
  turns          conversations that a template renders one answer at a time
  lengths        the one rule for examples that are too long; references tokenised
                 once for a whole run
  token_store    tokens of conversations, kept from one start to the next
  batches        examples -> batches for training and validation
  pair_batches   pairs of responses -> batches for training
  two_contexts   responses behind two prompts -> batches for distillation
  buckets        examples -> batches for scoring
  stage_cache    the output of a stage in files, so that a stopped run resumes
"""
