r"""Log p of the supervised tokens, with its gradient, for losses of whole responses.

A loss of sums of log p, as DPO's, knows the weights of its tokens after all of them
were read. So the forward has one product, and the backward, which then knows the
cotangent g, is that of a weighted NLL with the weights -g:

.. math:: d \sum_t g_t \log p_t = d \left(-\sum_t (-g_t) \log p_t\right)

8 T D V FLOPs, as `stream` takes, but of the supervised tokens alone.
"""

import functools

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax.vocab_head import meshes
from ddt_jax.vocab_head import stream
from ddt_jax.vocab_head import tiles


def supervised_log_p(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, ddt.TokenStats]:
  """Log p of the supervised tokens, and their statistics.

  A head that is split over `tensor` is streamed, as are all its tokens.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    mask: [...], > 0 where the token is supervised.
    mesh: see `token_stats`.

  Returns:
    (log p [...], TokenStats [...]); 0 where the token is not supervised. Only the
    first has a gradient.

  Example:
    >>> hidden, head = jnp.ones([3, 2]), jnp.zeros([4, 2])  # uniform over 4
    >>> log_p, _ = supervised_log_p(
    ...     hidden, head, jnp.arange(3), jnp.array([1.0, 1.0, 0.0]))
    >>> jnp.exp(log_p)
    Array([0.25, 0.25, 1.  ], dtype=float32)
  """
  if meshes.is_split(mesh, head):
    stats = stream.token_stats(hidden, head, targets, mesh=mesh)
    stats = stats.map(lambda x: jnp.where(mask > 0, x, 0.0))
    return stats.log_p, jax.lax.stop_gradient(stats)
  log_p, stats = _log_p(mesh, hidden, head, targets, mask)
  return log_p, jax.lax.stop_gradient(stats)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_p(mesh, hidden, head, targets, mask):
  stats = tiles.supervised_stats(hidden, head, targets, mask, mesh=mesh)
  return stats.log_p, stats


def _forward(mesh, hidden, head, targets, mask):
  return _log_p(mesh, hidden, head, targets, mask), (hidden, head, targets, mask)


def _backward(mesh, saved, g):
  hidden, head, targets, mask = saved
  g, _ = g  # of log p; the statistics are constants
  supervised = (mask > 0).astype(jnp.float32)  # g has the weights of the mask

  def total(hidden, head):
    return tiles.weighted_nll(
        hidden, head, targets, supervised, _minus, g, mesh=mesh)[0]

  return *jax.grad(total, (0, 1))(hidden, head), None, None


def _minus(stats, g):
  del stats
  return -g, -g


_log_p.defvjp(_forward, _backward)
