"""Sizes of the decoding cache: buckets, bytes, and what does not fit."""

import pathlib

import hypothesis
from hypothesis import strategies as st
import jax
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.engine import cache_plan
from ddt_jax.engine import loop_state
from tests.support import paths

TINY = paths.GOLDEN / 'models' / 'qwen2-tiny'
BUCKETS = sorted({*(2**k for k in range(4, 21)), *(3 * 2**k for k in range(3, 20))})
CONFIG = model.ModelConfig.from_hf(TINY)


def make_requests(n, lengths=(40,), limit=64):
  return [
      engine.Request(tuple([1] * k for k in lengths), limit, i)
      for i in range(n)
  ]


def planned(requests, *, slots, dtype='float32', mesh=None):
  mesh = mesh or sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  return cache_plan.plan(CONFIG, requests, slots=slots, dtype=dtype, mesh=mesh)


@hypothesis.given(st.integers(0, 10**6))
def test_a_bucket_holds_its_length_and_little_more(length):
  bucket = cache_plan.bucket(length)
  assert bucket == next(size for size in BUCKETS if size >= length)
  assert bucket == 16 or bucket <= 1.5 * length
  assert cache_plan.bucket(bucket) == bucket


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_the_bytes_are_those_of_the_arrays(dtype):
  plan = planned(make_requests(50, (40, 7)), slots=8, dtype=dtype)
  assert plan.slots == 8 and plan.widths == (48, 16) and plan.ring == 64
  made = jax.eval_shape(lambda: loop_state.empty(
      CONFIG, plan.widths, slots=plan.slots, queue=plan.queue, ring=plan.ring,
      dtype=dtype,
  ))
  held = [x for x in jax.tree.leaves(made) if x.ndim == 4]
  assert plan.bytes == sum(x.size * x.dtype.itemsize for x in held)
  whole = planned(make_requests(50, (40, 7)), slots=8)
  # A scale in float32 for each head and token, of 16 channels here.
  share = {'float32': 1, 'bfloat16': 1 / 2, 'int8': (16 + 4) / 64}[dtype]
  assert plan.bytes == share * whole.bytes
  assert '8 slots' in str(plan) and '48 + 16' in str(plan)


def test_devices_share_the_slots():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  plan = planned(make_requests(50), slots=10, mesh=mesh)
  alone = planned(make_requests(50), slots=12)
  assert plan.slots == 12
  assert plan.bytes < alone.bytes / 2


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
  sizes = [planned(make_requests(50), slots=n).bytes for n in range(1, 9)]
  monkeypatch.setattr(cache_plan, 'free_bytes', lambda: sizes[4])
  assert planned(make_requests(50), slots=5).slots == 5
  with pytest.raises(
      errors.InputError, match='8 slots .* for 5 slots; set decoding.slots=5'
  ):
    planned(make_requests(50), slots=8)
  monkeypatch.setattr(cache_plan, 'free_bytes', lambda: sizes[0] - 1)
  with pytest.raises(errors.InputError, match='not enough for one slot'):
    planned(make_requests(50), slots=8)


def test_where_free_memory_is_not_known_nothing_is_refused(monkeypatch):
  monkeypatch.setattr(cache_plan, '_MEMINFO', pathlib.Path('/nowhere'))
  assert planned(make_requests(50), slots=8).slots == 8
