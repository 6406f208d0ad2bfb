"""The study's page, its tables as Markdown, and its figures as files."""

from collections.abc import Mapping, Sequence

from etils import epath

from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.report.study import claims
from ddt_jax.report.study import finished
from ddt_jax.report.study import phase
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
    pairs: Sequence[tuple[str, str]] = (),
    changed: Mapping[str, str] | None = None,
    further: Sequence[tuple[str, table.Table]] = (),
) -> str:
  """Writes study.html, study.md and plots/ into the study's folder.

  Args:
    folder: of the study.
    found: the finished cells.
    groups: heading -> methods, a panel of each figure; the main tables have these
      methods alone.
    phi: see `plots.phi`.
    missing: names of the cells that are not finished.
    failed: names of the cells that diverged or had nothing to train on.
    pairs: see `phase.rows`.
    changed: see `tables.ablations`.
    further: tables with their headings.

  Returns:
    The tables in Markdown.
  """
  main = found.only([m for some in groups.values() for m in some])
  rows = phase.rows(found, pairs)
  parts = _tables(main) + [
      (heading, content) for heading, content in (
          ('SFT and IDFT at equal gain (points of pass@1)',
           phase.at_equal_gain(found, rows)),
          ('Ablations at the chosen rate', tables.ablations(found, changed or {})),
          *further) if content.rows]
  left = _listed('missing', missing)
  if failed:
    left += ' ' + _listed(
        'without results, as training diverged or had no examples', failed)
  text = '\n\n'.join([
      *(f'### {heading}\n\n{table.markdown_table(content)}'
        for heading, content in parts),
      tables.NOTES, left]) + '\n'
  storage.publish(folder / 'study.md', text)
  pictures = _pictures(main, groups, phi, rows)
  for name, plot in pictures.items():
    for theme in ('light', 'dark'):
      storage.publish(
          folder / 'plots' / f'{name}_{theme}.png', getattr(plot.picture, theme))
  storage.publish(folder / 'study.html', page.comparison(
      title='When on-policy fine-tuning helps', verdicts=tables.verdicts(main),
      tables=parts, plots=list(pictures.values()), notes=f'{tables.NOTES} {left}'))
  return text


def _tables(main: finished.Results) -> list[tuple[str, table.Table]]:
  contrasts = tables.contrasts(main, claims.pairs(main.methods))
  return [
      ('At the chosen rate', tables.chosen(main)),
      ('All rates (*: chosen)', tables.all_rates(main)),
      ('Cost at the chosen rate', tables.costs(main)),
      ('Methods compared: pass@1 in points', tables.comparisons(contrasts)),
      ('Claims of the paper', claims.claims(contrasts))]


def _pictures(
    main: finished.Results, groups, phi, rows: Sequence[phase.Row]
) -> dict[str, page.Plot]:
  """Name of the file -> plot, of those that have something to show."""
  some = (main, groups)
  return {
      name: page.Plot(heading, caption, style.draw(draw, *arguments))
      for name, heading, caption, draw, arguments, ready in (
          ('frontier', 'Frontier', 'Up and to the left is better. Small points: seeds.'
           ' The large marker is at the chosen rate.', plots.frontier, some,
           main.methods),
          ('drift', 'Distance and forgetting', 'KL on samples of the untouched model.',
           plots.drift, some, main.methods),
          ('cost', 'Cost', 'Prompts, attention and measurements are left out.',
           plots.costs, some, main.methods),
          ('phi', 'phi during training', 'Where it falls, the model moves away from'
           ' the data.', plots.phi, (phi,), phi),
          ('phase', 'Phase diagram', 'Above 0: IDFT is better. Rows: corpora, the'
           ' most on-policy one first.', phase.diagram, (rows,), rows)) if ready}
