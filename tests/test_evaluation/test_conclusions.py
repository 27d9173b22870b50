"""Which model, by how much and how sure: in a sentence that never says more than is known."""

from __future__ import annotations

from collections.abc import Iterable

from handmade_results import EIGHT, one_model, put, result, two_models

from adv_plugins.evaluation import compare
from adv_plugins.evaluation.conclusions import conclusions, findings
from adv_plugins.evaluation.results import Robustness


def models(wrong: Iterable[int], count: int = 60) -> list[Robustness]:
    """Clean, both are always right; under attack the first loses 30 videos, the second these."""
    both = [result('a', count), result('b', count)]
    for each, lost in zip(both, (range(30), wrong), strict=True):
        put(each, 'clean', [])
        put(each, 'attack', lost, 'pgd', EIGHT)
        put(each, 'attack', lost, 'square', EIGHT)
    return both


def conclusion(both: list[Robustness]) -> str:
    (found,) = conclusions(compare(both))
    return found.replace('\n', ' ')


def test_a_certain_difference_has_a_direction() -> None:
    found = conclusion(models(range(10)))
    assert found.startswith('**b is more robust than a**: +33.3 points [+21.7, +45.0] in the worst')
    assert 'case at ε = 8/255 on 60 videos (83.3 % against 50.0 %).' in found
    assert found.endswith(
        'Clean accuracy does not differ beyond noise: +0.0 points [+0.0, +0.0] on 60 videos.'
    )
    assert conclusion(models(range(45))).startswith('**b is less robust than a**: -25.0 points')


def test_noise_is_called_noise() -> None:
    found = conclusion(models(range(28)))
    assert found.startswith('**Whether b is more robust than a is uncertain**: +3.3 points')
    assert 'is within noise.' in found and 'smaller ε' not in found


def test_noise_in_spite_of_an_interval_without_0_is_explained() -> None:
    # Five videos gained and none lost: by chance that happens in 6 % of cases.
    found = conclusion(models(range(25)))
    assert '+8.3 points [+1.7, +16.7] in the worst case' in found
    assert 'is within noise (p = 0.062).' in found
    both = models(range(30))
    put(both[1], 'corruption', range(40), 'fog', 1)
    put(both[0], 'corruption', range(44), 'fog', 1)
    for each in both:
        put(each, 'corruption', range(60), 'fog', 2)
    assert '(mPC) does not differ beyond noise: +3.3 points' in conclusion(both)
    assert '(they differ at 4 videos only)' in conclusion(both)


def test_there_is_no_verdict_on_few_videos() -> None:
    both = models([], count=12)
    found = conclusion(both)
    assert found.startswith('**Too few videos to say whether b is more robust than a**: a verdict ')
    assert 'takes at least 20; so far it is +100.0 points' in found
    assert 'is known on too few videos for a verdict' in found


def test_where_nothing_survives_a_smaller_eps_is_advised() -> None:
    both = models(range(59))
    put(both[0], 'attack', range(60), 'pgd', EIGHT)
    assert 'a smaller ε might tell them apart' in conclusion(both)


def test_one_attack_or_none() -> None:
    both = models(range(10))
    for each in both:
        del each.cells['attack/square']
    assert 'under pgd at ε = 8/255 on 60 videos' in conclusion(both)
    del both[0].cells['attack/pgd']
    found = conclusion(both)
    assert found.startswith('**Whether b is more robust than a is not known**: there is no attack')


def test_corruptions_and_clean_accuracy_are_told_beside_it() -> None:
    found = conclusion(two_models())
    assert 'Accuracy under corruptions (mPC) is higher: +7.5 points' in found
    assert 'Clean accuracy is higher: +16.7 points' in found


def test_one_model_alone() -> None:
    assert findings(one_model()) == (
        '**TSM** is right on 75.0 % [30.1, 95.4] of 4 clean videos, 33.3 % [6.1, 79.2] of 3 videos '
        'in the worst case at ε = 8/255, and 31.2 % [6.2, 62.5] on average under 2 corruptions.'
    )
    assert 'was not evaluated' in findings(Robustness('TSM', classes=['a']))
