"""Each flag on results that have to raise it, and on neighbours that must not."""

from math import nan

import pytest

from adv_plugins.evaluation.attacks import Square, kept_name
from adv_plugins.evaluation.results import Cell, Robustness
from adv_plugins.evaluation.sanity import NAMES, flags

LABELS = [0, 1, 2, 3]


def cell(kind, name='', ranks=(0, 0, 0, 0), level=None, values=None, **options):
    """A cell of four videos; a wrong one is taken for the next class."""
    predictions = [
        label if rank == 0 else (label + 1) % 4 for label, rank in zip(LABELS, ranks, strict=True)
    ]
    return Cell(
        kind, name, level, options, list(range(4)), predictions, list(ranks), values or {}, 1.0
    )


def probe(ranks=(1, 1, 1, 1), **values):
    fine = dict(score_change=[0.0] * 4, simplex=[False] * 4, gradient=[1.0] * 4)
    return cell('sanity', ranks=ranks, values={**fine, **values})


def attack(name, kind, ranks, level=0.1):
    return cell('attack', name, ranks, level, type=kind)


def flags_by_name(*cells):
    results = Robustness(
        'model', classes=['a', 'b', 'c', 'd'], labels=dict(enumerate(LABELS)), dataset='D'
    )
    for entry in cells:
        results.add(entry)
    return {flag.name: flag for flag in flags(results)}


FINE = (
    cell('clean', ranks=(0, 0, 0, 1)),
    probe(),
    attack('fgsm', 'FGSM', (0, 0, 1, 1)),
    attack('pgd', 'PGD', (0, 1, 1, 1)),
    attack('square', 'Square', (0, 0, 0, 1)),
)


def test_nothing_is_raised_where_all_is_well():
    seen = flags_by_name(*FINE)
    assert tuple(seen) == NAMES
    assert [flag.raised for flag in seen.values()] == [False] * len(NAMES)


def test_what_cannot_be_checked_says_so():
    assert [flag.raised for flag in flags_by_name().values()] == [None] * len(NAMES)


def test_one_class_for_all_videos():
    always = Cell('clean', '', None, {}, [0, 1, 2, 3], [1] * 4, [1, 0, 1, 1], {}, 1.0)
    seen = flags_by_name(always)[NAMES[0]]
    assert seen.raised and "all 4 clean videos are taken for 'b'" in seen.message
    # Videos of a single class may well be taken for one.
    alike = Cell('clean', '', None, {}, [1], [1], [0], {}, 1.0)
    assert flags_by_name(alike)[NAMES[0]].raised is None


def test_randomised_model():
    seen = flags_by_name(probe(score_change=[0.0, 0.5, 0.0, float('nan')]))['randomised model']
    assert seen.raised
    assert '2 of 4' in seen.message


@pytest.mark.parametrize(('simplex', 'raised'), [([True] * 4, True), ([True, False] * 2, False)])
def test_softmax_as_logits(simplex, raised):
    assert flags_by_name(probe(simplex=simplex))['softmax as logits'].raised is raised


def test_zero_gradients():
    seen = flags_by_name(probe(gradient=[1.0, 0.0, float('nan'), 1.0]))['zero gradients']
    assert seen.raised
    assert '2 of 4' in seen.message


@pytest.mark.parametrize(('ranks', 'raised'), [((0, 1, 1, 1), False), ((0, 0, 1, 1), True)])
def test_accuracy_at_huge_eps(ranks, raised):
    """Chance is 25 %."""
    assert flags_by_name(probe(ranks=ranks))['accuracy at huge eps'].raised is raised


def test_black_box_beats_white_box():
    white = attack('pgd', 'PGD', (0, 0, 1, 1))
    other = attack('fgsm', 'FGSM', (1, 0, 0, 1))
    # Video 1 survives both attacks by gradient; only there does the black box say more.
    assert not flags_by_name(white, other, attack('square', 'Square', (1, 0, 0, 0)))[
        NAMES[5]
    ].raised
    seen = flags_by_name(white, other, attack('square', 'Square', (0, 1, 0, 0)))[NAMES[5]]
    assert seen.raised
    assert '1 of 4' in seen.message
    assert 'square' in seen.message
    # At another eps nothing can be said.
    assert (
        flags_by_name(white, attack('square', 'Square', (1, 1, 1, 1), 0.2))[NAMES[5]].raised is None
    )


def test_a_black_box_within_an_ensemble():
    """An ensemble is neither white nor black, but tells which of its parts fooled a video."""
    white = attack('pgd', 'PGD', (0, 0, 0, 0))

    def ensemble(*fooled_by):
        ranks = [int(part == part) for part in fooled_by]
        values = dict(fooled_by=fooled_by, stopped_in=[nan] * 4)
        return cell('attack', 'all', ranks, 0.1, values, type='StandardEnsemble', eps=0.1)

    seen = flags_by_name(white, ensemble(1, 4, 4, nan))[NAMES[5]]
    assert seen.raised and '2 of 4 videos survive' in seen.message
    assert 'fall to Square in all' in seen.message
    assert flags_by_name(white, ensemble(1, 2, 3, nan))[NAMES[5]].raised is False
    # What the black box beside it finds is not excused by what the ensemble found.
    black = attack('square', 'Square', (0, 1, 1, 1))
    assert flags_by_name(white, ensemble(1, 2, 3, 1), black)[NAMES[5]].raised


@pytest.mark.parametrize(
    ('options', 'stopped_in', 'ranks', 'raised'),
    [
        (dict(norm='l2'), [nan] * 4, (0, 0, 0, 0), None),
        (dict(queries=0), [nan] * 4, (0, 0, 0, 0), None),
        ({}, [1, 2, 3, 4], (0, 0, 0, 0), None),
        ({}, [1, 2, 3, nan], (0, 0, 0, 1), None),
        ({}, [1, 2, 3, nan], (0, 0, 0, 0), False),
    ],
)
def test_a_black_box_that_never_ran_says_nothing(options, stopped_in, ranks, raised):
    values = dict(fooled_by=[nan if rank == 0 else 1 for rank in ranks], stopped_in=stopped_in)
    options = dict(type='StandardEnsemble', eps=0.1, **options)
    found = cell('attack', 'all', ranks, 0.1, values, **options)
    assert flags_by_name(found)[NAMES[5]].raised is raised


def test_one_step_beats_many():
    weak = attack('pgd', 'PGD', (0, 0, 0, 1))
    assert flags_by_name(attack('fgsm', 'FGSM', (0, 0, 1, 1)), weak)[NAMES[6]].raised
    assert not flags_by_name(attack('fgsm', 'FGSM', (0, 0, 0, 1)), weak)[NAMES[6]].raised
    assert flags_by_name(attack('fgsm', 'FGSM', (1, 1, 1, 1), 0.2), weak)[NAMES[6]].raised is None


class Mine(Square):
    """A black box of the user's own."""


@pytest.mark.parametrize(
    'kind',
    [
        'Square',
        'square',
        'SQUARE',
        'adv_plugins.evaluation.attacks.square.Square',
        kept_name(Mine),
    ],
)
def test_a_black_box_is_one_however_its_type_is_written(kind):
    white, black = attack('a', 'pgd', (0, 0, 0, 0)), attack('b', kind, (0, 1, 1, 1))
    assert flags_by_name(white, black)[NAMES[5]].raised


@pytest.mark.parametrize('kinds', [('fgsm', 'pgd'), ('F_G_S_M', 'adv_plugins.evaluation.PGD')])
def test_a_single_step_is_one_however_its_type_is_written(kinds):
    one, many = attack('a', kinds[0], (0, 1, 1, 1)), attack('b', kinds[1], (0, 0, 0, 1))
    assert flags_by_name(one, many)[NAMES[6]].raised


def test_attacks_are_compared_on_shared_videos_of_one_ball():
    """Videos that the black box was not run on have not fallen to it."""
    white = attack('pgd', 'PGD', (0, 0, 0, 0))
    black = Cell('attack', 'square', 0.1, {'type': 'Square'}, [0, 1], [0, 1], [0, 0])
    seen = flags_by_name(white, black)
    assert seen[NAMES[5]].raised is False
    other = Cell('attack', 'fgsm', 0.1, {'type': 'FGSM'}, [0, 1], [0, 1], [0, 0])
    assert flags_by_name(white, other)[NAMES[6]].raised is False
    black.options['norm'] = 'l2'
    assert flags_by_name(white, black)[NAMES[5]].raised is None
