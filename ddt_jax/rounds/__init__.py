"""One round: the model answers, and what is right becomes its training data.

  answers   responses to problems, sampled or rewritten, with verdicts
  stages    work in blocks: bars, files, stops
  leaks     texts that show that a hint was read
  select    which responses are trained on
  pairs     right against wrong responses, for preference losses
  counts    a round in numbers
  from_hints  rewriting, and exact projection of what it gave
  curate    one round's corpus, stage by stage
  pair_corpus  one round's pairs, likewise
  own_rows  batches that the student writes while it is trained
  evaluate  pass@1 and avg@k on held-out problems
"""
