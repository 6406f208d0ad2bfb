r"""Compiles the decoding loop for a TPU topology, without a TPU.

python -m experiments.compile_tpu --topology=v5e:2x4 --tensor=4

Needs the extra [tpu]. Prints the memory that a chip needs, by the compiler.
"""

import dataclasses
import os
import re

# Before JAX is imported: this machine need not have a TPU.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import app  # noqa: E402
from absl import flags  # noqa: E402
import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from ddt_jax import hinted_decode  # noqa: E402
from ddt_jax import model  # noqa: E402
from ddt_jax import sharding  # noqa: E402
from ddt_jax import slots as slots_lib  # noqa: E402

_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x4', 'Of the slice.')
_TENSOR = flags.DEFINE_integer('tensor', 4, 'Chips that share the heads.')
_SLOTS = flags.DEFINE_integer('slots', 64, 'Requests decoded together.')
_CONTEXT = flags.DEFINE_integer('context', 8192, 'Tokens a stream may have.')
_NEW = flags.DEFINE_integer('new', 2048, 'New tokens among them.')

QWEN2_5_7B = dict(
    architectures=['Qwen2ForCausalLM'], model_type='qwen2', vocab_size=152064,
    hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
    num_attention_heads=28, num_key_value_heads=4, rope_theta=1e6,
    rms_norm_eps=1e-6, hidden_act='silu', max_position_embeddings=32768,
    tie_word_embeddings=False, use_sliding_window=False,
    initializer_range=0.02, eos_token_id=151645,
)


def print_resharding(params, training, decoding, dtype) -> None:
  """What bringing parameters from one layout to the other costs a chip.

  Args:
    params: abstract, as in training.
    training, decoding: meshes of the same chips.
    dtype: of decoding.
  """
  halfway = sharding.halfway(decoding)
  names, received, temporary = set(), 0, 0
  done = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    name = sharding.path_name(path)
    at = [
        jax.sharding.NamedSharding(mesh, sharding.spec(name, x.shape, mesh))
        for mesh in (training, halfway, decoding)
    ]
    kind = x.shape, *(where.spec for where in at)
    if kind not in done:
      spent = 0
      for source, target in zip(at, at[1:], strict=False):
        compiled = jax.jit(lambda x: x, out_shardings=target).lower(
            jax.ShapeDtypeStruct(x.shape, dtype, sharding=source)
        ).compile()
        found = re.findall(
            r' (all-to-all|all-gather|collective-permute|all-reduce)',
            compiled.as_text(),
        )
        names.update(found)
        memory = compiled.memory_analysis()
        temporary = max(temporary, memory.temp_size_in_bytes)
        if found:
          spent += memory.output_size_in_bytes
      done[kind] = spent
    received += done[kind]
  print(
      f'From training with fsdp={training.shape["fsdp"]}: a chip receives at most'
      f' {received / 2**30:.2f} GiB ({", ".join(sorted(names))}), and needs'
      f' {temporary / 2**30:.2f} GiB beside them'
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  devices = topologies.get_topology_desc(
      platform='tpu', topology_name=_TOPOLOGY.value
  ).devices
  training = sharding.make_mesh(devices=devices)
  mesh = sharding.decoding_mesh(training, _TENSOR.value)
  config = dataclasses.replace(
      model.ModelConfig.from_hf(QWEN2_5_7B), dtype='bfloat16'
  )

  def place(tree, where):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree, where,
    )

  params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params
  )
  print_resharding(params, training, mesh, jnp.bfloat16)
  params = jax.eval_shape(model.unstacked, params)
  params = place(params, sharding.tree_shardings(params, mesh))
  width = _CONTEXT.value - _NEW.value
  made = jax.eval_shape(lambda: slots_lib.empty(
      config, (width, width), slots=_SLOTS.value,
      queue=max(1, 256 * _SLOTS.value // _NEW.value), ring=_NEW.value,
  ))
  slots, queue = place(made, slots_lib.shardings(made, mesh))
  everywhere = sharding.replicated(mesh)

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

  states = 16
  marks = slots_lib.Marks(
      array((config.vocab_size,), bool),
      array((states, config.vocab_size), jnp.int32), array((), jnp.int32),
  )
  mixture = hinted_decode.Mixture(beta=3.0)
  rule = slots_lib.Rule(0.3, 0.95, combine=mixture, first_may_end=False)
  with jax.set_mesh(mesh):
    compiled = slots_lib.decode.trace(
        params, config, slots, queue, rule=rule, steps=128, marks=marks,
        key=jax.eval_shape(lambda: jax.random.key(0)),
        more=array((), bool), mesh=mesh,
    ).lower(lowering_platforms=('tpu',)).compile()
  memory = compiled.memory_analysis()
  parts = {
      'weights, caches': memory.argument_size_in_bytes,
      'temporary': memory.temp_size_in_bytes,
      'new outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
  }
  print(
      f'Qwen2.5-7B, {_TOPOLOGY.value}, data={mesh.shape["data"]},'
      f' tensor={_TENSOR.value}: {_SLOTS.value} slots x 2 streams of'
      f' {_CONTEXT.value} tokens, bfloat16'
  )
  for name, size in parts.items():
    print(f'{name:>16}: {size / 2**30:6.2f} GiB a chip')
  print(f'{"in all":>16}: {sum(parts.values()) / 2**30:6.2f} GiB a chip')


if __name__ == '__main__':
  app.run(main)
