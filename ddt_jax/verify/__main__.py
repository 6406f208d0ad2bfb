"""A verifier worker: JSON lines on standard input and output."""

from ddt_jax import verify
from ddt_jax.verify import worker

if __name__ == '__main__':
  worker.serve(verify.judge_in_worker, verify.check_kind)
