"""Cost of the attention kernels in a compiled program, by formula.

A kernel is a custom call: the compiler's text shows its operands, not its work. JAX's
splash attention computes scores in square blocks and skips those above the diagonal:
of n x n blocks (n + 1) n / 2 are left. Their products, each 2 T^2 H FLOPs a head
where no block is skipped:

  splash_mha_fwd  q k, p v
  splash_mha_dkv  q k, dy v, for the gradients of v and k
  splash_mha_dq   q k, dy v, for the gradient of q
"""

import re
from typing import NamedTuple

from experiments.tpu import hlo_text

# Products of a block, and the operands that are read anew for each row of blocks.
_PRODUCTS = {'fwd': 2, 'dkv': 4, 'dq': 3}
_NAME = re.compile(r'splash_m[hq]a_(fwd|dkv|dq)')
_QUERY, _KEY = 2, 3  # operands: after the two arrays of the mask


class KernelCost(NamedTuple):
  """Work of one call.

  Attributes:
    flops: of matrix products; a multiply-add is 2.
    bytes: read from the main memory beyond the first reading of the operands.
  """

  flops: float
  bytes: float


def cost(
    computation: hlo_text.Computation, x: hlo_text.Instruction
) -> KernelCost | None:
  """Returns the cost of a call of a splash kernel; None for another instruction."""
  if x.attribute('custom_call_target') != 'tpu_custom_call':
    return None
  if (found := _NAME.match(x.name)) is None:
    return None
  query, key = (computation.instructions[x.operands[i]].shape for i in (_QUERY, _KEY))
  *rows, heads, time, dim = query.dims
  for size in rows:
    heads *= size
  # The first results are sums of one block: [block, ...].
  block = x.shape[0].dims[-2]
  n = time // block
  share = (n + 1) / (2 * n)
  # Each block row reads the other side's blocks, up to or from the diagonal on: keys
  # and values, or queries and gradients. A pair of such arrays of one head:
  pair = 2 * time * dim * key.itemsize
  again = heads * pair * max(share * n - 1, 0)
  return KernelCost(_PRODUCTS[found[1]] * 2 * heads * time**2 * dim * share, again)
