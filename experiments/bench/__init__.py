"""Benchmarks: `python -m experiments.bench.NAME`.

NAME is head, train, decode, score, sampler, stream or verify. `paired` takes the
times, `models` makes models of random weights, and `peers` holds the code that ours is
compared with. The results are in experiments/README.md.
"""
