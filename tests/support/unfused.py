"""Losses of whole logits in float64, written down as in the papers.

The weights are constants for the gradient. All formulas hold [tokens, V] arrays and
share no code with ddt_jax.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import paths

NPZ = np.load(paths.GOLDEN / 'loss' / 'idft.npz')
VOCAB = 502  # of the golden 503, so that two devices can share it


def golden(rows=16, seed=0):
  """hidden [rows, V], whose logits by the head [V, V] are golden; targets, mask.

  The logits of both golden sets, over again with a little noise; their head is the
  identity. The first supervised tokens have likely targets.
  """
  rng = np.random.default_rng(seed)
  logits = np.concatenate([NPZ['A_logits'], NPZ['B_logits']])[:, :VOCAB]
  targets = np.concatenate([NPZ['A_labels'], NPZ['B_labels']])
  mask = np.concatenate([NPZ['A_mask'], NPZ['B_mask']])
  take = np.arange(rows) % len(logits)
  hidden = logits[take] + 0.1 * rng.normal(size=(rows, VOCAB))
  targets = targets[take]
  targets[:6] = hidden[:6].argsort(-1)[np.arange(6), [-1, -1, -2, -2, -3, -3]]
  return (np.float32(hidden), np.eye(VOCAB, dtype=np.float32),
          np.int32(targets), np.float32(mask[take]))


def log_softmax(z):
  z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
  return z - jnp.log(jnp.exp(z).sum(-1, keepdims=True))


def weight(name, log_q, targets, mask, reference=None, **o):
  """w [rows] of an objective; log_q: log p of all tokens [rows, V]."""
  q = jnp.exp(log_q)
  entropy = -(q * log_q).sum(-1)
  log_p = jnp.take_along_axis(log_q, targets[:, None], 1)[:, 0]
  p, phi = jnp.exp(log_p), log_p + entropy
  if name == 'sft':
    return jnp.ones_like(p)
  if name == 'dft':
    return p
  if name in ('idft', 'phi_mask', 'idft_information', 'idft_z'):
    variance = (q * (log_q + entropy[:, None])**2).sum(-1)
    unusual = phi / jnp.sqrt(variance) if name == 'idft_z' else phi
    gamma = jnp.clip(
        jnp.exp(-unusual / o.get('beta', 1.0)), o.get('gamma_min', 0.1),
        o.get('gamma_max', 2.0))
    gamma = 1 + o.get('curriculum', 1.0) * (gamma - 1)
    distance = -phi if o.get('one_sided') else abs(phi)
    kept = distance < o.get('bound', 5.0) if name == 'phi_mask' else True
    information = jnp.where(phi > 0, jnp.clip(-log_p, 0, 1), 1.0)
    return p**gamma * kept * (information if name == 'idft_information' else 1.0)
  if name == 'power':
    return p**o.get('a', 1.0)
  if name == 'threshold':
    return (p >= o.get('q', 0.5)) * (p if o.get('keep_p') else 1.0)
  if name == 'chord':
    return p * (1 - p)
  if name == 'deft':
    return p**(q**2).sum(-1)
  if name == 'eaft':
    k = o.get('k', 20) or q.shape[-1]
    top = jnp.sort(q, -1)[:, -k:]
    if o.get('normalised', True):
      top = top / top.sum(-1, keepdims=True)
    share = -(top * jnp.log(top)).sum(-1) / np.log(min(k, q.shape[-1]))
    return share**o.get('alpha', 1.0)
  if name == 'psft':
    r = jnp.exp(log_p - reference)
    return r * (r <= o.get('high', 1.28))
  assert name == 'iw_sft'
  n = mask.sum(-1, keepdims=True)
  gap = (mask * (log_p - reference)).reshape(mask.shape).sum(-1, keepdims=True) / n
  w = jnp.exp(o.get('temperature', 1.0) * gap)
  return jnp.clip(w, 0, o.get('most', 16.0)) * jnp.ones_like(p)


def loss(hidden, head, targets, mask, name, reference=None, **options):
  """-sum_t m_t w_t log p_t."""
  log_q = log_softmax(hidden @ head.T)
  w = jax.lax.stop_gradient(
      weight(name, log_q, targets, mask, reference, **options))
  log_p = jnp.take_along_axis(log_q, targets[:, None], 1)[:, 0]
  return -(mask * w * log_p).sum()


def exactly(f, *arrays):
  """f(*arrays) computed in float64; integers stay integers."""
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(f)(*(
        np.float64(x) if np.issubdtype(x.dtype, np.floating) else x
        for x in arrays)))


def norm(tree):
  return float(np.sqrt(sum(
      np.sum(np.float64(x)**2) for x in jax.tree.leaves(tree))))


def assert_close(found, expected, rtol=1e-5):
  """The norm of the difference is at most rtol of the expected norm."""
  apart = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), found, expected)
  assert norm(apart) <= rtol * norm(expected), norm(apart) / norm(expected)
