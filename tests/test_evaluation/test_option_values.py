"""Numbers among options, as configs and command lines give them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from adv_plugins.evaluation.option_values import as_count, as_length, as_number, check_within_range

NONE = ['', 'eight', '8/', '/255', '8/0', '1/2/3', 'nan', 'inf', float('nan'), float('inf')]
NONE += [None, True, [0.1], {'type': 'LinearEps'}, 1j]


@pytest.mark.parametrize('value', [8 / 255, '8/255', ' 8 / 255 ', np.float64(8 / 255)])
def test_lengths(value: Any) -> None:
    found = as_length('eps', value)
    assert type(found) is float and found == 8 / 255


def test_other_ways_to_write_a_number() -> None:
    assert as_number('overshoot', '-2e-2') == -0.02
    assert as_number('eps', Fraction(1, 4)) == as_number('eps', np.float32(0.25)) == 0.25
    assert as_count('steps', '10') == as_count('steps', 10.0) == as_count('steps', np.int64(10))
    assert type(as_count('steps', 10.0)) is int


@pytest.mark.parametrize('value', NONE)
def test_what_is_no_number_is_told(value: Any) -> None:
    for check in (as_number, as_length, as_count):
        with pytest.raises(ValueError, match='option=.* must be'):
            check('option', value)


@pytest.mark.parametrize('value', [-0.1, '-1/255'])
def test_lengths_are_not_negative(value: Any) -> None:
    with pytest.raises(ValueError, match='eps=.*-.* not negative; eight grey levels are 8/255'):
        as_length('eps', value)


@pytest.mark.parametrize('value', [0, -1, '0', 2.5, '2.5', '1/2'])
def test_counts_are_whole(value: Any) -> None:
    with pytest.raises(ValueError, match='steps=.* an integer, at least 1'):
        as_count('steps', value)
    assert as_count('seed', 0, least=0) == 0


def test_grey_levels_are_no_fraction_of_the_range() -> None:
    check_within_range('eps', 1.0, 'linf')
    check_within_range('eps', 8.0, 'l2')
    with pytest.raises(ValueError, match=r"eps=8 is 8 times .* eps=8 / 255 .* eps='8/255'"):
        check_within_range('eps', 8.0, 'linf')
