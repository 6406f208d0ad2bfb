"""Code that the commands share.

  options      the command line: unknown options end in one line
  lifecycle    start, stop, exit status
  workdir      a run's folder: its lock, its config, results that are made once
  checks       every option of a training config, tried before any work
  model_files  tokenizer and stop tokens of a model's folder
  inputs       model and data of a config
  preview      what a run would do
  curation     the corpus of one round
  distilling   the teacher, the batches and the loss of distillation
  run_state    the train state of a run: created, saved, restored
  steps        the batches and the training step of a round
  live         the report while a run is at work
  measure      accuracy, validation, the run's results
  exporting    the model of a run as a Hugging Face folder
"""
