"""phi over corpora: numbers only; `report` puts them into words and pictures.

  forward          texts -> token statistics, by the forward pass of training
  two_streams      Hinted Decoding's two streams along one text
  text_stats       token statistics of many texts in a few numbers
  sources          rows to score: a user's file, or own samples
  own_samples      the model's own samples
  response_scores  token statistics -> scores of each response
  token_sums       sums over the tokens of a corpus, part by part
  scored_corpus    rows and scores on disk, resumable; columns has the formats
  corpus_summary   a scored corpus in numbers
  diagnosis        how far off-policy it is, and in which tokens
  kl_to_base       how far a model has moved from its base
  calibration      the self-test on own samples
  controls         changes that it has to tell from own samples
  sample_size      how many samples it takes, by the speed of the model
"""
