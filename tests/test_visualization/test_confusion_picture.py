"""Confusion matrices: what stands in the squares is what was counted."""

import numpy as np
import pytest

from adv_plugins.visualization.confusion_picture import MAX_CLASSES, plot_confusion

NAMES = ['push', 'pull', '$_hidden_$']


def shown(panel):
    """The numbers of a panel by row and column."""
    places = {}
    for text in panel.texts:
        column, row = text.get_position()
        places[int(row), int(column)] = int(text.get_text())
    return places


def test_few_classes(tmp_path):
    clean = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    figure = plot_confusion({'clean': clean, 'pgd, ε = 4/255': clean.T}, NAMES, 'TSM')
    left, right = figure.axes
    assert shown(left) == {(0, 0): 8, (0, 1): 2, (1, 1): 5, (1, 2): 5}
    assert shown(right) == {(0, 0): 8, (1, 0): 2, (1, 1): 5, (2, 1): 5}
    # Shaded by the share of the true class; a class without videos has none.
    shares = left.get_images()[0].get_array()
    assert shares.tolist() == [[0.8, 0.2, 0], [0, 0.5, 0.5], [0, 0, 0]]
    ticks = [tick.get_text() for tick in left.get_yticklabels()]
    assert ticks[:2] == ['push', 'pull'] and left.get_title() == 'clean'
    assert figure.get_suptitle() == 'TSM'
    figure.savefig(tmp_path / 'confusion.png', dpi=30)


def test_of_many_classes_those_confused_most_are_shown(tmp_path):
    matrix = np.diag(np.full(60, 10))
    matrix[7, 3] = 9
    matrix[20, 7] = matrix[20, 8] = 2
    for index in range(30, 60, 2):
        matrix[index, index + 1] = 1
    figure = plot_confusion({'clean': matrix}, [f'class number {i}' for i in range(60)], 'TSM')
    (panel,) = figure.axes
    names = [tick.get_text() for tick in panel.get_yticklabels()]
    assert names[:4] == ['class number 3', 'class number 7', 'class number 8', 'class number 20']
    assert len(names) == MAX_CLASSES
    assert [tick.get_text() for tick in panel.get_xticklabels()] == [*names, 'others']
    assert shown(panel)[1, 0] == 9 and shown(panel)[3, 1] == shown(panel)[3, 2] == 2
    assert figure.get_suptitle() == 'TSM: the 16 of 60 classes that are confused most'
    # What goes to classes that are not shown is counted in the last column.
    wide = matrix.copy()
    wide[7, 50:60] = 1
    (panel,) = plot_confusion({'clean': wide}, list(map(str, range(60))), 'TSM').axes
    row = {column: count for (row, column), count in shown(panel).items() if row == 1}
    assert sum(row.values()) == wide[7].sum()
    figure.savefig(tmp_path / 'confusion.png', dpi=30)


def test_nothing_is_confused():
    matrix = np.diag(np.full(60, 10))
    (panel,) = plot_confusion({'clean': matrix}, list(map(str, range(60))), 'TSM').axes
    assert shown(panel) == {(index, index): 10 for index in range(MAX_CLASSES)}


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match='matrices is empty'):
        plot_confusion({}, NAMES, 'TSM')
    with pytest.raises(ValueError, match=r"matrices\['clean'\] has the shape \(2, 2\).* 3 classes"):
        plot_confusion({'clean': np.eye(2, dtype=int)}, NAMES, 'TSM')
