"""What losses and scores are measured against: the official expressions, in torch."""

from collections.abc import Sequence

import numpy as np
import torch

BETA, GAMMA = 1.0, (0.1, 2.0)


def idft(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
  """The official loss of IDFT: logits [T, V], targets [T], all supervised."""
  p = logits.softmax(-1)
  with torch.no_grad():
    entropy = -(p * (p + 1e-10).log()).sum(-1)
  p_x = p.gather(-1, targets[:, None])[:, 0].clamp(1e-10, 1)
  with torch.no_grad():
    phi = p_x.log() + entropy
    weight = p_x ** (-phi / BETA).exp().clamp(*GAMMA)
  return -(weight * p_x.log()).mean()


@torch.inference_mode()
def phi(net: torch.nn.Module, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The official calculator: a text at a time, probabilities and their logarithms
  of the whole vocabulary in the net's dtype; phi of every token but the first."""
  found = []
  for ids in texts:
    tokens = torch.from_numpy(ids).long()[None]
    logits = net(tokens, use_cache=False).logits[0, :-1]
    p, log_p = logits.softmax(-1), logits.log_softmax(-1)
    entropy = -(p * log_p).sum(-1)
    realised = log_p.gather(-1, tokens[0, 1:, None])[:, 0]
    found.append((realised + entropy).numpy())
  return found
