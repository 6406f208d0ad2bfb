"""Rows sorted so that the supervised ones fill the first tiles.

The number of supervised tokens is known only on the device, yet shapes are static.
So all rows are sorted, and a loop over tiles ends behind the last supervised row.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class Tiling:
  """Rows sorted into tiles, the supervised ones first.

  Attributes:
    order: row of each place; the last tile is filled up with a row number that
      does not exist.
    inverse: place of each row in `order`.
    count: tiles with at least one supervised token (traced).
    size: rows per tile.
  """

  order: jax.Array
  inverse: jax.Array
  count: jax.Array
  size: int = struct.field(pytree_node=False)

  @classmethod
  def of(cls, mask: jax.Array, size: int) -> 'Tiling':
    """Tiles of at most `size` rows; mask [T] > 0 marks the supervised ones."""
    n = len(mask)
    size = min(size, n)
    # False sorts first. Stable, so that rows keep their order within a tile.
    order = jnp.argsort(mask <= 0, stable=True)
    return cls(
        # n is out of range on purpose: `take` reads 0 there, `restore` never looks.
        jnp.pad(order, (0, -n % size), constant_values=n), jnp.argsort(order),
        -(-jnp.sum(mask > 0) // size), size,
    )

  @property
  def most(self) -> int:
    """Tiles if every token is supervised."""
    return len(self.order) // self.size

  def rows(self, i) -> jax.Array:
    """Row numbers of tile i."""
    return jax.lax.dynamic_slice_in_dim(self.order, i * self.size, self.size)

  def take(self, x, here):
    """Rows `here` of x; 0 for rows that do not exist."""
    return jnp.asarray(x).at[here].get(mode='fill', fill_value=0)

  def empty(self, dtype, *shape) -> jax.Array:
    """Zeros [places, *shape], to be filled by `put`."""
    return jnp.zeros((len(self.order), *shape), dtype)

  def put(self, out, x, i):
    """Writes the rows of tile i into arrays in the order of the tiles."""
    return jax.tree.map(
        lambda o, x: jax.lax.dynamic_update_slice_in_dim(o, x, i * self.size, 0),
        out, x,
    )

  def restore(self, out, mask) -> jax.Array:
    """From the tiles' order to that of the rows; 0 where mask <= 0."""
    out = out[self.inverse].reshape(*mask.shape, *out.shape[1:])
    # Unsupervised rows of the last tile have values too; rows beyond it are still 0.
    supervised = mask.reshape(*mask.shape, *[1] * (out.ndim - mask.ndim)) > 0
    return jnp.where(supervised, out, 0)
