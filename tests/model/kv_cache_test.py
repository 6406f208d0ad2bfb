"""Keys and values in 8 bits: the error of a number, and that of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import model
from ddt_jax import weights
from ddt_jax.model import kv_cache
from tests.support import paths

forward = jax.jit(model.forward, static_argnames='config')


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_number_is_off_by_at_most_half_a_scale(dtype):
  x = jax.random.normal(jax.random.key(0), (3, 2, 16, 20), dtype)
  # Tokens and heads differ in size by far; one is empty.
  x *= 10.0 ** jax.random.randint(jax.random.key(1), (3, 2, 1, 20), -6, 6).astype(dtype)
  x = x.at[0, 1, :, 3].set(0)
  q = kv_cache.quantise(x, channels=2)
  assert q.values.dtype == jnp.int8 and q.scale.shape == (3, 2, 1, 20)
  error = np.abs(kv_cache.read(q, jnp.float32) - x.astype(jnp.float32))
  assert (error <= 0.5001 * np.asarray(q.scale)).all()
  assert (np.abs(q.values).max(2) == 127).sum() == 3 * 2 * 20 - 1  # its whole range


def test_new_tokens_change_no_other_column():
  x = jax.random.normal(jax.random.key(0), (2, 2, 4, 9))
  for tokens, shape in ((3, (2, 2, 4, 9)), (2, (2, 2, 9, 4))):
    old = kv_cache.empty(shape, 5 - tokens, jnp.int8)
    each = x if tokens == 3 else x.swapaxes(2, 3)
    whole = kv_cache.append(old, each, 0, tokens)
    first, second = jnp.split(each, [5], tokens)
    parts = kv_cache.append(kv_cache.append(old, first, 0, tokens), second, 5, tokens)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


# Root mean square of the logits' error, divided by their standard deviation; twice
# what is seen. Few channels and large random weights make these models hard.
TOLERANCES = {'bfloat16': 0.03, 'int8': 0.07}


@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize('name', ['qwen2-tiny', 'qwen3-tiny', 'llama-tiny'])
def test_decoding_with_a_cache_of_few_bits_is_close_to_float32(name, dtype):
  config, params = weights.load(paths.GOLDEN / 'models' / name)
  ids = np.load(paths.GOLDEN / 'logits' / f'{name}.npz')['ids_long'][None, :96]
  exact, _ = forward(params, config, ids)
  cache, parts = model.init_cache(config, 1, 100, dtype), []
  for start in range(0, 96, 8):
    part, cache = forward(params, config, ids[:, start:start + 8], cache=cache)
    parts.append(part)
  error = np.asarray(jnp.concatenate(parts, 1) - exact)
  assert 0 < np.sqrt(np.mean(error**2)) <= TOLERANCES[dtype] * np.std(exact)
