"""The cells of the study, behind `python -m experiments.study`.

  plan       the cells and their order
  corpora    one corpus for each seed, shared by the methods that train on it
  running    one cell: its config, its run, and what is measured of it
  mechanism  tokens by phi: their gradient, and what training does to them
  outcome    finished cells -> the chosen rates, the tables and the figures
"""
