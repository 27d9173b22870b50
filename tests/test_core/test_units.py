"""ε in units in which it cannot be meant is told at the first attack, and no later."""

import warnings

import pytest
import torch
from helpers import Conv3dNet

from adv_plugins import make_adversarial


def told(model, x, y, call='adversarial_loss', times=3):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(times):
            getattr(model, call)(x, y)
    return [str(warning.message) for warning in caught]


def pixels(low, high):
    return low + (high - low) * torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize('recipe', ['advprop', 'taf', 'art'])
@pytest.mark.parametrize(('low', 'high'), [(0, 255), (0, 1), (-2, 2)])
@pytest.mark.parametrize('begin', [0, 10])
def test_unknown_units_are_told_once(recipe, low, high, begin):
    model = make_adversarial(Conv3dNet(), recipe, begin=begin)
    messages = told(model, *pixels(low, high))
    units = [message for message in messages if 'units of the input' in message]
    assert len(units) == 1 and 'value_range' in units[0] and '‖R‖/‖X‖ = ' in units[0]


def test_the_ratio_that_is_told_is_the_one_that_is_logged():
    x, y = pixels(0, 255)
    model = make_adversarial(Conv3dNet(), eps=2.0, steps=1)
    with pytest.warns(UserWarning, match='units of the input') as caught:
        ratio = model.adversarial_loss(x, y)['adv_ratio']
    assert f'{ratio:.2g}' in str(caught[0].message)


FITTING = {
    '0..1': ((0, 1), dict(value_range=(0, 1))),
    '0..255': ((0, 255), dict(value_range=(0, 255))),
    'normalised': ((-2, 2), dict(mean=0.5, std=0.25)),
    'normalised grey levels': ((-2.1, 2.6), dict(mean=124.0, std=58.0, value_range=(0, 255))),
    'a dark batch': ((0, 30), dict(value_range=(0, 255))),
    'a bright batch': ((1.0, 2.6), dict(mean=0.45, std=0.225)),
    'a little outside': ((-2.4, 2.9), dict(mean=0.45, std=0.225)),
}


@pytest.mark.parametrize('case', FITTING)
def test_inputs_that_fit_are_no_news(case):
    (low, high), options = FITTING[case]
    assert not told(make_adversarial(Conv3dNet(), **options), *pixels(low, high))


UNFIT = {
    'grey levels, never normalised': ((0, 255), dict(mean=0.5, std=0.25), 'far outside'),
    'grey levels for 0..1': ((0, 255), dict(value_range=(0, 1)), 'far outside'),
    '0..1 for grey levels': ((0, 1), dict(value_range=(0, 255)), 'covers 0.39%'),
    'normalised twice': (
        (-2.14, -2.10),
        dict(mean=124.0, std=58.0, value_range=(0, 255)),
        'covers 0.9',
    ),
    '0..1, never normalised': ((0, 1), dict(mean=0.5, std=0.25), 'nothing had normalised'),
}


@pytest.mark.parametrize('case', UNFIT)
@pytest.mark.parametrize('call', ['adversarial_loss', 'perturb'])
def test_inputs_of_another_range_are_told_once(case, call):
    (low, high), options, reason = UNFIT[case]
    messages = told(make_adversarial(Conv3dNet(), **options), *pixels(low, high), call)
    assert len([message for message in messages if reason in message]) == 1
    assert all('value_range' in message or 'larger' in message for message in messages)


@pytest.mark.parametrize('call', ['adversarial_loss', 'perturb'])
@pytest.mark.parametrize('eps', [8, 1.5, 255])
def test_a_ball_beyond_the_whole_range_is_an_error(call, eps):
    model = make_adversarial(Conv3dNet(), eps=eps, mean=0.5, std=0.25)
    with pytest.raises(ValueError, match=rf'eps={eps} is .*eps={eps} / 255'):
        getattr(model, call)(*pixels(-2, 2))


def test_an_l2_ball_may_be_longer_than_one_pixel():
    model = make_adversarial(Conv3dNet(), eps=8, norm='l2', mean=0.5, std=0.25)
    assert not told(model, *pixels(-2, 2))


@pytest.mark.parametrize(
    'options',
    [dict(eps=8), dict(eps=8, steps=1, step_size=8), dict(eps=1e3, step_size=1e3, norm='l2')],
)
def test_a_perturbation_larger_than_the_input_is_told(options):
    messages = told(make_adversarial(Conv3dNet(), **options), *pixels(0, 1))
    (message,) = (message for message in messages if 'larger than the inputs' in message)
    assert f'eps={options["eps"]:g}' in message


def test_every_modality_is_told_by_name():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(8, 4)

        def forward(self, inputs):
            return self.fc(inputs['rgb'].mean(1) + inputs['audio'].mean(1))

    inputs = {'rgb': torch.rand(4, 5, 8), 'audio': 9 * torch.rand(4, 3, 8)}
    messages = told(make_adversarial(Sum(), dual_bn=False), inputs, torch.tensor([0, 1, 2, 3]))
    assert ['(rgb)' in messages[0], '(audio)' in messages[1]] == [True, True]


def test_blank_samples_have_no_ratio():
    x, y = pixels(0, 1)
    x[0] = 0
    model = make_adversarial(Conv3dNet(), eps=0.1, steps=1)
    logged = model.eval().adversarial_loss(x, y)
    rest = model.adversarial_loss(x[1:], y[1:])
    torch.testing.assert_close(logged['adv_ratio'], rest['adv_ratio'])


def test_the_ratio_of_known_pixels_is_that_of_the_pixels():
    """Around the mean normalised values are small, which makes no perturbation a large one."""
    x, y = pixels(-0.2, 0.2)
    options = dict(mean=0.5, std=0.25, steps=1)
    model = make_adversarial(Conv3dNet(), eps=0.2, step_size=0.2, **options)
    assert model.perturb(x, y).sub(x).norm() > 2 * x.norm() and not told(model, x, y)
    messages = told(
        make_adversarial(Conv3dNet(), eps=0.9, step_size=0.9, clamp=False, **options), x, y
    )
    assert len(messages) == 1 and 'larger than the inputs' in messages[0]


@pytest.mark.parametrize(
    'options', [dict(mean=0.5, std=0.25), dict(mean=[0.4, 0.5, 0.4]), dict(std=torch.tensor(0.5))]
)
def test_a_normalisation_of_other_pixels_is_refused(options):
    with pytest.raises(ValueError, match='between 0 and 1'):
        make_adversarial(Conv3dNet(), value_range=(0, 255), **options)
    make_adversarial(Conv3dNet(), value_range=(0, 255), std=255.0)
