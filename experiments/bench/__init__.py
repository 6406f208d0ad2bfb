"""Benchmarks: `python -m experiments.bench.{head,train,decode,score,sampler,stream}`.

`paired` takes the times, `models` makes models of random weights, and `peers` holds
the code that ours is compared with. Results: experiments/README.md.
"""
