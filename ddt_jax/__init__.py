"""On-policy SFT in JAX: score data by how natural it is, train by it, rewrite it.

Dimensions, used in docstrings and einsums everywhere:

  B batch, T time, S cache, V vocabulary, D width, F MLP width,
  N heads, K kv heads, H head dim, L layers, R kv groups (N = K R)

Where things live; a module imports only modules above it:

  ddt          token statistics, phi, the calibrated on-policy test
  objectives   token weights (sft, dft, idft), the curriculum, the mean
  hinting      lambda schedules, the geometric mixture of two streams
  sampling     temperature, top-p, draw
  stopping     repetition, a splitter's automaton over tokens
  storage      the one place that touches files: append, publish, digest, lock
               (its parts: object_store for gs://, locks)
  processes    several on one run: what the first decides and writes
  records      Problem, Response; JSONL
  shards       a stage's output: whole, checked and never made twice
  prompts      chats for answering and for rewriting; templates of these
  verify       boxed answers: extract, compare, in killable workers
               (its parts: verify_algebra, verify_math, verify_worker)
  sharding     mesh; (parameter path, PartitionSpec) rules
  vocab_head   hidden states -> token statistics, without the logits
               (its parts: vocab_parts, vocab_stream, vocab_tiles)
  model        the decoder and its pure `forward`
               (its parts: attention, model_config)
  weights      Hugging Face safetensors <-> params
  engine       batched sampling: slots that are refilled on the device
               (its parts: requests, slots, cache_plan, ledger)
  hinted_decode  the two-stream loop, and rewriting by it
  optimizer    optax chain and schedules
  train_step   TrainState, make_train_step
  datasets/    TFDS builder of the embedded world; JSONL and Parquet readers
  embedded/    the student that ships with the project and its world
  batches      tokenise, mask, shuffle, place on the mesh (Grain)
  score        token statistics of a corpus (its part: buckets)
  checkpoint   Orbax: state + data iterator + progress
  corpus_stats of a scored corpus: responses, tokens, AUROC, false discoveries
  metrics      scalars to JSONL, TensorBoard, W&B
  evaluate     accuracy on held-out problems
  curate       one round's corpus: sample, verify, rewrite, verify, score, filter
  report       a run's folder -> Markdown, HTML and PNG
               (its parts: report_summary, report_plots, report_html, page)
  score_shards a corpus -> its scores, Parquet and JSONL (its part: score_rows)
  own_samples  what the model answers by itself
  calibration  the scores' self-test on these
  score_report scored corpora -> verdict, HTML and PNG
               (its parts: score_summary, score_plots, score_page, pages/)
"""
