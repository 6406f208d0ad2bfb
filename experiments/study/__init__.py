"""The study: methods x learning rates x seeds, `python -m experiments.study`.

  __main__   the command: cells one after the other, then the tables
  plan       the cells and their order
  corpora    one corpus for each seed, shared by the methods that train on it
  cells      one cell: its config, its run, and what is measured of it
"""
