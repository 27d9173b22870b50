"""The ball holds and the attack is optimal where the optimum is known."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.core.attack import GradientAscent
from adv_plugins.core.threat import InputSpace, ThreatModel


def solver(step_size=0.1, steps=1, random_start=False, **options):
    threat = ThreatModel(**{'eps': 0.1, 'clamp': False, **options})
    return GradientAscent(threat, step_size, steps, random_start)


def ascend(attack, clean, space, gradient, first=None):
    """Run an attack on one lone tensor."""
    first = None if first is None else {'x': first}
    moved, finite = attack.run(
        {'x': clean}, {'x': space}, lambda values: {'x': gradient(values['x'])}, first
    )
    return moved['x'], finite


def linear(weight):
    """Gradient of <weight, x> per sample."""
    return lambda x: weight.expand_as(x).to(x.dtype)


shapes = st.lists(st.integers(1, 4), min_size=2, max_size=6)


@pytest.mark.parametrize('steps', [1, 7])
@pytest.mark.parametrize('random_start', [False, True])
def test_gain_on_a_linear_model_is_the_dual_norm(steps, random_start):
    weight, clean = torch.randn(3, 4, 5), torch.randn(2, 3, 4, 5)
    options = dict(steps=steps, step_size=1.0, random_start=random_start)
    for norm, order in (('linf', 1), ('l2', 2)):
        adversarial, _ = ascend(solver(norm=norm, **options), clean, InputSpace(), linear(weight))
        gain = ((adversarial - clean) * weight).flatten(1).sum(1)
        if norm == 'l2' and (steps > 1 or random_start):
            # Straight steps along w, projected: w is reached from anywhere up to the start.
            assert (gain > 0.09 * weight.norm()).all()
        else:
            dual = torch.linalg.vector_norm(weight, order)
            torch.testing.assert_close(gain, (0.1 * dual).expand(2), rtol=1e-5, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    shape=shapes,
    norm=st.sampled_from(['linf', 'l2', 'l1']),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    eps=st.sampled_from([0.0, 1e-3, 8 / 255, 0.5]),
    steps=st.integers(1, 3),
    random_start=st.booleans(),
    clamp=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_ball_holds_in_pixel_units(shape, norm, dtype, eps, steps, random_start, clamp, seed):
    torch.manual_seed(seed)
    channels = shape[1]
    view = (-1, *[1] * (len(shape) - 2))
    std = 50 + 20 * torch.rand(channels).view(view)
    mean = 100 + 20 * torch.rand(channels).view(view)
    space = InputSpace.from_normalization(mean, std, (0.0, 255.0))
    # Some are black or white.
    pixels = 255 * (1.4 * torch.rand(shape) - 0.2).clamp(0, 1)
    clean = ((pixels - mean) / std).to(dtype)
    before = clean.clone()
    attack = solver(
        norm=norm, eps=eps, step_size=0.7 * eps, steps=steps, random_start=random_start, clamp=clamp
    )
    adversarial, finite = ascend(attack, clean, space, lambda x: torch.randn(x.shape).to(x.dtype))
    assert adversarial.dtype == dtype and adversarial.shape == clean.shape and finite.all()
    assert torch.equal(before, clean) and not adversarial.requires_grad
    delta = (adversarial.double() - clean.double()) * std.double() / 255
    order = {'linf': float('inf'), 'l2': 2, 'l1': 1}[norm]
    size = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    assert (size <= eps * (1 + 1e-5) + 1e-7).all()
    if eps == 0:
        assert torch.equal(adversarial, clean)
    if clamp:
        valid = adversarial.double() * std.double() + mean.double()
        # One rounding of the bound (to the input's dtype; mean and std are fp32) is allowed for.
        slack = 255 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        assert valid.min() >= -slack and valid.max() <= 255 + slack


def test_clamp_leaves_clean_values_outside_of_the_range_alone():
    space = InputSpace.from_normalization(torch.tensor(0.0), torch.tensor(1.0), (0.0, 1.0))
    clean = torch.tensor([[-0.5, 0.02, 0.5, 1.5]])
    adversarial, _ = ascend(
        solver(clamp=True), clean, space, linear(torch.tensor([[-1.0, -1, 1, 1]]))
    )
    torch.testing.assert_close(adversarial, torch.tensor([[-0.5, 0.0, 0.6, 1.5]]))
    bare, _ = ascend(solver(clamp=False), clean, space, linear(torch.tensor([[-1.0, -1, 1, 1]])))
    torch.testing.assert_close(bare, torch.tensor([[-0.6, -0.08, 0.6, 1.6]]))


def test_l2_step_is_steepest_in_pixels_not_in_normalised_values():
    scale = torch.tensor([1.0, 10.0]).view(2, 1)
    clean, weight = torch.zeros(1, 2, 3), torch.randn(2, 3)
    adversarial, _ = ascend(solver(norm='l2'), clean, InputSpace(scale), linear(weight))
    gain = ((adversarial - clean) * weight).sum()
    torch.testing.assert_close(gain, 0.1 * (weight * scale).norm())


def test_sample_alone_is_sample_in_the_batch():
    clean = torch.randn(5, 3, 2)
    for norm in ('linf', 'l2'):
        attack = solver(norm=norm, steps=3, step_size=0.05)
        together, _ = ascend(attack, clean, InputSpace(), lambda x: x.sin())
        alone = [ascend(attack, x[None], InputSpace(), lambda x: x.sin())[0] for x in clean]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('random_start', [False, True])
def test_sample_with_a_non_finite_gradient_stays_clean(bad, random_start):
    clean = torch.randn(3, 4)

    def gradient(x):
        grad = torch.ones_like(x)
        grad[1, 2] = bad
        return grad

    adversarial, finite = ascend(solver(random_start=random_start), clean, InputSpace(), gradient)
    assert finite.tolist() == [True, False, True]
    assert torch.equal(adversarial[1], clean[1])
    assert (adversarial[[0, 2]] != clean[[0, 2]]).any() and adversarial.isfinite().all()


def test_non_finite_gradient_never_reaches_the_next_forward():
    """It would poison the batch statistics of the other samples."""
    seen = []

    def gradient(x):
        seen.append(x)
        grad = torch.ones_like(x)
        grad[1] = float('nan')
        return grad

    for norm in ('linf', 'l2'):
        ascend(solver(norm=norm, steps=3), torch.randn(3, 4), InputSpace(), gradient)
    assert len(seen) == 6 and all(x.isfinite().all() for x in seen)


def test_zero_gradient_leaves_the_input():
    clean = torch.randn(2, 3)
    for norm in ('linf', 'l2'):
        adversarial, finite = ascend(solver(norm=norm), clean, InputSpace(), torch.zeros_like)
        assert torch.equal(adversarial, clean) and finite.all()


def test_random_start_is_even_in_the_ball():
    clean = torch.zeros(4000, 2)
    for norm in ('linf', 'l2'):
        attack = solver(norm=norm, eps=1.0, step_size=0.0, random_start=True)
        start, _ = ascend(attack, clean, InputSpace(), torch.zeros_like)
        # Inside half the radius lies a quarter of a two-dimensional ball: 1000 +- 27.
        size = start.abs().amax(1) if norm == 'linf' else start.norm(dim=1)
        assert size.max() <= 1 and 880 < (size < 0.5).sum() < 1120
        assert start.mean(0).abs().max() < 0.05


def test_first_gradient_is_used_once_and_only_without_a_random_start():
    calls = []

    def gradient(x):
        calls.append(x)
        return torch.ones_like(x)

    clean = torch.zeros(1, 2)
    for random_start, expected in ((False, 2), (True, 3)):
        calls.clear()
        attack = solver(steps=3, random_start=random_start)
        ascend(attack, clean, InputSpace(), gradient, None if random_start else torch.ones(1, 2))
        assert len(calls) == expected


def test_no_gradient_outlives_its_step():
    """Beside the graph of the next forward there is the perturbation alone."""
    alive = []

    def gradient(values):
        assert all(reference() is None for reference in alive)
        found = {name: torch.ones_like(value) for name, value in values.items()}
        alive.extend(map(weakref.ref, found.values()))
        return found

    clean = {'rgb': torch.zeros(2, 3), 'audio': torch.zeros(2, 4)}
    spaces = {name: InputSpace() for name in clean}
    first = gradient(clean)
    solver(steps=3).run(clean, spaces, gradient, first)
    assert len(alive) == 6 and not first


def modalities(*lengths):
    """Two modalities of ragged samples, with masks; the padding is not zero on purpose."""
    torch.manual_seed(len(lengths))
    clean = {'rgb': torch.randn(len(lengths), max(lengths), 3), 'audio': torch.randn(2, 4, 1)}
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return clean, {'rgb': InputSpace(valid=valid[..., None]), 'audio': InputSpace()}


def quadratic(values):
    """The gradient of half the squared norm of everything, padding included."""
    return {name: value.clone() for name, value in values.items()}


def test_norms_run_over_video_and_modality_jointly_or_by_frame():
    clean, spaces = modalities(5, 2)
    options = dict(norm='l2', eps=0.5, step_size=0.5)
    for kind in ('separate', 'joint', 'frames'):
        attack = solver(**options, joint=kind == 'joint', dims=(2,) if kind == 'frames' else None)
        moved, _ = attack.run(clean, spaces, quadratic)
        for sample, length in enumerate((5, 2)):
            x = {'rgb': clean['rgb'][sample, :length], 'audio': clean['audio'][sample]}
            r = {
                'rgb': (moved['rgb'] - clean['rgb'])[sample, :length],
                'audio': (moved['audio'] - clean['audio'])[sample],
            }
            for name in x:
                if kind == 'separate':
                    size = x[name].norm()
                elif kind == 'joint':
                    size = torch.cat([value.flatten() for value in x.values()]).norm()
                else:
                    size = x[name].norm(dim=1, keepdim=True)
                torch.testing.assert_close(r[name], 0.5 * x[name] / size)
            # Padding neither moves nor counts.
            assert torch.equal(moved['rgb'][sample, length:], clean['rgb'][sample, length:])


def test_padding_length_and_batch_mates_do_not_matter():
    clean, spaces = modalities(5, 2)
    for joint in (False, True):
        attack = solver(norm='l2', eps=0.5, step_size=0.3, steps=3, joint=joint)
        together, _ = attack.run(clean, spaces, quadratic)
        alone, _ = attack.run(
            {'rgb': clean['rgb'][1:, :2], 'audio': clean['audio'][1:]},
            {'rgb': InputSpace(), 'audio': InputSpace()},
            quadratic,
        )
        torch.testing.assert_close(together['rgb'][1:, :2], alone['rgb'], rtol=0, atol=1e-6)
        torch.testing.assert_close(together['audio'][1:], alone['audio'], rtol=0, atol=1e-6)


def test_gradient_on_padding_may_be_anything():
    clean, spaces = modalities(5, 2)

    def gradient(values):
        grad = quadratic(values)
        grad['rgb'][1, 2:] = float('nan')
        return grad

    moved, finite = solver(norm='l2').run(clean, spaces, gradient)
    expected, _ = solver(norm='l2').run(clean, spaces, quadratic)
    assert finite.all() and torch.equal(moved['rgb'], expected['rgb'])


def test_sample_with_one_broken_modality_stays_clean_in_all():
    clean, spaces = modalities(5, 2)

    def gradient(values):
        grad = quadratic(values)
        grad['audio'][0, 1] = float('inf')
        return grad

    moved, finite = solver(norm='l2').run(clean, spaces, gradient)
    assert finite.tolist() == [False, True]
    assert all(torch.equal(moved[name][0], clean[name][0]) for name in clean)
    assert all((moved[name][1] != clean[name][1]).any() for name in clean)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('joint', [False, True])
def test_random_start_leaves_padding_alone_and_stays_inside(norm, joint):
    clean, spaces = modalities(5, 2)
    attack = solver(norm=norm, eps=0.5, step_size=0.0, random_start=True, joint=joint)
    moved, _ = attack.run(clean, spaces, quadratic)
    delta = {name: moved[name] - clean[name] for name in clean}
    assert (delta['rgb'][1, 2:] == 0).all() and (delta['rgb'][1, :2] != 0).all()
    flat = torch.cat([value.flatten(1) for value in delta.values()], dim=1)
    for part in [flat] if joint else [value.flatten(1) for value in delta.values()]:
        assert (
            torch.linalg.vector_norm(part, {'linf': torch.inf, 'l2': 2}[norm], 1) <= 0.5001
        ).all()


def test_random_start_is_even_in_the_ball_of_what_is_valid():
    """Padding would count as dimensions, and push the start to the surface."""
    clean = torch.zeros(4000, 50)
    space = InputSpace(valid=torch.arange(50).expand(4000, 50) < 2)
    attack = solver(norm='l2', eps=1.0, step_size=0.0, random_start=True)
    start, _ = ascend(attack, clean, space, torch.zeros_like)
    assert 880 < (start.norm(dim=1) < 0.5).sum() < 1120


def test_axes_that_the_input_has_not_are_told():
    with pytest.raises(ValueError, match=r'dims=\(2,\) has axes .*\(2, 3\)'):
        ascend(solver(dims=(2,)), torch.zeros(2, 3), InputSpace(), torch.zeros_like)
