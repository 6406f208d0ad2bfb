"""Costs of programs whose loops, products and collectives are known."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from ddt_jax import sharding
from experiments.tpu import hlo
from experiments.tpu import hlo_text
from experiments.tpu import hlo_trips


def compiled(f, *args, **options):
  return jax.jit(f, **options).lower(*args).compile()


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def unknown_to_the_compiler(text):
  """Without the notes that XLA for CPU leaves, as XLA for TPU writes it."""
  return re.sub(r'"known_trip_count":\{"n":"\d+"\},?', '', text)


def layers(x, weights):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def nested(x, weights):
  return jax.lax.fori_loop(0, 3, lambda i, x: layers(x, weights), x)


@pytest.mark.parametrize('noted', [True, False])
@pytest.mark.parametrize('f, products', [(layers, 5), (nested, 15)])
def test_loops_are_multiplied_in(f, products, noted):
  text = compiled(f, array(8, 32), array(5, 32, 32)).as_text()
  if not noted:
    text = unknown_to_the_compiler(text)
    assert 'known_trip_count' not in text
  found = hlo.cost(text)
  assert found.flops == products * 2 * 8 * 32 * 32
  assert found.unknown_loops == 0 and not found.collectives


def test_the_gradient_of_a_scan():
  grad = jax.grad(lambda x, w: layers(x, w).sum(), (0, 1))
  found = hlo.cost(compiled(grad, array(8, 32), array(5, 32, 32)).as_text())
  assert found.flops == 3 * 5 * 2 * 8 * 32 * 32


def test_a_stack_is_not_read_whole_at_every_turn():
  x, weights = array(8, 64), array(50, 64, 64)
  found = hlo.cost(compiled(layers, x, weights).as_text())
  stack, row = 50 * 64 * 64 * 4, 8 * 64 * 4
  # XLA:CPU copies each slice (a read and a write) and reads the copy. The product and
  # tanh each read and write x. The rest is counters.
  least = 3 * stack + 50 * 4 * row
  assert least <= found.bytes <= 1.01 * least


def test_what_is_put_into_an_array_counts_and_not_the_array():
  def fill(out, x):
    return jax.lax.fori_loop(
        0, 100, lambda i, o: jax.lax.dynamic_update_slice(o, x + i, (i, 0)), out)

  found = hlo.cost(compiled(
      fill, array(100, 1000), array(1, 1000), donate_argnums=0).as_text())
  # Every trip reads x and writes a row of the array; the rest is counters.
  assert 2 * 100 * 1000 * 4 <= found.bytes <= 1.01 * 2 * 100 * 1000 * 4


def test_bytes_of_a_program_without_loops():
  text = compiled(lambda a, b: a @ b, array(64, 128), array(128, 32)).as_text()
  found = hlo.cost(text)
  least = 4 * (64 * 128 + 128 * 32 + 64 * 32)
  assert found.bytes == least
  assert found.flops == 2 * 64 * 128 * 32


@pytest.mark.parametrize('dims', ['td,vd->tv', 'tv,vd->td', 'btd,bsd->bts'])
def test_flops_of_a_product_as_the_compiler_counts_them(dims):
  sizes = dict(t=6, d=10, v=14, b=3, s=5)
  a, b = dims.split('->')[0].split(',')
  both = [array(*(sizes[c] for c in x)) for x in (a, b)]
  c = compiled(functools.partial(jnp.einsum, dims), *both)
  assert hlo.cost(c.as_text()).flops == c.cost_analysis()['flops']


def test_loops_that_depend_on_data_count_as_they_are_told():
  def until(x, w):
    return jax.lax.while_loop(
        lambda x: jnp.sum(x) < 9, lambda x: jnp.tanh(x @ w), x)

  text = compiled(until, array(4, 4), array(4, 4)).as_text()
  found = hlo.cost(text, unknown_trips=7)
  assert found.unknown_loops == 1
  assert found.flops == 7 * 2 * 4 * 4 * 4


def test_only_the_dearest_branch_counts():
  def either(p, x):
    return jax.lax.cond(p, lambda x: x @ x @ x, lambda x: x @ x, x)

  text = compiled(either, array(dtype=bool), array(8, 8)).as_text()
  assert 'conditional' in text
  assert hlo.cost(text).flops == 2 * 2 * 8 * 8 * 8


def test_collectives_inside_loops_and_outside():
  mesh = sharding.make_mesh(data=1, fsdp=8)

  def local(x, w):
    whole = jax.lax.all_gather(w, 'fsdp', tiled=True)  # [64, 16]

    def turn(i, x):
      return jax.lax.psum(jnp.tanh(x), 'fsdp') + i

    return jax.lax.fori_loop(0, 6, turn, x) + whole.sum()

  f = jax.shard_map(
      local, mesh=mesh, in_specs=(P(), P('fsdp')), out_specs=P(), check_vma=False)
  found = hlo.cost(compiled(f, array(32), array(64, 16)).as_text())
  assert {k: tuple(v) for k, v in found.collectives.items()} == {
      ('all-gather', False): (1, 64 * 16 * 4),
      ('all-reduce', True): (6, 6 * 32 * 4),
  }


# What XLA for TPU writes ---------------------------------------------------------

COUNTER = '''HloModule m
%add_one (p: s32[]) -> s32[] {
  %p = s32[]{:T(128)} parameter(0)
  %one.1 = s32[]{:T(128)} constant(1)
  ROOT %a = s32[]{:T(128)} add(%p, %one.1)
}
%body (b: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {
  %b = (s32[]{:T(128)}, f32[4]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = f32[4]{0:T(128)} get-tuple-element(%b), index=1
  %most = s32[]{:T(128)} get-tuple-element(%b), index=2
  %next = s32[]{:T(128)} fusion(%i), kind=kLoop, calls=%add_one
  ROOT %t = (s32[]{:T(128)}, f32[4]{0:T(128)}, /*index=2*/s32[]{:T(128)}) tuple(%next, %x, %most)
}
%condition (c: (s32[], f32[4], s32[])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[4]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%c), index=0
  %most.1 = s32[]{:T(128)} get-tuple-element(%c), index=2
  ROOT %less = pred[]{:T(512)} compare(%i.1, %most.1), direction=LT
}
ENTRY %main (x.1: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0:T(128)} parameter(0)
  %start = s32[]{:T(128)S(6)} constant(-2)
  %end = s32[]{:T(128)} constant(5)
  %copied = s32[]{:T(128)} copy(%end)
  %t.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}, s32[]{:T(128)}) tuple(%start, %x.1, %copied)
  %w = (s32[]{:T(128)}, f32[4]{0:T(128)}, s32[]{:T(128)}) while(%t.1), condition=%condition, body=%body
  ROOT %r = f32[4]{0:T(128)} get-tuple-element(%w), index=1
}
'''


def trips(text):
  module = hlo_text.parse(text)
  entry = module.computations[module.entry]
  return hlo_trips.count(module, entry, entry.instructions['w'])


def test_a_counter_is_followed_through_copies_fusions_and_the_loops_tuple():
  assert trips(COUNTER) == 7
  assert trips(COUNTER.replace('constant(5)', 'constant(-2)')) == 0
  # The end comes from outside.
  data = COUNTER.replace('constant(5)', 'custom-call(), custom_call_target="f"')
  assert trips(data) is None


def test_a_loop_that_never_ends_is_given_up(monkeypatch):
  monkeypatch.setattr(hlo_trips, '_MOST', 50)
  assert trips(COUNTER.replace('constant(1)', 'constant(0)')) is None


STACK = '''HloModule m
%look (stack: f32[7,64], i: s32[], x: f32[64]) -> f32[64] {
  %stack = f32[7,64]{1,0} parameter(0)
  %i.2 = s32[]{:S(6)} parameter(1)
  %x.2 = f32[64]{0} parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,64]{1,0} dynamic-slice(%stack, %i.2, %zero), dynamic_slice_sizes={1,64}
  %row = f32[64]{0} bitcast(%slice)
  ROOT %sum = f32[64]{0} add(%row, %x.2)
}
%body (b: (s32[], f32[64], f32[7,64])) -> (s32[], f32[64], f32[7,64]) {
  %b = (s32[]{:S(6)}, f32[64]{0}, f32[7,64]{1,0}) parameter(0)
  %i = s32[]{:S(6)} get-tuple-element(%b), index=0
  %x = f32[64]{0} get-tuple-element(%b), index=1
  %s = f32[7,64]{1,0} get-tuple-element(%b), index=2
  %one = s32[]{:S(6)} constant(1)
  %next = s32[]{:S(6)} add(%i, %one)
  %y = f32[64]{0} fusion(%s, %i, %x), kind=kLoop, calls=%look
  ROOT %t = (s32[]{:S(6)}, f32[64]{0}, f32[7,64]{1,0}) tuple(%next, %y, %s)
}
%condition (c: (s32[], f32[64], f32[7,64])) -> pred[] {
  %c = (s32[]{:S(6)}, f32[64]{0}, f32[7,64]{1,0}) parameter(0)
  %i.1 = s32[]{:S(6)} get-tuple-element(%c), index=0
  %most = s32[]{:S(6)} constant(7)
  ROOT %less = pred[]{:S(6)} compare(%i.1, %most), direction=LT
}
ENTRY %main (x.1: f32[64], s.1: f32[7,64]) -> f32[64] {
  %x.1 = f32[64]{0} parameter(0)
  %s.1 = f32[7,64]{1,0} parameter(1)
  %start = s32[]{:S(6)} constant(0)
  %t.1 = (s32[]{:S(6)}, f32[64]{0}, f32[7,64]{1,0}) tuple(%start, %x.1, %s.1)
  %w = (s32[]{:S(6)}, f32[64]{0}, f32[7,64]{1,0}) while(%t.1), condition=%condition, body=%body
  ROOT %r = f32[64]{0} get-tuple-element(%w), index=1
}
'''


def test_every_byte_of_a_loop_over_a_stack():
  # Each of 7 trips reads a row of the stack and x, and writes x: 64 floats each.
  # The counter is in a fast memory.
  assert hlo.cost(STACK).bytes == 7 * 3 * 64 * 4


def entry(lines):
  return 'HloModule m\nENTRY %main () -> f32[] {\n' + lines + '\n}\n'


def test_fast_memory_is_free():
  found = hlo.cost(entry('''
  %a = f32[1024]{0:T(1024)} parameter(0)
  %copy-start = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[1024]{0:T(1024)S(1)} copy-done(%copy-start)
  ROOT %b = f32[1024]{0:T(1024)S(1)} negate(%copy-done)'''))
  assert found.bytes == 4096  # read once by the copy


def test_a_fusion_reads_what_it_converts_and_passes_parameters_on():
  text = '''HloModule m
%f (p: f32[64], q: f32[64]) -> (bf16[64], f32[64]) {
  %p = f32[64]{0} parameter(0)
  %q = f32[64]{0} parameter(1)
  %c = bf16[64]{0} convert(%p)
  ROOT %t = (bf16[64]{0}, f32[64]{0}) tuple(%c, %q)
}
''' + entry('''
  %a = f32[64]{0} parameter(0)
  %b = f32[64]{0} parameter(1)
  ROOT %r = (bf16[64]{0}, f32[64]{0}) fusion(%a, %b), kind=kLoop, calls=%f''')
  assert hlo.cost(text).bytes == 64 * 4 + 64 * 2


def test_a_collective_in_pieces_is_counted_once():
  piece = '''%{name} (p: bf16[4]) -> bf16[32] {{
  %p = bf16[4]{{0:T(128)}} parameter(0)
  %g.{name} = bf16[32]{{0:T(128)}} all-gather(%p), channel_id=7, dimensions={{0}}
  ROOT %c.{name} = {shape} custom-call(%g.{name}), custom_call_target="{target}"
}}
'''
  pair = '(bf16[4]{0:T(128)}, bf16[32]{0:T(128)}, u32[]{:S(2)})'
  text = (
      'HloModule m\n'
      + piece.format(name='begin', shape=pair, target='AsyncCollectiveStart')
      + piece.format(
          name='end', shape='bf16[32]{0:T(128)}', target='AsyncCollectiveDone')
      + entry(f'''
  %a = bf16[4]{{0:T(128)}} parameter(0)
  %s = {pair} fusion(%a), kind=kCustom, calls=%begin
  %a.1 = bf16[4]{{0:T(128)}} get-tuple-element(%s), index=0
  ROOT %d = bf16[32]{{0:T(128)}} fusion(%a.1), kind=kCustom, calls=%end''')
  )
  found = hlo.cost(text)
  assert dict(found.collectives) == {('all-gather', False): [1, 64]}
  assert found.bytes == 4 * 2 + 32 * 2


@pytest.mark.parametrize('window', [
    dict(window_strides=(1, 1), padding='SAME'),
    dict(window_strides=(2, 3), padding='VALID'),
    dict(window_strides=(1, 1), padding=((1, 2), (0, 3)),
         lhs_dilation=(2, 1), rhs_dilation=(1, 2)),
])
def test_flops_of_a_convolution_as_the_compiler_counts_them(window):
  conv = functools.partial(
      jax.lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **window)
  lowered = jax.jit(conv).lower(array(2, 9, 10, 3), array(4, 3, 3, 5))
  text = lowered.compiler_ir('hlo').as_hlo_text()
  expected = lowered.cost_analysis()['flops']
  assert hlo.cost(text).flops == pytest.approx(expected)


def test_text_that_is_no_module_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.cost('nothing')


def test_shapes():
  text = entry('''
  ROOT %t = ((bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s4[5]{0}), token[]) parameter(0)''')
  (inner, token) = hlo_text.parse(text).computations['main'].root.shape
  assert [(s.dtype, s.dims, s.space, s.bytes) for s in inner] == [
      ('bf16', (2, 3), 1, 12), ('s4', (5,), 0, 3)]
  assert token.bytes == 0 and np.prod(token.dims) == 1


def test_attention_kernels_are_counted_by_formula():
  call = """HloModule m

ENTRY %main (q: bf16[14,4096,64]) -> bf16[14,4096,64] {{
    %i = s8[1,8,8]{{2,1,0}} parameter(0)
    %q = bf16[14,4096,64]{{2,1,0}} parameter(1)
    %k = bf16[2,64,4096]{{2,1,0}} parameter(2)
    %v = bf16[2,4096,64]{{2,1,0}} parameter(3)
    ROOT %splash_mha_{kernel}_segmented.1 = (f32[512,128]{{1,0}}, bf16[14,4096,64]{{2,1,0}}) custom-call(%i, %i, %q, %k, %v), custom_call_target="tpu_custom_call"
}}
"""
  # 8 blocks of 512 a side: 36 of 64 are computed.
  product = 2 * 14 * 4096**2 * 64 * 36 / 64
  found = {k: hlo.cost(call.format(kernel=k))
           for k in ('fwd', 'dkv', 'dq')}
  assert {k: c.flops / product for k, c in found.items()} == {
      'fwd': 2, 'dkv': 4, 'dq': 3}
  assert all(c.kernel_flops == c.flops for c in found.values())
  # Beside one reading of everything: each head's keys and values 3.5 times more.
  once = sum(hlo._size(x) for x in (
      hlo_text.Shape('s8', (2, 1, 8, 8)), hlo_text.Shape('bf16', (14, 4096, 64)),
      hlo_text.Shape('bf16', (4, 4096, 64)), hlo_text.Shape('f32', (512, 128)),
      hlo_text.Shape('bf16', (14, 4096, 64))))
  assert found['fwd'].bytes == once + 3.5 * 14 * 2 * 4096 * 64 * 2
