"""Which classes are taken for which."""

from __future__ import annotations

import pytest
from handmade_results import EIGHT, cell, one_model

from adv_plugins.evaluation import markdown
from adv_plugins.evaluation.confusion import confused_pairs, confusion_keys, confusion_matrix
from adv_plugins.evaluation.results import Robustness


def test_the_matrix_and_the_pairs() -> None:
    results = one_model()
    matrix = confusion_matrix(results, 'corruption/fog/2')
    # All wrong: two videos of left, one of right, one of up, each taken for the next class.
    assert matrix.shape == (6, 6) and matrix.sum() == 4
    assert matrix[0, 1] == 2 and matrix[1, 2] == matrix[2, 3] == 1
    pairs = confused_pairs(matrix)
    assert [tuple(pair) for pair in pairs] == [(0, 1, 2, 2), (1, 2, 1, 1), (2, 3, 1, 1)]
    assert pairs[0].share == 100
    # Of equally frequent pairs, the larger share comes first.
    matrix[2, 2] = 3
    matrix[0, 1] = 1
    assert [pair.share for pair in confused_pairs(matrix)] == [100, 100, 25]
    assert confused_pairs(confusion_matrix(results, 'clean'))[0].label == 2
    with pytest.raises(KeyError, match='no cell'):
        confusion_matrix(results, 'attack/none')


def test_clean_and_the_strongest_attack_are_shown() -> None:
    results = one_model()
    assert confusion_keys(results) == ['clean', 'attack/pgd']
    results.add(cell('attack', [1, 1], 'strong', EIGHT))
    assert confusion_keys(results) == ['clean', 'attack/strong']
    assert confusion_keys(Robustness('TSM')) == []
    page = markdown(results, groups={}).split('## Most confused\n')[1].split('\n## ')[0]
    assert page.splitlines()[3:] == [
        '| class | taken for | condition | videos | share, % |',
        '| --- | --- | --- | ---: | ---: |',
        '| up | down | clean | 1 of 1 | 100.0 |',
        '| left | right | strong, ε = 8/255 | 2 of 2 | 100.0 |',
    ]
    assert 'Most confused' not in markdown(Robustness('TSM', classes=['a']), groups={})
