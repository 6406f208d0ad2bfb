"""The torch code in configs/README.md gives our loss and our gradient."""

import re

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import objectives
from tests.support import paths
from tests.support import unfused

torch = pytest.importorskip('torch')


def twin():
  text = (paths.ROOT / 'configs' / 'README.md').read_text()
  (code,) = re.findall(r'```python\n(import torch.*?)```', text, re.DOTALL)
  found = {}
  exec(code, found)
  return found


def test_the_torch_twin_agrees():
  logits, _, targets, mask = unfused.golden()

  def loss(logits):
    total, count, _ = objectives.token_loss(
        'idft', ddt.token_stats(logits, targets), mask)
    return total / count

  value, gradient = jax.value_and_grad(loss)(logits)
  z = torch.tensor(np.float64(logits), requires_grad=True)
  log_q = torch.log_softmax(z, -1)
  log_p = log_q.gather(-1, torch.tensor(targets, dtype=torch.int64)[:, None])[:, 0]
  entropy = -(log_q.exp() * log_q).sum(-1)
  theirs = twin()['idft_loss'](log_p, entropy, torch.tensor(mask))
  theirs.backward()
  np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
  unfused.assert_close(gradient, z.grad.numpy())


def test_the_curriculum_of_the_twin_is_ours():
  log_p, entropy = np.float32([-0.1, -2.0, -9.0]), np.float32([0.5, 1.0, 1.0])
  for strength in (0.0, 0.5, 1.0):
    ours = objectives.token_weights(
        'idft', ddt.TokenStats(log_p, entropy), curriculum=strength)
    theirs = twin()['idft_weight'](
        torch.tensor(log_p), torch.tensor(entropy), strength=strength)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
