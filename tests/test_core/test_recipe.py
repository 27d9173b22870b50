"""Recipes: the papers' defaults, composition, and errors that teach."""

import dataclasses
import inspect
import pickle
import pkgutil

import pytest

from adv_plugins import (
    AART,
    ART,
    TAF,
    AdvProp,
    AttentionFrobenius,
    CEAugmentation,
    CrossEntropy,
    Objective,
    Recipe,
    Regularizer,
    TemporalCAM,
    make_adversarial,
)
from adv_plugins.core.objectives import OBJECTIVES
from adv_plugins.core.recipe import RECIPES, build_recipe, register_recipe
from adv_plugins.core.regularizers import REGULARIZERS


def test_step_size_follows_eps_unless_given():
    assert dataclasses.replace(ART(), eps=2.0).solver.step_size == 2.0
    assert ART(eps=2.0, steps=10).solver.step_size == 0.5
    assert ART(eps=2.0, steps=10, step_size=0.1).solver.step_size == 0.1


def test_regularizers_join_any_recipe():
    term = dict(type='AttentionFrobenius', weight=0.5)
    for entry in (term, AttentionFrobenius(weight=0.5)):
        assert TAF(regularizers=[entry]).regularizers == (AttentionFrobenius(weight=0.5),)
    assert TAF(regularizers=['attention_frobenius']).regularizers == (AttentionFrobenius(),)


@pytest.mark.parametrize(
    'recipe',
    [
        TAF(num_frames=3),
        CEAugmentation(steps=2),
        AdvProp(),
        ART(eps=1.0, joint=True),
        AART(beta=0.1),
        TAF(regularizers=[AttentionFrobenius()]),
        Recipe(objective=CrossEntropy(), eps=1, step_size=1),
    ],
    ids=str,
)
def test_repr_and_replace_round_trip(recipe):
    assert eval(repr(recipe), {**RECIPES, **OBJECTIVES, **REGULARIZERS}) == recipe
    assert dataclasses.replace(recipe, interval=2).interval == 2


def test_a_recipe_is_data():
    assert isinstance(TAF(), Recipe) and pickle.loads(pickle.dumps(TAF())) == TAF()
    taf = dataclasses.replace(TAF(num_frames=3), eps=0.5, clean_weight=0.5)
    assert (taf.eps, taf.clean_weight, taf.objective.num_frames) == (0.5, 0.5, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        taf.eps = 1.0


def test_the_log_has_grey_levels_and_what_is_not_the_default():
    text = repr(TAF(eps=6 / 255, num_frames=2))
    assert text.startswith("Recipe(name='TAF', objective=TemporalCAM(num_frames=2), eps=6/255")
    assert 'step_size=32/255' in text and 'adv_weight=1 - 0.7' in text and 'norm=' not in text
    assert str(TAF(num_frames=2)).startswith('TAF(objective=TemporalCAM(num_frames=2), eps=64/255')
    assert str(Recipe(objective='TrainingLoss', eps=1)) == 'Recipe(objective=TrainingLoss(), eps=1)'
    assert 'eps=0.2,' in repr(TAF(eps=0.2)) and 'eps=0.5' in repr(ART(steps=2))


def test_parts_of_ones_own_are_printed_too():
    class Mine(Objective):
        targets = __call__ = None

    class Penalty(Regularizer):
        name, weight, __call__ = 'penalty', 1.0, None

    text = repr(Recipe(objective=Mine(), eps=0.1, regularizers=[Penalty()]))
    assert 'Mine object' in text and 'Penalty object' in text


def test_the_signature_of_a_recipe_is_what_it_takes():
    parameters = inspect.signature(AART).parameters
    assert parameters['norm'].default == 'l2' and parameters['beta'].default == 0.001
    assert not {'regularizers', 'objective', 'clean_weight', 'options'} & parameters.keys()
    for recipe in (TAF, AART):
        with pytest.raises(TypeError, match=rf'{recipe.__name__}\(\) .*clean_weight'):
            recipe(clean_weight=0.5)


def test_a_recipe_of_ones_own_is_known_by_name():
    @register_recipe(derives=('clean_weight',))
    def OnlyAdversarial(*, objective='TrainingLoss', eps=0.1, **options):
        return Recipe(objective=objective, clean_weight=0, eps=eps, **options)

    try:
        recipe = build_recipe('onlyadversarial', steps=2)
        assert (recipe.name, recipe.steps, recipe.clean_weight) == ('OnlyAdversarial', 2, 0)
        with pytest.raises(ValueError, match='OnlyAdversarial has no option clean_weight='):
            build_recipe('OnlyAdversarial', clean_weight=1)
    finally:
        del RECIPES['OnlyAdversarial']


NAMES = ['taf', 'TAF', 'adv_plugins.TAF', 'adv_plugins.recipes.taf.TAF', TAF]


@pytest.mark.parametrize('name', [*NAMES, *(dict(type=name) for name in NAMES)])
def test_built_by_name_or_itself(name):
    assert build_recipe(name, eps=0.1) == TAF(eps=0.1)


def test_parts_are_built_from_their_classes():
    expected = Recipe(
        objective=TemporalCAM(num_frames=4), eps=1, regularizers=[AttentionFrobenius()]
    )
    for given in (
        dict(objective=dict(type=TemporalCAM, num_frames=4), regularizers=[AttentionFrobenius]),
        dict(
            objective=dict(type='adv_plugins.objectives.TemporalCAM', num_frames=4),
            regularizers=[dict(type='adv_plugins.AttentionFrobenius')],
        ),
    ):
        for kind in (Recipe, 'Recipe', 'adv_plugins.Recipe'):
            assert build_recipe(dict(given, type=kind, eps=1)) == expected
    assert Recipe(objective=CrossEntropy, eps=1) == Recipe(objective='CrossEntropy', eps=1)


class OwnObjective(CrossEntropy):
    """Of a user's own, registered nowhere."""

    def __init__(self, power=1, **rest):
        super().__init__(**rest)
        object.__setattr__(self, 'power', power)


@pytest.mark.parametrize('kind', [OwnObjective, f'{__name__}.OwnObjective'], ids=str)
def test_a_class_of_ones_own_needs_no_name(kind):
    own = pkgutil.resolve_name(kind) if isinstance(kind, str) else kind
    objective = Recipe(objective=dict(type=kind, power=3), eps=1).objective
    assert type(objective) is own and objective.power == 3
    # What goes on to **rest is checked there.
    with pytest.raises(TypeError, match='unknown_option'):
        Recipe(objective=dict(type=kind, unknown_option=3), eps=1)


def test_composed_from_parts():
    recipe = build_recipe(
        dict(objective=dict(type='temporal_cam', num_frames=4), norm='l2', eps=2, step_size=1)
    )
    assert recipe.objective == TemporalCAM(num_frames=4) and recipe.solver.norm == 'l2'


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: build_recipe('tav'), "recipe='tav' is unknown; write 'TAF'"),
        (lambda: build_recipe(dict(type='Advprops')), "write 'AdvProp'"),
        (lambda: build_recipe('taf', epsilon=1), 'TAF has no option epsilon=; write eps or steps'),
        (
            lambda: build_recipe(dict(type=dict)),
            'recipe=dict is neither .* of Recipe ',
        ),
        (lambda: build_recipe(make_adversarial), 'recipe=make_adversarial is neither'),
        (lambda: build_recipe(dict(type=TAF())), 'is neither a known one'),
        (lambda: build_recipe('adv_plugins.TAV'), "recipe='adv_plugins.TAV' cannot be imported"),
        (lambda: build_recipe('no_such_package.TAF'), 'cannot be imported: .*no_such_package'),
        (lambda: build_recipe(None), "recipe=None is unknown; write 'Recipe'"),
        (
            lambda: Recipe(objective=Objective, eps=1),
            'Objective is neither .*TemporalCAM',
        ),
        (lambda: Recipe(objective=TAF, eps=1), 'objective=TAF is neither .* subclass of Objective'),
        (lambda: build_recipe('zzz'), "'Recipe', .*'AdvProp', .*'TAF'"),
        (lambda: build_recipe('taf', step=1), 'write steps or step_size'),
        (lambda: build_recipe('taf', objective='loss'), 'TAF has no option objective='),
        (lambda: build_recipe('Recipe'), 'needs the options objective, eps'),
        (lambda: build_recipe(TAF(), eps=1), 'eps=1 together with a ready recipe'),
        (lambda: Recipe(objective='temporal_kam', eps=1, step_size=1), "write 'TemporalCAM'"),
        (lambda: TAF(eps=-1 / 255), 'eps=-0.0039'),
        (lambda: TAF(eps=float('nan')), 'eps=nan'),
        (lambda: TAF(step_size=-1), 'step_size=-1'),
        (lambda: TAF(steps=0), 'steps=0 must be a whole number, at least 1'),
        (lambda: TAF(steps=1.5), 'steps=1.5 must be a whole number'),
        (lambda: TAF(interval=0), 'interval=0 must be a whole number'),
        (lambda: TAF(alpha=1.2), r'alpha=1.2 must lie in \[0, 1\]'),
        (lambda: TAF(fraction=0), r'fraction=0 must lie in \(0, 1\]'),
        (lambda: TAF(begin=3, end=3), 'end=3 must be greater than begin=3'),
        (lambda: TAF(norm='l1'), "norm='l1' is unknown; write norm='linf' or norm='l2'"),
        (lambda: TAF(dims=(0, 1)), '0 is the batch'),
        (lambda: TAF(dims=(-2, -1)), 'positive axes'),
        (lambda: TAF(num_frames=0), 'num_frames=0 must be at least 1'),
        (lambda: TAF(cam_normalize='mean'), "cam_normalize='minmax' or cam_normalize='max'"),
        (lambda: TAF(cam_of='logits'), "cam_of='loss' or cam_of='score'"),
        (lambda: TAF(cam_weighting='x'), "cam_weighting='gap' or cam_weighting='elementwise'"),
        (lambda: TemporalCAM(normalize='mean'), "mean' is unknown; write normalize='minmax'"),
        (lambda: ART(alpha=float('inf')), 'alpha=inf'),
        (lambda: AART(beta=float('inf')), 'beta=inf'),
        (lambda: AdvProp(attack_path='main'), "attack_path='clean'"),
        (lambda: ART(joint=True, dims=(2,)), 'write one of them'),
        (lambda: ART(alpha=-1), 'alpha=-1'),
        (lambda: ART(dims=2), r'write dims=\(2,\)'),
        (lambda: ART(eps=float('inf')), 'eps=inf must be finite'),
        (lambda: TAF(regularizers=None), 'must be a list'),
        (lambda: AART(beta=-1), 'beta=-1'),
        (lambda: AART(attention='encoders'), r"write attention=\['encoders'\]"),
        (lambda: TAF(regularizers='AttentionFrobenius'), 'must be a list'),
        (lambda: TAF(regularizers=['AttentionFrobenus']), "write 'AttentionFrobenius'"),
        (
            lambda: TAF(regularizers=[dict(type='AttentionFrobenius', beta=1)]),
            'has no option beta=; write ',
        ),
        (lambda: TAF(eps=None), 'eps=None must be a number'),
        (lambda: TAF(regularizers=['AttentionFrobenius'] * 2), 'twice'),
    ],
)
def test_errors_name_the_option_and_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_schedule():
    recipe = TAF(begin=2, end=5, interval=3)
    assert [recipe.is_active(epoch, 0) for epoch in range(6)] == [0, 0, 1, 1, 1, 0]
    assert [recipe.is_active(2, iteration) for iteration in range(4)] == [1, 0, 0, 1]


def test_lengths_as_a_command_line_gives_them():
    recipe = TAF(eps='6/255', step_size='0.01')
    assert (recipe.eps, recipe.step_size) == (6 / 255, 0.01)
    for value in ('six', '6/0', '-1/255', 'inf'):
        with pytest.raises(ValueError, match=f"eps='{value}' must be finite and not negative"):
            TAF(eps=value)


@pytest.mark.parametrize('name', ['adv_eps', ''])
def test_a_regularizer_that_is_called_as_what_the_step_logs_is_refused(name):
    kind = type('Own', (Regularizer,), dict(name=name, __call__=lambda self, a, b: a.loss))
    with pytest.raises(ValueError, match='does not begin with adv_'):
        AdvProp(regularizers=[kind()])


def test_text_that_means_a_number_is_one():
    recipe = build_recipe(dict(type='TAF', alpha='3/4', fraction='1/4', attack_scale='0.5'))
    assert (recipe.clean_weight, recipe.fraction, recipe.attack_scale) == (0.75, 0.25, 0.5)
    for option in ('alpha', 'fraction', 'budget'):
        with pytest.raises(ValueError, match=f"{option}='much'"):
            build_recipe(dict(type='TAF', **{option: 'much'}))
