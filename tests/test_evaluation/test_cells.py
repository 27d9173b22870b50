"""Cells: their keys, what they accept, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade_results import EIGHT

from adv_plugins import TAF
from adv_plugins.evaluation.attacks import FGSM, Square, attack_class
from adv_plugins.evaluation.cells import Cell, canonical_key, split_key


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


def test_an_attack_may_be_given_by_its_class() -> None:
    """As configs in pure Python give it."""

    class Mine(Square):
        """An attack of the user's own."""

    class PGD(FGSM):
        """One that is called like another."""

    for given, text in ((Square, 'Square'), (Mine, f'{__name__}.{Mine.__qualname__}')):
        made = Cell('attack', 'a', 0.1, dict(type=given))
        assert made.options == {'type': text}
        assert attack_class(made.options['type']) is given
    assert attack_class(Cell('attack', 'a', 0.1, dict(type=PGD)).options['type']) is PGD
    assert Cell('attack', 'a', 0.1, dict(type=TAF)).condition == (
        Cell('attack', 'a', 0.1, dict(type='taf')).condition
    )


@pytest.mark.parametrize(
    ('key', 'parts'),
    [
        ('clean', ('clean', '', None)),
        ('corruption/snow', ('corruption', 'snow', None)),
        ('corruption/snow/3', ('corruption', 'snow', 3.0)),
        ('curve/pgd/8/255', ('curve', 'pgd', 8 / 255)),
        # What is missing may be called anything.
        ('corruption/a/b', ('corruption', 'a/b', None)),
        ('https://host/x', ('https:', '/host/x', None)),
    ],
)
def test_the_parts_of_a_key(key: str, parts: tuple[str, str, float | None]) -> None:
    assert split_key(key) == parts


def test_curve_keys_that_are_none_stay_as_they_are() -> None:
    assert canonical_key('curve/pgd/0.03137') == 'curve/pgd/8/255'
    assert canonical_key('curve/pgd/none') == 'curve/pgd/none'
