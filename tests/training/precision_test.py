"""bfloat16 products: what stays in float32 around them."""

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import model
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.scoring import forward
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from tests.support import paths
from tests.support import student

MODEL = paths.GOLDEN / 'models' / 'qwen3-tiny'
# Numbers that bfloat16 would round before a sum or a difference: of softmax,
# normalisation, rope and the statistics of tokens.
DELICATE = {
    'exp', 'log', 'log1p', 'rsqrt', 'sqrt', 'cos', 'sin', 'reduce_sum', 'cumsum',
    'reduce_max', 'div',
}


def equations(jaxpr):
  """All equations of a program, those of its loops and calls included."""
  for e in jaxpr.eqns:
    yield e
    for inner in jax.tree.leaves(
        list(e.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def batch(rows=4, time=12):
  rng = np.random.default_rng(0)
  examples = [
      chat.Example(rng.integers(2, 400, time).astype(np.int32), np.arange(time) > 3)
      for _ in range(rows)]
  return next(iter(batches.in_order(examples, batch=rows)))


def make_step(dtype, lr):
  """SFT: IDFT's gradient of random texts would vanish beside Adam's eps."""
  config, params = weights.load(MODEL, dtype=dtype)
  _, tx = optimizer.make(
      total_steps=10, lr=lr, schedule='constant', warmup_ratio=0.0,
      weight_decay=0.0)
  state = train_step.TrainState.create(params, tx)
  return train_step.make_train_step(config, tx, name='sft'), state


def test_softmax_norms_rope_and_phi_are_float32():
  step, state = make_step('bfloat16', 1e-3)
  config, params = weights.load(MODEL, dtype='bfloat16')
  programs = (
      jax.make_jaxpr(step)(state, batch()),
      jax.make_jaxpr(lambda p, b: forward.batch_stats(
          p, config, student.mesh(), b))(params, batch()),
      jax.make_jaxpr(lambda p: model.forward(
          p, config, jnp.zeros((2, 1), jnp.int32),
          cache=model.init_cache(config, 2, 8)))(params),
  )
  for program in programs:
    found = list(equations(program.jaxpr))
    names = {e.primitive.name for e in found}
    assert {'exp', 'reduce_sum', 'rsqrt', 'dot_general'} <= names
    for e in found:
      if e.primitive.name in DELICATE:
        dtypes = {x.aval.dtype for x in e.invars}
        assert jnp.bfloat16 not in dtypes, e
    products = [e for e in found if e.primitive.name == 'dot_general']
    if program is not programs[0]:
      # And yet the products are of bfloat16, or the option would do nothing. In the
      # step the gradients of attention's scores are float32, as the scores are.
      assert all({x.aval.dtype for x in e.invars} == {jnp.dtype(jnp.bfloat16)}
                 for e in products)


def test_updates_below_bfloat16_are_kept():
  # bfloat16 has 8 bits: an update of 1e-5 times the weight would vanish.
  step, state = make_step('bfloat16', 1e-6)
  after, metrics = jax.jit(step)(state, batch())
  arrays = [x for x in jax.tree.leaves(after) if x.ndim]
  assert {x.dtype for x in arrays} == {jnp.dtype(jnp.float32)}
  old = np.asarray(state.params['layers']['mlp']['up']['kernel'])
  new = np.asarray(after.params['layers']['mlp']['up']['kernel'])
  assert (new != old).mean() > 0.9
  same = new.astype(jnp.bfloat16) == old.astype(jnp.bfloat16)
  assert same.mean() > 0.9
  assert jnp.bfloat16 not in {x.dtype for x in jax.tree.leaves(metrics)}


def test_the_loss_is_nearly_that_of_float32():
  sums = {}
  for dtype in ('float32', 'bfloat16'):
    step, state = make_step(dtype, 1e-3)
    sums[dtype] = jax.jit(step)(state, batch())[1]
  for name in ('loss', 'nll'):
    low, exact = (float(sums[d][name]) for d in ('bfloat16', 'float32'))
    assert low != exact
    np.testing.assert_allclose(low, exact, rtol=0.02, err_msg=name)
