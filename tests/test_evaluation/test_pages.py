"""One function for every page."""

from __future__ import annotations

from typing import Any

import pytest
from handmade_results import one_model, two_models

from adv_plugins.evaluation import compare, markdown


def test_either_kind_of_results_has_a_page() -> None:
    assert markdown(one_model(), groups={}).startswith('# Robustness of TSM')
    assert markdown(compare(two_models())).startswith('# Comparison with TSM')


@pytest.mark.parametrize('wrong', ['tsm.json', None, []])
def test_other_objects_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r'Robustness\.load'):
        markdown(wrong)


def test_options_of_the_other_kind_are_refused() -> None:
    with pytest.raises(TypeError, match='highlight'):
        markdown(one_model(), highlight=['left'])
    with pytest.raises(TypeError, match='groups'):
        markdown(compare(two_models()), groups={})
