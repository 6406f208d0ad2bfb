"""What both ways through the vocabulary head share: parts of it, and meshes."""

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ddt_jax import ddt
from ddt_jax import sharding

ROWS = sharding.BATCH  # of hidden states, over data and fsdp
_CHUNK_LOGITS = 2**25  # held at a time: 128 MiB
_NOTHING = -1e10  # the largest logit among none


@struct.dataclass
class Sums:
  """Sums over a part of the vocabulary, all [T], with u = z - top.

  Relative to the largest logit they cannot overflow, and their differences do
  not cancel: what counts has a u near 0.
  """

  top: jax.Array  # max z
  mass: jax.Array  # sum e^u
  first: jax.Array  # sum e^u u
  second: jax.Array  # sum e^u u^2
  pairs: jax.Array  # sum e^2u
  target: jax.Array  # z of the target if it is in this part, else 0
  above: jax.Array | None = None  # sum e^u over z > z of the target, if asked for
  equal: jax.Array | None = None  # likewise over z = z of the target

  @classmethod
  def of_nothing(cls, tokens: int, tail: bool = False) -> 'Sums':
    zeros = jnp.zeros(tokens, jnp.float32)
    return cls(zeros + _NOTHING, *[zeros] * (7 if tail else 5))

  @classmethod
  def of(
      cls, z: jax.Array, targets: jax.Array,
      against: tuple[jax.Array, jax.Array] | None = None,
  ) -> 'Sums':
    """Of logits z [T, C]; targets [T] are columns of z or outside it.

    With `against`, see `compared`, also above and equal.
    """
    top = jnp.max(z, -1)
    u = z - top[:, None]
    e = jnp.exp(u)
    return cls(
        top, jnp.sum(e, -1), jnp.sum(e * u, -1), jnp.sum(e * u * u, -1),
        jnp.sum(e * e, -1), _at(z, targets),
        *(jnp.sum(jnp.where(those, e, 0.0), -1) for those in against or ()),
    )

  def moved(self, top: jax.Array) -> 'Sums':
    """The same sums relative to another `top`, not below this one."""
    d = self.top - top
    scale = jnp.exp(d)
    return Sums(
        top,
        scale * self.mass,
        scale * (self.first + d * self.mass),
        scale * (self.second + 2 * d * self.first + d * d * self.mass),
        scale * scale * self.pairs,
        self.target,
        *(x if x is None else scale * x for x in (self.above, self.equal)),
    )

  def plus(self, other: 'Sums') -> 'Sums':
    top = jnp.maximum(self.top, other.top)
    both = jax.tree.map(jnp.add, self.moved(top), other.moved(top))
    return both.replace(top=top)

  @property
  def lse(self) -> jax.Array:
    """log sum e^z."""
    return self.top + jnp.log(self.mass)

  @property
  def stats(self) -> ddt.TokenStats:
    log_mass, mean = jnp.log(self.mass), self.first / self.mass
    return ddt.TokenStats(
        log_p=self.target - self.top - log_mass,
        entropy=log_mass - mean,
        varentropy=jnp.maximum(self.second / self.mass - mean * mean, 0.0),
        collision=self.pairs / (self.mass * self.mass),
        **{} if self.above is None else {
            'tail': self.above / self.mass, 'ties': self.equal / self.mass},
    )


@struct.dataclass
class Top:
  """The k largest logits of a part of the vocabulary, the largest first; [T, k]."""

  z: jax.Array
  ids: jax.Array

  @classmethod
  def of_nothing(cls, tokens: int, k: int) -> 'Top':
    return cls(jnp.full((tokens, k), -jnp.inf), jnp.zeros((tokens, k), jnp.int32))

  @classmethod
  def of(cls, z: jax.Array, k: int, start: int) -> 'Top':
    """Of logits z [T, C], the columns from `start` on."""
    z, ids = jax.lax.top_k(z, min(k, z.shape[1]))
    return cls(z, ids + start)

  def plus(self, other: 'Top') -> 'Top':
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], -1), self, other
    ).first(self.z.shape[1])

  def first(self, k: int) -> 'Top':
    z, order = jax.lax.top_k(self.z, k)
    return Top(z, jnp.take_along_axis(self.ids, order, -1))


# Parts of the head ---------------------------------------------------------------


def flat(hidden):
  return hidden.reshape(-1, hidden.shape[-1])


def chunk_size(chunk, rows, head) -> int:
  """`chunk`, or what is worth a turn and takes little memory."""
  fits = _CHUNK_LOGITS // max(len(rows), 1) // 128 * 128
  little = len(head) // 16 // 128 * 128
  return chunk or min(4096, max(fits, 1024), max(little, 2048))


def logits(rows, head, temperature=1.0):
  z = product('td,vd->tv', rows, head.astype(rows.dtype))
  return z if temperature == 1.0 else z / temperature


def product(how, a, b):
  return jnp.einsum(how, a, b, preferred_element_type=jnp.float32)


def compared(z, ids, realised):
  """Where z [T, C] is above, and where it equals the token's own logit [T].

  The two come of different products, which may differ in the last bits: the token
  itself is never likelier than it is.
  """
  itself = jnp.arange(z.shape[1]) == ids[:, None]
  above = (z > realised[:, None]) & ~itself
  return above, (z == realised[:, None]) | itself


def realised_logits(rows, head, ids, split):
  """The logit of each row's own token, which may be another device's."""
  inside = (ids >= 0) & (ids < len(head))
  own = head[jnp.where(inside, ids, 0)].astype(rows.dtype)
  z = jnp.where(inside, product('td,td->t', rows, own), 0.0)
  return jax.lax.psum(z, 'tensor') if split else z


def _at(z, ids):
  """z of the ids that are columns of it, 0 for others."""
  inside = (ids >= 0) & (ids < z.shape[1])
  column = jnp.where(inside, ids, 0)[:, None]
  return jnp.where(inside, jnp.take_along_axis(z, column, 1)[:, 0], 0.0)


def part(head, start, size):
  return jax.lax.dynamic_slice_in_dim(head, start, size)


def over_chunks(step, carry, head, size):
  """Folds step(carry, start, size) over rows of the head; the last are fewer."""
  full, rest = divmod(len(head), size)
  if full:
    carry = jax.lax.fori_loop(
        0, full, lambda i, c: step(c, i * size, size), carry)
  return step(carry, full * size, rest) if rest else carry


# Meshes: rows over data and fsdp, the vocabulary over tensor -----------------------


def several(mesh: Mesh | None) -> Mesh | None:
  """None for a mesh of one device."""
  return mesh if mesh is not None and mesh.size > 1 else None


def is_split(mesh: Mesh | None, head: jax.Array) -> bool:
  """Whether devices hold parts of the vocabulary; V has to divide."""
  ways = 1 if mesh is None else mesh.shape['tensor']
  return ways > 1 and not len(head) % ways


def split(mesh, head) -> P:
  """How a device sees the head."""
  return P('tensor') if is_split(mesh, head) else P()


def table(mesh, head) -> P | None:
  """How the gradient of the head leaves: as the parameter lies."""
  return mesh and sharding.spec('head/kernel', head.shape, mesh)


def offset(head, split: P):
  return jax.lax.axis_index('tensor') * len(head) if split else 0


def on(mesh, local, in_specs, out_specs):
  if mesh is None:
    return local
  return jax.shard_map(
      local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def gathered(mesh, head, dtype):
  """What is gathered over `fsdp`, once, is gathered in the type of the products."""
  if mesh is None or mesh.shape['fsdp'] == 1:
    return head
  return head.astype(dtype)


def summed(mesh, dw, lies: P | None):
  """The head's gradient over all rows; each device keeps its part over fsdp.

  `lies`: as in `table`.
  """
  if mesh is None:
    return dw
  over_fsdp = [i for i, axes in enumerate(lies) if axes and 'fsdp' in axes]
  if not over_fsdp:
    return jax.lax.psum(dw, ROWS[0])
  dw = jax.lax.psum_scatter(
      dw, 'fsdp', scatter_dimension=over_fsdp[0], tiled=True)
  return jax.lax.psum(dw, 'data')
