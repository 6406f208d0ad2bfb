"""The torch lines of experiments/README.md compute our loss."""

import re
import textwrap

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import objectives
from tests.support import paths

CODE = re.compile(r'<!-- torch -->\n *```python\n(.*?)```', re.DOTALL)


@pytest.mark.parity
@pytest.mark.parametrize('options', [
    {}, dict(beta=0.5), dict(gamma_min=0.0, gamma_max=1.0)])
def test_the_torch_twin_of_idft_has_our_loss_and_gradient(options):
  import torch
  names = {'torch': torch}
  (code,) = CODE.findall((paths.ROOT / 'experiments' / 'README.md').read_text())
  exec(textwrap.dedent(code), names)
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (4, 9, 50)).astype(np.float32)
  targets = rng.integers(0, 50, (4, 9))
  mask = (rng.random((4, 9)) < 0.7).astype(np.float32)

  def ours(logits):
    total, count, _ = objectives.token_loss(
        'idft', ddt.token_stats(logits, targets), mask, **options)
    return total / count

  loss, gradient = jax.value_and_grad(ours)(logits)
  x = torch.tensor(logits, requires_grad=True)
  log_p = torch.log_softmax(x, -1)
  entropy = -(log_p.exp() * log_p).sum(-1)
  of_labels = log_p.gather(-1, torch.tensor(targets)[..., None])[..., 0]
  theirs = names['idft_loss'](
      of_labels, entropy, torch.tensor(mask), **options)
  theirs.backward()
  np.testing.assert_allclose(theirs.item(), loss, rtol=1e-5)
  difference = np.linalg.norm(x.grad.numpy() - gradient)
  assert difference < 1e-5 * np.linalg.norm(gradient)
