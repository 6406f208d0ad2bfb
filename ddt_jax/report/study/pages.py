"""The study's page, its tables as Markdown, and its figures as files."""

from collections.abc import Mapping, Sequence

from etils import epath

from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.report.study import claims
from ddt_jax.report.study import finished
from ddt_jax.report.study import plots
from ddt_jax.report.study import tables


def _listed(what: str, names: Sequence[str]) -> str:
  are = 'cell is' if len(names) == 1 else 'cells are'
  return f'{len(names)} {are} {what}' + (f': {", ".join(names)}.' if names else '.')


def write(
    folder: epath.Path, found: finished.Results, *,
    groups: Mapping[str, Sequence[str]],
    phi: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    missing: Sequence[str],
    failed: Sequence[str] = (),
) -> str:
  """Writes study.html, study.md and plots/ into the study's folder.

  Args:
    folder: of the study.
    found: the finished cells.
    groups: heading -> methods, a panel of each figure.
    phi: see `plots.phi`.
    missing: names of the cells that are not finished.
    failed: names of the cells that diverged or had nothing to train on.

  Returns:
    The tables in Markdown.
  """
  contrasts = tables.contrasts(found, claims.pairs(found.methods))
  parts = [
      ('At the chosen rate', tables.chosen(found)),
      ('All rates (*: chosen)', tables.all_rates(found)),
      ('Cost at the chosen rate', tables.costs(found)),
      ('Methods compared: pass@1 in points', tables.comparisons(contrasts)),
      ('Claims of the paper', claims.claims(contrasts))]
  left = _listed('missing', missing)
  if failed:
    left += ' ' + _listed('without results, as training diverged or had no examples',
                          failed)
  text = '\n\n'.join([
      *(f'### {heading}\n\n{table.markdown_table(content)}' for heading, content in parts),
      tables.NOTES, left]) + '\n'
  storage.publish(folder / 'study.md', text)
  if not found.methods:
    return text
  pictures = {
      name: page.Plot(heading, caption, style.draw(draw, *arguments))
      for name, heading, caption, draw, arguments in (
          ('frontier', 'Frontier', 'Up and to the left is better. Small points: seeds.'
           ' The large marker is at the chosen rate.', plots.frontier, (found, groups)),
          ('drift', 'Distance and forgetting', 'KL on samples of the untouched model.',
           plots.drift, (found, groups)),
          ('cost', 'Cost', 'Prompts, attention and measurements are left out.',
           plots.costs, (found, groups)),
          ('phi', 'phi during training', 'Where it falls, the model moves away from'
           ' the data.', plots.phi, (phi,))) if name != 'phi' or phi}
  for name, plot in pictures.items():
    for theme in ('light', 'dark'):
      storage.publish(
          folder / 'plots' / f'{name}_{theme}.png', getattr(plot.picture, theme))
  storage.publish(folder / 'study.html', page.comparison(
      title='When on-policy fine-tuning helps', tables=parts,
      plots=list(pictures.values()), notes=f'{tables.NOTES} {left}'))
  return text
