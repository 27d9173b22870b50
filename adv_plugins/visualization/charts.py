"""Charts of accuracies: by class, corruption and eps, over epochs and over options.

As in TAF: figure 4 (class-wise changes), figure 5 (training curves), tables 2 and 3 as pictures;
and accuracy over eps. The numbers come from :class:`adv_plugins.evaluation.Robustness`,
:class:`adv_plugins.evaluation.Comparison` and the logs of mmengine; nothing here runs a model. The
figures belong to the caller: nothing is saved, shown or kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..evaluation.comparison import ClassChange
from ..evaluation.results import Robustness
from ..evaluation.training_log import TrainingLog, read_training_log
from .figures import blank_figure, check_not_empty, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR, _MARKED, _INTERVAL = '#7fa6cf', '#c8322b', '0.25'
_NAMED = 40
"""With more classes than this, only the extremes are named."""
_COLUMNS = 4
"""How many corruptions stand side by side."""


def plot_class_changes(changes: Sequence[ClassChange], highlight: str = 'highlighted') -> Figure:
    """The change of every class in one picture, sorted (TAF, figure 4).

    Args:
        changes (Sequence[ClassChange]): Of
            :meth:`adv_plugins.evaluation.Comparison.class_changes`.
        highlight (str): What the highlighted classes are, for the legend, such as
            ``'long-term motions'``. Defaults to ``'highlighted'``.

    Returns:
        Figure: A bar a class, highlighted ones in red. Up to 40 classes have their names, numbers
        of videos and 95 % intervals; of more, the three at either end are named. To be saved with
        ``figure.savefig(file)``.

    Raises:
        ValueError: There is no class.
        ImportError: matplotlib is missing.
    """
    check_not_empty('changes', changes, 'give what Comparison.class_changes returns')
    changes = sorted(changes, key=lambda change: -change.change.difference)
    if len(changes) <= _NAMED:
        figure = blank_figure(8.0, 1.7 + 0.27 * len(changes))
        panel = figure.subplots()
        _named_bars(panel, changes)
    else:
        figure = blank_figure(11.0, 4.4)
        panel = figure.subplots()
        _many_bars(panel, changes)
    parts = (('other classes', _BAR, False), (drawn(highlight), _MARKED, True))
    marks = [change.highlighted for change in changes]
    for label, colour, marked in parts if any(marks) else ():
        values = [c.change.difference for c in changes if c.highlighted == marked]
        text = f'{label}: {len(values)}, mean {mean(values):+.1f}' if values else f'{label}: none'
        panel.bar(0, 0, color=colour, label=text)
    if any(marks):
        figure.legend(loc='outside upper center', ncols=2)
    return figure


def plot_corruptions(results: Sequence[Robustness]) -> Figure:
    """Accuracy over the severity of each corruption (TAF, table 3).

    Args:
        results (Sequence[Robustness]): One model or more.

    Returns:
        Figure: A panel a corruption, a line a model with its 95 % Wilson interval; severity 0 is
        clean, a dotted line is chance. The legend gives mPC, and each panel names what is missing.
        To be saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There are no results, or no corruptions in them.
        ImportError: matplotlib is missing.
    """
    check_not_empty('results', results, 'give one Robustness or more')
    names = list(dict.fromkeys(n for each in results for n in each.corruption_table().names))
    check_not_empty('corruptions', names, 'evaluate some first')
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = blank_figure(max(4.5, 2.7 * columns + 0.5), 2.3 * rows + 0.4 + 0.25 * len(results))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False, sharex=True).ravel()
    for panel, name in zip(panels, names, strict=False):
        _corruption_panel(panel, name, results)
    for place in range(len(names), len(panels)):
        panels[place].set_axis_off()
        # The one above it is the last of its column.
        panels[place - columns].xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel('severity (0: the clean videos, without a corruption)')
    figure.supylabel('top-1, percent')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper center')
    return figure


def plot_eps_curves(results: Sequence[Robustness], attack: str) -> Figure:
    """Accuracy under an attack over eps.

    Args:
        results (Sequence[Robustness]): One model or more; for those without the curve the legend
            says that it was not evaluated.
        attack (str): Name of the attack.

    Returns:
        Figure: A line a model with its 95 % Wilson interval; a dotted line is chance. To be saved
        with ``figure.savefig(file)``.

    Raises:
        ValueError: No result has a curve of this attack.
        ImportError: matplotlib is missing.
    """
    names = {each.model: each.curve_names() for each in results}
    if not any(attack in known for known in names.values()):
        raise ValueError(f'no result has a curve of {attack!r}; the curves are {names}')
    figure = blank_figure(5.6, 4.0)
    panel = figure.subplots()
    ticks: set[float] = set()
    for index, each in enumerate(results):
        if attack not in names[each.model]:
            panel.plot([], [], color=f'C{index}', label=f'{drawn(each.model)}: not evaluated')
            continue
        curve = each.curve(attack)
        grey = 255 * curve.eps
        ticks |= set(grey.tolist())
        style = dict(color=f'C{index}', label=f'{drawn(each.model)} ({curve.num_videos} videos)')
        panel.plot(grey, curve.accuracy, marker='o', markersize=4, **style)
        panel.fill_between(grey, curve.low, curve.high, color=f'C{index}', alpha=0.15, linewidth=0)
    _chance(panel, results)
    panel.set_xticks(sorted(ticks), [f'{tick:.3g}' for tick in sorted(ticks)])
    panel.set_xlabel(f'ε of {drawn(attack)}, in 1/255 of the value range')
    panel.set_ylabel('top-1, percent')
    panel.set_ylim(0, 103)
    panel.legend()
    return figure


def plot_training_curves(
    runs: Mapping[str, str | os.PathLike[str]], metrics: Sequence[str] = ('loss', 'acc/top1')
) -> Figure:
    """What several trainings logged, over their epochs (TAF, figure 5).

    Args:
        runs (Mapping[str, str | Path]): For each run by name, its work dir, one of the dirs in
            it that are named by time, or a ``scalars.json``.
        metrics (Sequence[str]): Names of the metrics, as validations log them. Training logs
            ``'acc/top1'`` as ``'top1_acc'``; ``'loss'`` is the total that is minimised, which
            with adversarial training is more than the clean cross-entropy. Defaults to
            ``('loss', 'acc/top1')``.

    Returns:
        Figure: A panel a metric; training is dashed, validation solid. Each panel names what was
        not logged. To be saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There is no run or no metric, or a log cannot be read.
        FileNotFoundError: There is no log.
        ImportError: matplotlib is missing.

    Example:
        >>> plot_training_curves({'TSM': 'work_dirs/tsm', 'TSM + TAF': 'work_dirs/taf'})
    """
    check_not_empty('runs', runs, "name one run or more, e.g. runs={'TAF': 'work_dirs/taf'}")
    check_not_empty('metrics', metrics, "name one or more, e.g. metrics=('loss',)")
    logs = {name: read_training_log(path) for name, path in runs.items()}
    figure = blank_figure(0.8 + 4.6 * len(metrics), 4.0)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        _training_panel(panel, logs, metric)
        panel.set_xlabel(' or '.join(sorted({log.unit for log in logs.values()})))
        panel.locator_params(axis='x', integer=True)
    for label, style in (('training', '--'), ('validation', '-')):
        panels[0].plot([], [], color='0.4', linestyle=style, label=label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=4)
    return figure


def plot_sweep(
    panels: Mapping[str, Mapping[Any, Sequence[float]]],
    baseline: tuple[str, Sequence[float]] | None = None,
    ylabel: str = 'validation top-1, percent',
) -> Figure:
    """A metric over options, with its spread over seeds (TAF, table 2; A-ART, figure 3).

    Args:
        panels (Mapping[str, Mapping]): For each option by name, such as ``'α'``, the metric of
            each seed by the value of the option. Numeric values are drawn to scale, logarithmic
            if they span more than a factor of 10; others are drawn side by side.
        baseline (tuple[str, Sequence[float]], optional): Name and metric of each seed without the
            option, for a line across all panels. Defaults to None.
        ylabel (str): Name and unit of the metric. Defaults to ``'validation top-1, percent'``.

    Returns:
        Figure: Means over seeds with the sample standard deviation, and each seed as a dot. To be
        saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There is nothing to draw, or a value without a seed.
        ImportError: matplotlib is missing.

    Example:
        >>> plot_sweep({'α': {0.5: [46.7, 46.6], 0.7: [46.9, 47.0]}}, ('baseline', [45.6, 45.5]))
    """
    check_not_empty('panels', panels, "give e.g. panels={'α': {0.5: [46.7], 0.7: [46.9]}}")
    for option, points in panels.items():
        check_not_empty(f'panels[{option!r}]', points, 'give the metric of each seed by value')
        for value, seeds in points.items():
            check_not_empty(f'panels[{option!r}][{value!r}]', seeds, 'give the metric of each seed')
    counts = sorted({len(seeds) for points in panels.values() for seeds in points.values()})
    many = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    label = 'one seed' if many == '1' else f'mean ± std over {many} seeds'
    figure = blank_figure(1.0 + 3.6 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (option, points) in zip(axes, panels.items(), strict=True):
        _sweep_panel(panel, points, label)
        panel.set_xlabel(drawn(option))
        if baseline is not None:
            name, seeds = baseline
            check_not_empty('baseline', seeds, "write ('baseline', [45.6])")
            middle, spread = mean(seeds), _std(seeds)
            panel.axhline(middle, color='0.4', linestyle='--', linewidth=1, label=drawn(name))
            band = dict(color='0.4', alpha=0.12, linewidth=0)
            panel.axhspan(middle - spread, middle + spread, **band)
    axes[0].set_ylabel(ylabel)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=3)
    return figure


def _named_bars(panel: Axes, changes: Sequence[ClassChange]) -> None:
    """Few classes: from top to bottom, with names and intervals."""
    places = range(len(changes))
    values = [change.change.difference for change in changes]
    panel.barh(places, values, height=0.75, color=_colours(changes))
    low, high = ([getattr(c.change, bound) for c in changes] for bound in ('low', 'high'))
    panel.hlines(places, low, high, color=_INTERVAL, linewidth=1)
    names = [f'{drawn(change.name, 48)} ({change.num_videos})' for change in changes]
    panel.set_yticks(places, names)
    panel.set_ylim(len(changes) - 0.4, -0.6)
    panel.axvline(0, color='black', linewidth=0.8)
    panel.set_xlabel('change of top-1 in percentage points, with its 95 % interval')
    panel.set_ylabel('class (number of videos)')
    panel.grid(axis='x', alpha=0.3)


def _many_bars(panel: Axes, changes: Sequence[ClassChange]) -> None:
    """Many classes: from left to right, with the names of the extremes where there are no bars."""
    count = len(changes)
    values = [change.change.difference for change in changes]
    panel.bar(range(count), values, width=0.85, color=_colours(changes))
    panel.axhline(0, color='black', linewidth=0.8)
    panel.set_xlim(-1, count)
    panel.set_xlabel(f'{count} classes, sorted')
    panel.set_ylabel('change of top-1, percentage points')
    panel.grid(axis='y', alpha=0.3)
    for chosen, x, y, align in (
        (changes[:3], 0.98, 0.97, dict(ha='right', va='top')),
        (changes[-3:], 0.02, 0.03, dict(ha='left', va='bottom')),
    ):
        lines = [
            f'{c.change.difference:+.1f}  {drawn(c.name, 48)} ({c.num_videos})' for c in chosen
        ]
        panel.text(x, y, '\n'.join(lines), transform=panel.transAxes, fontsize='small', **align)


def _colours(changes: Sequence[ClassChange]) -> list[str]:
    return [_MARKED if change.highlighted else _BAR for change in changes]


def _corruption_panel(panel: Axes, name: str, results: Sequence[Robustness]) -> None:
    """One corruption, all models; severity 0 is clean."""
    missing = []
    for index, each in enumerate(results):
        mpc = each.mpc()
        text = f'mPC {mpc:.1f}' if math.isfinite(mpc) else 'no mPC: corruptions are missing'
        label, colour = f'{drawn(each.model)} ({text})', f'C{index}'
        keys = [key for key in each.keys('corruption') if each.cells[key].name == name]
        points = {float(each.cells[key].level or 0): each.interval(key) for key in keys}
        wanted = each.corruption_table().severities or [math.nan]
        absent = [f'{level:g}' for level in wanted if level not in points]
        if absent:
            model = drawn(each.model)
            missing.append(f'{model}: no {", ".join(absent)}' if points else model)
        if points and 'clean' in each.cells:
            points[0.0] = each.interval('clean')
        # A missing severity leaves a gap in the line.
        xs = sorted({*points, *wanted})
        value, low, high = zip(*[points.get(x, (math.nan,) * 3) for x in xs], strict=True)
        panel.plot(xs, value, color=colour, marker='o', markersize=3, label=label)
        panel.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    _chance(panel, results)
    _note(panel, [f'missing: {text}' for text in missing])
    panel.set_title(drawn(name), fontsize='medium')
    panel.set_ylim(0, 103)
    panel.locator_params(axis='x', integer=True)


def _training_panel(panel: Axes, logs: Mapping[str, TrainingLog], metric: str) -> None:
    """One metric of all runs."""
    accuracy = metric.startswith('acc/')
    factor = 100 if accuracy else 1
    trained = f'{metric.removeprefix("acc/")}_acc' if accuracy else metric
    missing: dict[str, list[str]] = {}
    for index, (run, log) in enumerate(logs.items()):
        for part, series, name, style in (
            ('training', log.train, trained, dict(linestyle='--')),
            # Validations may be few, so that their points are marked.
            ('validation', log.val, metric, dict(linestyle='-', marker='o', markersize=4)),
        ):
            points = series.get(name, {})
            if not points:
                missing.setdefault(f"no '{drawn(name)}' in {part}", []).append(drawn(run))
            values = [factor * value for value in points.values()]
            panel.plot(list(points), values, color=f'C{index}', **style)
        panel.plot([], [], color=f'C{index}', label=drawn(run))
    panel.set_ylabel(f'{drawn(metric)}, percent' if accuracy else drawn(metric))
    _note(panel, [f'{what}: {", ".join(whose)}' for what, whose in missing.items()])


def _sweep_panel(panel: Axes, points: Mapping[Any, Sequence[float]], label: str) -> None:
    """One option; numeric values are drawn to scale."""
    numbers = all(isinstance(value, (int, float)) for value in points)
    if numbers:
        points = dict(sorted(points.items()))
    places = list(points) if numbers else list(range(len(points)))
    style = dict(marker='o', linestyle='-' if numbers else '', capsize=3, label=label)
    means, spreads = ([f(seeds) for seeds in points.values()] for f in (mean, _std))
    panel.errorbar(places, means, spreads, **style)
    dots = [(place, x) for place, seeds in zip(places, points.values(), strict=True) for x in seeds]
    panel.scatter(*zip(*dots, strict=True), s=9, color='0.2', zorder=3, label='each seed')
    if numbers and places[0] > 0 and places[-1] > 10 * places[0]:
        panel.set_xscale('log')
        panel.minorticks_off()
    names = [
        f'{value:g}' if numbers else '\n'.join(drawn(part) for part in str(value).split(', '))
        for value in points
    ]
    panel.set_xticks(places, names)
    panel.margins(x=0.15)


def _std(seeds: Sequence[float]) -> float:
    return stdev(seeds) if len(seeds) > 1 else 0.0


def _chance(panel: Axes, results: Sequence[Robustness]) -> None:
    chance = 100 / len(results[0].classes)
    panel.axhline(chance, color='0.4', linestyle=':', linewidth=1, label=f'chance ({chance:.1f})')


def _note(panel: Axes, lines: Sequence[str]) -> None:
    """Write what a panel has no line for into its corner."""
    if lines:
        style = dict(fontsize='x-small', color='0.3', va='bottom', transform=panel.transAxes)
        ground = dict(facecolor='white', alpha=0.8, edgecolor='none', pad=1)
        panel.text(0.02, 0.02, '\n'.join(lines), bbox=ground, **style)
