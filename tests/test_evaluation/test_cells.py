"""Cells: their keys, what they accept, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade_results import EIGHT

from adv_plugins.evaluation.cells import Cell


@pytest.mark.parametrize(
    ('made', 'key'),
    [
        (Cell('clean'), 'clean'),
        (Cell('corruption', 'snow', 3), 'corruption/snow/3'),
        (Cell('corruption', 'snow', 3.0), 'corruption/snow/3'),
        (Cell('attack', 'pgd', EIGHT), 'attack/pgd'),
        (Cell('attack', 'patch'), 'attack/patch'),
        (Cell('curve', 'pgd', 4 / 255), 'curve/pgd/4/255'),
        (Cell('curve', 'pgd', 0.5), 'curve/pgd/0.5'),
        (Cell('deepfool'), 'deepfool'),
    ],
)
def test_keys(made: Cell, key: str) -> None:
    assert made.key == key


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(kind='adversarial'), "one of .*'attack'.*got 'adversarial'"),
        (dict(kind='attack'), "must have a name without '/', such as 'snow', got ''"),
        (dict(kind='attack', name='a/b'), "got 'a/b'"),
        (dict(kind='clean', name='x'), "must have the name '', got 'x'"),
        (dict(kind='corruption', name='snow'), "of 'snow' must have a level"),
        (dict(kind='attack', name='pgd', options={'loss': object()}), "options of 'attack/pgd'"),
    ],
)
def test_bad_cells_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(**given)


def test_lists_may_be_arrays_and_tensors() -> None:
    made = Cell(
        'clean',
        videos=np.array([3, 5]),
        predictions=torch.tensor([0, 1]),
        ranks=torch.tensor([0, 2]),
        values={'entropy': torch.tensor([0.5, 0.25]), 'success': np.array([True, False])},
    )
    assert made.videos == [3, 5] and made.predictions == [0, 1] and made.ranks == [0, 2]
    assert made.values == {'entropy': [0.5, 0.25], 'success': [1.0, 0.0]}
    assert all(type(video) is int for video in made.videos)
