"""Charts: what stands in the axes is what was found, what is missing is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_logs import log, resumed_log, step

from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.comparison import ClassChange
from adv_plugins.evaluation.intervals import Interval, wilson_interval
from adv_plugins.evaluation.results import Robustness
from adv_plugins.visualization.attention import plot_attention_profiles
from adv_plugins.visualization.charts import (
    plot_class_changes,
    plot_corruptions,
    plot_eps_curves,
    plot_sweep,
    plot_training_curves,
)
from adv_plugins.visualization.figures import drawn
from adv_plugins.visualization.robustness_bars import plot_robustness

CLASSES = ['left', 'right', 'up', 'down']
RED, BLUE = (200 / 255, 50 / 255, 43 / 255), (127 / 255, 166 / 255, 207 / 255)


def change(name: str, difference: float, marked: bool = False, count: int = 20) -> ClassChange:
    interval = Interval(difference, difference - 5, difference + 10)
    return ClassChange(name, count, 50.0, 50.0 + difference, interval, marked)


def result(model: str, right: int = 8) -> Robustness:
    """Ten videos; clean and at each severity so many of them are right."""
    found = Robustness(model, classes=CLASSES, labels=dict.fromkeys(range(10), 0))
    put(found, 'clean', '', None, right)
    for severity in (1, 2, 3):
        put(found, 'corruption', 'snow', severity, right - severity)
        put(found, 'corruption', 'fog', severity, right - 2 * severity)
    for eps in (2, 4, 16):
        put(found, 'curve', 'pgd', eps / 255, max(0, right - eps))
    return found


def put(found: Robustness, kind: str, name: str, level: Any, right: int) -> None:
    ranks = [int(index >= right) for index in range(10)]
    found.add(Cell(kind, name, level, {}, list(range(10)), ranks, ranks))


def texts(panel: Any) -> str:
    return '\n'.join(text.get_text() for text in panel.texts)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(panel: Any) -> dict[str, Any]:
    """Lines with a name of their own, by it."""
    return {line.get_label(): line for line in panel.lines if line.get_label()[0] != '_'}


def xy(line: Any) -> list[list[float]]:
    return np.array(line.get_xydata()).tolist()


# ---- classes


def test_few_classes_have_names_and_intervals(tmp_path: Path) -> None:
    given = [change('up', -10), change('left', 20, marked=True), change('down', 0, count=3)]
    figure = plot_class_changes(given, 'long-term motions')
    (panel,) = figure.axes
    bars = panel.patches[:3]
    assert [bar.get_width() for bar in bars] == [20, 0, -10]
    for bar, colour in zip(bars, (RED, BLUE, BLUE), strict=True):
        assert bar.get_facecolor()[:3] == pytest.approx(colour)
    ticks = [text.get_text() for text in panel.get_yticklabels()]
    assert ticks == ['left (20)', 'down (3)', 'up (20)']
    # The first is on top.
    bottom, top = panel.get_ylim()
    assert bottom > top
    segments = panel.collections[0].get_segments()
    assert [segment[:, 0].tolist() for segment in segments] == [[15, 30], [-5, 10], [-15, 0]]
    assert legend(figure) == ['other classes: 2, mean -5.0', 'long-term motions: 1, mean +20.0']
    figure.savefig(tmp_path / 'classes.png')


def test_many_classes_have_names_at_the_ends() -> None:
    given = [change(f'class number {i}', i - 80.0, marked=i % 5 == 0) for i in range(174)]
    figure = plot_class_changes(given)
    (panel,) = figure.axes
    bars = panel.patches[:174]
    assert [bar.get_height() for bar in bars] == [93.0 - i for i in range(174)]
    red = [bar.get_facecolor()[:3] == pytest.approx(RED) for bar in bars]
    assert red == [(173 - i) % 5 == 0 for i in range(174)]
    assert texts(panel) == (
        '+93.0  class number 173 (20)\n+92.0  class number 172 (20)\n+91.0  class number 171 (20)\n'
        '-78.0  class number 2 (20)\n-79.0  class number 1 (20)\n-80.0  class number 0 (20)'
    )
    assert figure.axes[0].get_xlabel() == '174 classes, sorted'


def test_without_marked_classes_there_is_no_legend() -> None:
    assert not plot_class_changes([change('left', 1)]).legends
    figure = plot_class_changes([change('left', 1, marked=True)])
    assert legend(figure) == ['other classes: none', 'highlighted: 1, mean +1.0']


# ---- names


@pytest.mark.parametrize('name', ['$\\frac{$\udc80', '_hidden', ''], ids=ascii)
def test_a_name_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    found = result(name)
    put(found, 'corruption', name or 'unnamed', 1, 3)
    put(found, 'curve', name or 'unnamed', 1 / 255, 3)
    lost = result(name)
    del lost.cells['corruption/snow/1']
    log(tmp_path, 'log', [step(1, 1, loss=1.0)])
    for figure in (
        plot_class_changes([change(name, 1), change('b', 2, marked=True)], highlight=name),
        plot_class_changes([change(name, i) for i in range(50)]),
        plot_corruptions([found, lost]),
        plot_eps_curves([found], name or 'unnamed'),
        plot_sweep({name: {name: [1.0], 'b': [2.0]}}, baseline=(name, [1.0])),
        plot_training_curves({name: tmp_path}, metrics=('loss', name)),
        plot_robustness({name: torch.ones(2)}),
        plot_attention_profiles({name: (torch.ones(4) / 4, torch.ones(4) / 4)}),
    ):
        figure.savefig(tmp_path / 'figure.png', dpi=30)
        for each in figure.legends:
            assert all(text.get_text() for text in each.get_texts())
    figure = plot_eps_curves([result(name)], 'pgd')
    (entry, _) = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert entry.endswith(' (10 videos)')


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('walking', 'walking'),
        ('a $x$ \\$', 'a \\$x\\$ \\\\$'),
        ('two\n lines', 'two lines'),
        ('\udc80\x00\u202e', '\ufffd\ufffd\ufffd'),
        ('_hidden', ' _hidden'),
        ('', '(no name)'),
        ('x' * 5000, 'x' * 58 + ' …'),
        (8, '8'),
    ],
    ids=lambda value: ascii(value)[:12],
)
def test_how_names_are_drawn(name: object, text: str) -> None:
    assert drawn(name) == text


def test_long_names_are_cut() -> None:
    figure = plot_class_changes([change('Pretending to put something behind something ' * 3, 1)])
    (text,) = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(text) < 60 and text.endswith(' … (20)')


# ---- corruptions and eps


def test_corruptions_over_severity(tmp_path: Path) -> None:
    figure = plot_corruptions([result('TSM'), result('TAF', 9)])
    snow, fog = figure.axes
    assert (snow.get_title(), fog.get_title()) == ('snow', 'fog')
    tsm, taf, chance = lines(snow).values()
    assert xy(tsm) == [[0, 80], [1, 70], [2, 60], [3, 50]]
    assert xy(taf) == [[0, 90], [1, 80], [2, 70], [3, 60]]
    assert xy(lines(fog)['TSM (mPC 50.0)']) == [[0, 80], [1, 60], [2, 40], [3, 20]]
    assert chance.get_ydata()[0] == 25
    band = snow.collections[0].get_paths()[0].vertices
    low, high = wilson_interval(5, 10)[1:]
    at_three = band[band[:, 0] == 3, 1]
    assert (at_three.min(), at_three.max()) == pytest.approx((low, high))
    assert legend(figure) == ['TSM (mPC 50.0)', 'TAF (mPC 60.0)', 'chance (25.0)']
    assert not texts(snow)
    figure.savefig(tmp_path / 'corruptions.png')


def test_missing_corruptions_are_gaps_that_are_told() -> None:
    some, none, all_ = result('some'), result('none'), result('all')
    some.skip('corruption/fog/2', 'why')
    none.skip('corruption/fog', 'why')
    snow, fog = plot_corruptions([some, none, all_]).axes
    assert texts(fog) == 'missing: some: no 2\nmissing: none'
    assert not texts(snow)
    partial, absent, whole, _ = lines(fog).values()
    assert partial.get_label() == 'some (no mPC: corruptions are missing)'
    np.testing.assert_array_equal(partial.get_ydata(), [80, 60, math.nan, 20])
    assert np.isnan(absent.get_ydata()).all()
    assert whole.get_label() == 'all (mPC 50.0)'


@pytest.mark.parametrize(('count', 'columns'), [(1, 1), (4, 4), (5, 4), (14, 4)])
def test_panels_of_corruptions(count: int, columns: int, tmp_path: Path) -> None:
    found = Robustness('TSM', classes=CLASSES, labels=dict.fromkeys(range(10), 0))
    for index in range(count):
        put(found, 'corruption', f'kind{index}', 1, index % 10)
    figure = plot_corruptions([found])
    figure.savefig(tmp_path / 'many.png')
    shown = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_title() for panel in shown] == [f'kind{i}' for i in range(count)]
    assert len({panel.get_position().x0 for panel in shown}) == columns
    # The last panel of each column has the severities below it.
    last = {round(panel.get_position().x0, 3): panel for panel in shown}
    assert all(p.xaxis.get_tick_params()['labelbottom'] for p in last.values())


def test_accuracy_over_eps(tmp_path: Path) -> None:
    none = result('none')
    for key in none.keys('curve'):
        del none.cells[key]
    figure = plot_eps_curves([result('TSM'), none, result('TAF', 9)], 'pgd')
    (panel,) = figure.axes
    found = lines(panel)
    assert xy(found['TSM (10 videos)']) == pytest.approx(
        np.array([[0, 80], [2, 60], [4, 40], [16, 0]])
    )
    assert found['TAF (10 videos)'].get_ydata() == pytest.approx([90, 70, 50, 0])
    assert found['chance (25.0)'].get_ydata()[0] == 25
    assert found['none: not evaluated'].get_color() == 'C1'
    assert found['TAF (10 videos)'].get_color() == 'C2'
    band = panel.collections[0].get_paths()[0].vertices
    low, high = wilson_interval(0, 10)[1:]
    last = band[np.isclose(band[:, 0], 16), 1]
    assert (last.min(), last.max()) == pytest.approx((low, high))
    assert [text.get_text() for text in panel.get_xticklabels()] == ['0', '2', '4', '16']
    figure.savefig(tmp_path / 'eps.png')


# ---- training curves


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    return resumed_log(tmp_path)


def test_training_curves(resumed: Path, tmp_path: Path) -> None:
    log(tmp_path / 'other', 'a', [step(1, 10, math.nan), step(2, 20, 6.0, 0.25)])
    figure = plot_training_curves({'TSM': resumed, 'TAF': tmp_path / 'other'})
    left, right = figure.axes
    drawn = [(line.get_linestyle(), line.get_color(), xy(line)) for line in left.lines]
    assert drawn[0] == ('--', 'C0', [[1, 3.5], [2, 1.5], [3, 0.5]])
    assert drawn[1] == ('-', 'C0', [[2, 1.75]])
    np.testing.assert_array_equal(drawn[3][2], [[1, math.nan], [2, 6]])
    assert drawn[3][:2] == ('--', 'C1')
    assert xy(right.lines[0]) == [[1, 62.5], [2, 50], [3, 50]]
    assert xy(right.lines[1]) == [[1, 25], [2, 50]]
    assert texts(left) == "no 'loss' in validation: TAF"
    assert texts(right) == "no 'acc/top1' in validation: TAF"
    assert legend(figure) == ['TSM', 'TAF', 'training', 'validation']
    assert (left.get_xlabel(), right.get_ylabel()) == ('epoch', 'acc/top1, percent')
    figure.savefig(tmp_path / 'training.png')


def test_any_metric_has_a_curve(tmp_path: Path) -> None:
    log(tmp_path, 'a', [dict(lr=0.1, iter=5, step=5), dict(GAP=0.5, step=5)])
    (panel,) = plot_training_curves({'ART': tmp_path}, metrics=['GAP']).axes
    assert xy(panel.lines[1]) == [[5, 0.5]]
    assert (panel.get_ylabel(), panel.get_xlabel()) == ('GAP', 'iteration')
    assert texts(panel) == "no 'GAP' in training: ART"


# ---- sweeps


def test_a_sweep_to_scale(tmp_path: Path) -> None:
    given = {'α': {0.5: [47, 45], 0.2: [40, 44]}, 'ε': {0.1: [50.0], 2: [52.0]}}
    figure = plot_sweep(given, ('baseline', [41, 43]), ylabel='GAP')
    alpha, eps = figure.axes
    assert xy(alpha.lines[0]) == [[0.2, 42], [0.5, 46]]
    (bars,) = [c for c in alpha.collections if hasattr(c, 'get_segments')]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [
        pytest.approx([42 - math.sqrt(8), 42 + math.sqrt(8)]),
        pytest.approx([46 - math.sqrt(2), 46 + math.sqrt(2)]),
    ]
    dots = alpha.collections[-1].get_offsets().tolist()
    assert dots == [[0.2, 40], [0.2, 44], [0.5, 47], [0.5, 45]]
    assert (alpha.get_xscale(), eps.get_xscale()) == ('linear', 'log')
    assert [text.get_text() for text in eps.get_xticklabels()] == ['0.1', '2']
    line = lines(eps)['baseline']
    assert set(line.get_ydata()) == {42}
    assert (alpha.get_xlabel(), alpha.get_ylabel()) == ('α', 'GAP')
    assert set(legend(figure)) == {'mean ± std over 1 to 2 seeds', 'baseline', 'each seed'}
    figure.savefig(tmp_path / 'sweep.png')


def test_a_sweep_of_names() -> None:
    figure = plot_sweep({'table 2c': {'TAF, K=3': [46.8], 'TAF, K=1': [46.9]}})
    (panel,) = figure.axes
    assert xy(panel.lines[0]) == [[0, 46.8], [1, 46.9]]
    assert panel.lines[0].get_linestyle() == 'None'
    assert [text.get_text() for text in panel.get_xticklabels()] == ['TAF\nK=3', 'TAF\nK=1']
    assert set(legend(figure)) == {'one seed', 'each seed'}


# ---- bad input


@pytest.mark.parametrize(
    ('draw', 'message'),
    [
        (lambda: plot_class_changes([]), 'changes is empty; give what Comparison'),
        (lambda: plot_corruptions([]), 'results is empty'),
        (
            lambda: plot_corruptions([Robustness('TSM', classes=CLASSES)]),
            'corruptions is empty; evaluate some',
        ),
        (lambda: plot_eps_curves([], 'pgd'), "no result has a curve of 'pgd'"),
        (
            lambda: plot_eps_curves([result('TSM')], 'fgsm'),
            r"curve of 'fgsm'; the curves are \{'TSM': \['pgd'\]\}",
        ),
        (lambda: plot_training_curves({}), 'runs is empty; name one run'),
        (lambda: plot_training_curves({'a': '.'}, metrics=()), 'metrics is empty'),
        (lambda: plot_sweep({}), 'panels is empty'),
        (lambda: plot_sweep({'α': {}}), r"panels\['α'\] is empty"),
        (lambda: plot_sweep({'α': {0.5: []}}), r"panels\['α'\]\[0.5\] is empty"),
        (lambda: plot_sweep({'α': {0.5: [1]}}, ('baseline', [])), 'baseline is empty'),
    ],
)
def test_nothing_to_draw_is_told(draw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_figures_are_not_kept(tmp_path: Path) -> None:
    from matplotlib import pyplot

    log(tmp_path, 'a', [step(1, 1, 2.0)])
    plot_class_changes([change('left', 1)])
    plot_corruptions([result('TSM')])
    plot_eps_curves([result('TSM')], 'pgd')
    plot_training_curves({'a': tmp_path})
    plot_sweep({'a': {1: [1.0]}})
    assert pyplot.get_fignums() == []
