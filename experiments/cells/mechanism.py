"""Why: tokens by phi, the gradient that they carry, and what training does to them."""

from collections.abc import Sequence

from etils import epath
import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import objectives
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.report import table
from ddt_jax.scoring import forward
from experiments.cells import corpora
from experiments.cells import plan
from experiments.cells import running
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import workdir

# Of phi, nats: what surprises the model, what it expects, what it is sure of.
EDGES = (-np.inf, -2.0, -0.5, 0.0, 0.1, 0.5, np.inf)
# Losses whose gradients are compared.
WEIGHTS = ('sft', 'dft', 'idft', 'eaft', 'idft_information', 'idft_z')


def gradient_norm(stats: ddt.TokenStats, weight: np.ndarray) -> np.ndarray:
  r"""Norm of a token's gradient in the logits, for a constant weight.

  .. math:: w_t \, \| p_t - e_{x_t} \|_2 = w_t \sqrt{1 - 2 p_t(x_t) + C_t}

  Args:
    stats: TokenStats of [...], with the collision probability C.
    weight: [...].

  Example:
    >>> one = ddt.TokenStats(np.log(0.5), np.log(2.0), collision=np.array(0.5))
    >>> round(float(gradient_norm(one, np.array(1.0))), 4)  # (1/2, 1/2) - (1, 0)
    0.7071
  """
  p = np.exp(stats.log_p)
  return weight * np.sqrt(np.maximum(1.0 - 2.0 * p + stats.collision, 0.0))


def token_stats(
    params, s: inputs.Inputs, examples: Sequence[chat.Example]
) -> ddt.TokenStats:
  """Statistics of all supervised tokens of the examples, [tokens]."""
  stats = list(forward.token_stats(
      params, s.config, examples, batch=s.rows, mesh=s.mesh,
      top_k=objectives.needs('eaft', k=20)['top_k'], after=lifecycle.check_stop))
  return jax.tree.map(lambda *x: np.concatenate(x), *stats)


def bands(phi: np.ndarray) -> list[np.ndarray]:
  """Marks the tokens of each band between two `EDGES`, bool [tokens]."""
  return [(phi >= low) & (phi < high)
          for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]


def names() -> list[str]:
  """The bands in words."""
  inner = [f'{low:g} to {high:g}'
           for low, high in zip(EDGES[1:-2], EDGES[2:-1], strict=True)]
  return [f'below {EDGES[1]:g}', *inner, f'{EDGES[-2]:g} and above']


def before(stats: ddt.TokenStats) -> table.Table:
  """The tokens by phi under the untouched model, and their shares of the gradient.

  Args:
    stats: [tokens], with collision and the likeliest tokens.
  """
  norms = {
      name: gradient_norm(stats, np.asarray(objectives.token_weights(name, stats)))
      for name in WEIGHTS}
  rows = []
  for name, inside in zip(names(), bands(stats.phi), strict=True):
    if inside.any():
      rows.append([
          name, f'{100 * inside.mean():.1f}', f'{-stats.log_p[inside].mean():.3f}',
          f'{stats.entropy[inside].mean():.3f}',
          *(f'{100 * norm[inside].sum() / norm.sum():.1f}' for norm in norms.values())])
  return table.Table(
      ['phi', 'tokens, %', 'NLL', 'entropy', *(
          f'gradient of {name}, %' for name in WEIGHTS)], rows)


def moved(
    first: ddt.TokenStats, after: dict[str, ddt.TokenStats]
) -> list[list[str]]:
  """Change of NLL, and of entropy, in each band of phi before training.

  Args:
    first: [tokens], of the untouched model.
    after: method -> the same tokens under the trained model.
  """
  rows = []
  for method, stats in after.items():
    for word, change in (
        ('NLL', first.log_p - stats.log_p), ('entropy', stats.entropy - first.entropy)):
      rows.append([method, word, *(
          f'{change[inside].mean():+.3f}' if inside.any() else ''
          for inside in bands(first.phi))])
  return rows


def measure(
    c, folder: epath.Path, s: inputs.Inputs, all_corpora: corpora.Corpora,
    rates: dict[str, float]
) -> None:
  """Writes mechanism.json: tables of the given solutions, first seed, chosen rates.

  Args:
    c, folder, s: the study's config and folder, the inputs of `c.run`.
    all_corpora: of the study.
    rates: method -> its chosen rate; without cells a method is left out.
  """
  cells = {m: plan.Cell(m, rate, 0) for m, rate in rates.items()}
  cells = {m: cell for m, cell in cells.items()
           if running.keeps_model(c, cell) and running.read(folder, cell)}
  files = workdir.Workdir(folder)
  made_from = [cell.name for cell in cells.values()]
  if not cells or files.has('mechanism') and (
      files.read('mechanism')['made_from'] == made_from):
    return
  files.remove('mechanism')

  def make():
    examples = all_corpora.get(running.GIVEN, 0).examples[:c.run.report.examples]
    first = token_stats(s.params, s, examples)
    after = {}
    for method, cell in cells.items():
      _, params = weights.load(
          str(running.folder_of(folder, cell) / 'model'), mesh=s.mesh,
          dtype=c.run.model.dtype, remat=c.run.model.remat)
      after[method] = token_stats(params, s, examples)
    return {'made_from': made_from, 'before': before(first).rows,
            'header': before(first).header, 'moved': moved(first, after)}

  files.once('mechanism', make)


def tables(folder: epath.Path) -> list[tuple[str, table.Table]]:
  """The tables of mechanism.json, with their headings; none without the file."""
  files = workdir.Workdir(folder)
  if not files.has('mechanism'):
    return []
  found = files.read('mechanism')
  return [
      ('Tokens of the given solutions by phi, untouched model', table.Table(
          found['header'], found['before'])),
      ('Change by training, by phi before training (nats per token)', table.Table(
          ['method', 'of', *(f'phi {name}' for name in names())], found['moved'],
          words=(0, 1)))]
