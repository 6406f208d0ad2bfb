"""Where parameters and batches lie on eight (fake) devices."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.training import train_step
from tests.support import paths

MODELS = paths.GOLDEN / 'models'


def abstract(name):
  config = model.ModelConfig.from_hf(MODELS / name)
  return jax.eval_shape(lambda: model.init(config, jax.random.key(0)))


def specs(tree, mesh):
  found = jax.tree_util.tree_leaves_with_path(
      sharding.tree_shardings(tree, mesh)
  )
  return {sharding.path_name(path): place.spec for path, place in found}


@pytest.mark.parametrize('sizes, shape', [
    ({}, (1, 8, 1)),
    ({'data': 2, 'tensor': 2}, (2, 2, 2)),
    ({'data': -1, 'fsdp': 4}, (2, 4, 1)),
    ({'data': 8, 'fsdp': 1}, (8, 1, 1)),
])
def test_one_axis_takes_what_is_left(sizes, shape):
  mesh = sharding.make_mesh(**sizes)
  assert tuple(mesh.shape.values()) == shape
  assert mesh.axis_names == sharding.AXES


@pytest.mark.parametrize('sizes, message', [
    ({'data': 3, 'fsdp': 1}, 'data=3.*8 device'),
    ({'tensor': 3}, 'tensor=3.*8 device'),
    ({'data': -1}, 'at most one'),
    ({'data': 0}, 'positive'),
    ({'tensor': -2}, 'positive'),
])
def test_meshes_that_do_not_fit_are_refused(sizes, message):
  with pytest.raises(errors.InputError, match=message):
    sharding.make_mesh(**sizes)


def test_fewer_devices_can_be_used():
  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  assert tuple(mesh.shape.values()) == (1, 2, 1)


def test_table_by_hand():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  found = specs(abstract('llama-tiny'), mesh)
  assert found['layers/attn/q/kernel'] == P(None, 'fsdp', 'tensor')
  assert found['layers/attn/o/kernel'] == P(None, 'tensor', 'fsdp')
  assert found['layers/mlp/down/kernel'] == P(None, 'tensor', 'fsdp')
  # 503 rows divide by nothing: they are left whole, and columns are split.
  assert found['embed/embedding'] == P(None, 'fsdp')
  assert found['head/kernel'] == P(None, 'fsdp')
  assert found['final_norm/scale'] == P()
  qwen2 = specs(abstract('qwen2-tiny'), mesh)
  assert qwen2['layers/attn/k/bias'] == P(None, 'tensor')


def test_rows_of_a_vocabulary_are_split_over_both_axes_where_they_divide():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  for path in ('embed/embedding', 'head/kernel', 'opt_state/0/mu/head/kernel'):
    assert sharding.spec(path, (504, 48), mesh) == P(('tensor', 'fsdp'))
    assert sharding.spec(path, (502, 48), mesh) == P('tensor', 'fsdp')


@pytest.mark.parametrize('name', ['qwen2-tiny', 'qwen3-tiny', 'llama-tiny'])
def test_every_matrix_has_a_rule_of_its_own(name):
  # A new layer whose path matches no rule would silently be replicated.
  mesh = sharding.make_mesh(data=1, fsdp=8)
  for path, spec in specs(abstract(name), mesh).items():
    if path.endswith(('kernel', 'embedding')):
      assert any('fsdp' in (axes or ()) for axes in spec), path


def test_optimizer_moments_lie_where_their_parameters_do():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  params = abstract('qwen2-tiny')
  create = functools.partial(train_step.TrainState.create, tx=optax.adamw(1e-3))
  found = specs(jax.eval_shape(create, params), mesh)
  wanted = specs(params, mesh)
  for path, spec in wanted.items():
    same = [s for p, s in found.items() if p.endswith(path)]
    assert len(same) == 3 and set(same) == {spec}, path  # itself, mu and nu
  assert found['step'] == P()


def test_batches_are_split_over_data_and_fsdp():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  x = jax.device_put(np.zeros([8, 3]), sharding.batch_sharding(mesh))
  assert {s.data.shape for s in x.addressable_shards} == {(2, 3)}
  y = jax.device_put(np.zeros([8, 3]), sharding.replicated(mesh))
  assert {s.data.shape for s in y.addressable_shards} == {(8, 3)}


@pytest.mark.parametrize('axes, tensor', [
    (dict(fsdp=8), 2), (dict(data=2, fsdp=2, tensor=2), 4), (dict(tensor=8), 1),
])
def test_parameters_go_to_the_decoding_layout(axes, tensor, capfd):
  config = model.ModelConfig.from_hf(MODELS / 'qwen2-tiny')
  params = model.init(config, jax.random.key(0))
  mesh = sharding.make_mesh(**axes)
  trained = jax.device_put(params, sharding.tree_shardings(params, mesh))
  decoding = sharding.decoding_mesh(mesh, tensor)
  assert dict(decoding.shape) == dict(data=8 // tensor, fsdp=1, tensor=tensor)
  found = sharding.reshard(trained, decoding, jnp.bfloat16)
  jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x, y.astype(jnp.bfloat16)),
      found, params,
  )
  kernel = found['layers']['mlp']['gate']['kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // tensor
  assert 'rematerialization' not in capfd.readouterr().err
  same = sharding.reshard(found, decoding, jnp.bfloat16)
  # Nothing was copied.
  assert all(map(operator.is_, jax.tree.leaves(same), jax.tree.leaves(found)))


def test_a_tensor_size_that_divides_no_devices_is_refused():
  mesh = sharding.make_mesh(fsdp=8)
  for tensor in (0, 3):
    with pytest.raises(errors.InputError, match=f'decoding.tensor={tensor}'):
      sharding.decoding_mesh(mesh, tensor)
