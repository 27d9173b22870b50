"""Perturbations with structure gain on a linear model what they can, in training and evaluation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adv_plugins import Recipe, make_adversarial
from adv_plugins.core.attack import GradientAscent
from adv_plugins.core.structure import Mask
from adv_plugins.core.threat import InputSpace, ThreatModel
from adv_plugins.evaluation.attacks import APGD, FGSM, PGD, Square, UniformNoise

SHAPE = (2, 3, 4, 5, 6)  # B, C, T, H, W
AXES = {'b': 0, 'c': 1, 't': 2, 'h': 3, 'w': 4}
PLACES = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.4
STRUCTURES: dict[str, dict[str, Any]] = {
    'flicker': dict(shared='h w'),
    'static': dict(shared='t'),
    'by number': dict(shared=(1, 3)),
    'two frames': dict(frames=2),
    'a window': dict(frames=(1, 2)),
    'a box': dict(region=(1, 2, 3, 4)),
    'a mask': dict(region=PLACES),
    'flicker of two frames': dict(shared='h w', frames=2),
    'flicker in a box': dict(shared='h w', region=(0, 0, 2, 2)),
    'static in a window': dict(shared='t', frames=(0, 3)),
    # The groups that move together have different sizes.
    'columns of a mask': dict(shared='h', region=PLACES),
}
NORMS = ('linf', 'l2', 'l1', 'l21')


def allowed_by(frames: tuple[int, ...] | None, region: Any, valid: Tensor | None) -> Tensor:
    """Where a structure allows changes, entry by entry."""
    allowed = torch.ones(SHAPE, dtype=torch.bool)
    if valid is not None:
        allowed &= valid
    if frames is not None:
        allowed &= torch.tensor([t in frames for t in range(SHAPE[2])]).view(1, 1, -1, 1, 1)
    if isinstance(region, tuple):
        top, left, height, width = region
        inside = torch.zeros(SHAPE[3:], dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        allowed &= inside
    elif region is not None:
        allowed &= region
    return allowed


def dual(slope: Tensor, allowed: Tensor, shared: list[int], norm: str) -> Tensor:
    """The largest gain at ε = 1: of group sums G of n entries that move together."""
    counts = allowed.expand_as(slope).sum(dim=shared, keepdim=True) if shared else allowed
    sums = slope * allowed
    sums = sums.sum(dim=shared, keepdim=True) if shared else sums
    counts = counts.clamp(min=1)
    if norm == 'linf':
        return sums.abs().flatten(1).sum(dim=1)
    if norm == 'l2':
        return (sums.square() / counts).flatten(1).sum(dim=1).sqrt()
    if norm == 'l1':
        return (sums.abs() / counts).flatten(1).amax(dim=1)
    if AXES['t'] in shared:
        # All frames are as long: their lengths add up to n times that of one.
        return (sums / counts).square().flatten(1).sum(dim=1).sqrt()
    return (sums.square() / counts).sum(dim=(1, 3, 4)).sqrt().amax(dim=1)


def optimum(slope: Tensor, structure: dict[str, Any], norm: str, valid: Tensor | None) -> Tensor:
    """The largest gain at ε = 1, by trying every choice of frames."""
    shared = structure.get('shared', ())
    axes = [AXES[letter] for letter in shared.split()] if isinstance(shared, str) else [*shared]
    frames, region = structure.get('frames'), structure.get('region')
    choices: Any = [frames]
    if isinstance(frames, int):
        choices = itertools.combinations(range(SHAPE[2]), frames)
    gains = [dual(slope, allowed_by(chosen, region, valid), axes, norm) for chosen in choices]
    return torch.stack(gains).amax(dim=0)


@pytest.mark.parametrize('padded', [False, True], ids=['', 'padded'])
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('structure', STRUCTURES.values(), ids=STRUCTURES)
def test_a_training_step_gains_what_the_structure_allows(
    structure: dict[str, Any], norm: str, padded: bool
) -> None:
    weight, scale = torch.randn(SHAPE), torch.tensor([1.0, 3.0, 0.5]).view(3, 1, 1, 1)
    valid = (torch.rand(2, 1, 4, 1, 1) < 0.7) if padded else None
    if valid is not None:
        valid[:, :, 1:3] = True
    space = InputSpace(scale, valid=valid, axes=AXES)
    attack = GradientAscent(ThreatModel(eps=0.1, norm=norm, **structure), 0.1, 1, False)
    clean = torch.randn(SHAPE)
    moved, finite = attack.run({'': clean}, {'': space}, lambda _: {'': weight.clone()})
    gain = ((moved[''] - clean) * weight).flatten(1).sum(dim=1)
    torch.testing.assert_close(
        gain, 0.1 * optimum(weight * scale, structure, norm, valid), rtol=1e-4, atol=1e-5
    )
    assert finite.all()


class Planes(nn.Module):
    """Two classes whose scores differ by a linear function of the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(SHAPE[1:], dtype=torch.float64))

    def forward(self, clips: Tensor) -> Tensor:
        # Far from the boundary, so that no attack stops early.
        far = (clips * self.weight).flatten(1).sum(dim=1) - 1e3
        return torch.stack([-far, far], dim=1)


@pytest.mark.parametrize(
    'kind',
    [FGSM, PGD, pytest.param(APGD, marks=pytest.mark.exhaustive)],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('structure', STRUCTURES.values(), ids=STRUCTURES)
def test_an_evaluation_gains_the_same(structure: dict[str, Any], norm: str, kind: Any) -> None:
    model, clips = Planes(), torch.randn(SHAPE, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.long)
    attack = kind(eps=0.1, norm=norm, **structure)
    moved = attack(lambda x, index: model(x), clips, labels)
    gain = ((moved - clips) * model.weight).flatten(1).sum(dim=1)
    slope = model.weight.detach().expand(SHAPE)
    best = 0.1 * optimum(slope, structure, norm, None)
    # Several steps meet the ball in other points of its surface than the best one.
    tolerance = 1e-9 if kind is FGSM or norm in ('linf', 'l2') else 0.35
    assert (gain <= best * (1 + 1e-9)).all() and (gain >= best * (1 - tolerance)).all()


@pytest.mark.parametrize('structure', STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize('norm', NORMS)
def test_random_starts_are_in_the_ball_and_have_the_structure(
    structure: dict[str, Any], norm: str
) -> None:
    options = {**structure, 'norm': norm}
    clips = torch.randn(SHAPE, dtype=torch.float64)
    attack = GradientAscent(ThreatModel(eps=0.1, **options), 0.02, 3, random_start=True)
    steps: list[Tensor] = []

    def gradient(values: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(values[''] - clips)
        return {'': torch.randn(SHAPE, dtype=torch.float64)}

    moved, _ = attack.run({'': clips}, {'': InputSpace(axes=AXES)}, gradient)
    for delta in (*steps[1:], moved[''] - clips):
        check_structure(delta, options)
        assert (size(delta, norm) <= 0.1 * (1 + 1e-9)).all() and (delta != 0).any()
    # The frames are chosen by a gradient, which is taken at the start.
    frames = options.get('frames')
    check_structure(steps[0], {**options, 'frames': None if frames == 2 else frames})
    assert (size(steps[0], norm) <= 0.1 * (1 + 1e-9)).all()


@pytest.mark.parametrize('kind', [UniformNoise, Square], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize('structure', STRUCTURES.values(), ids=STRUCTURES)
def test_black_boxes_keep_to_the_structure(structure: dict[str, Any], kind: Any) -> None:
    model, clips = Planes(), torch.randn(SHAPE, dtype=torch.float64)
    options = dict(queries=40, channel_dim=1) if kind is Square else {}
    attack = kind(eps=0.1, **structure, **options)
    labels, seeds = torch.zeros(2, dtype=torch.long), torch.tensor([3, 4])
    moved = attack(lambda x, index: model(x), clips, labels, seed=seeds)
    check_structure(moved - clips, structure)
    assert ((moved - clips).abs() <= 0.1 * (1 + 1e-9)).all()
    # Of the tried points the best one is kept: it must be better than none.
    assert (((moved - clips) * model.weight).flatten(1).sum(dim=1) > 0).all()
    alone = attack(lambda x, index: model(x), clips[1:], labels[1:], seed=seeds[1:])
    assert torch.equal(alone, moved[1:])


def test_a_black_box_draws_its_frames_for_each_sample() -> None:
    model, clips = Planes(), torch.randn(1, *SHAPE[1:], dtype=torch.float64)
    for attack in (
        Square(eps=0.1, frames=1, queries=5, channel_dim=1),
        UniformNoise(eps=0.1, frames=1, restarts=5),
    ):
        touched: set[int] = set()

        def scores(x: Tensor, index: Tensor, touched: set[int] = touched) -> Tensor:
            changed = (x != clips).transpose(1, 2).flatten(2).any(dim=2)[0]
            touched.update(changed.nonzero().flatten().tolist())
            return model(x)

        for seed in range(12):
            attack(scores, clips, torch.zeros(1, dtype=torch.long), seed=seed)
        assert touched == set(range(SHAPE[2])), attack


def size(delta: Tensor, norm: str) -> Tensor:
    if norm == 'l21':
        return delta.transpose(1, 2).flatten(2).norm(dim=2).sum(dim=1)
    return torch.linalg.vector_norm(
        delta.flatten(1), {'linf': float('inf'), 'l2': 2, 'l1': 1}[norm], dim=1
    )


def check_structure(delta: Tensor, structure: dict[str, Any]) -> None:
    """A perturbation has the structure that was asked for."""
    shared, frames = structure.get('shared', ()), structure.get('frames')
    axes = [AXES[letter] for letter in shared.split()] if isinstance(shared, str) else [*shared]
    touched = (delta != 0).transpose(1, 2).flatten(2).any(dim=2)
    if isinstance(frames, int):
        assert (touched.sum(dim=1) <= frames).all()
        given = None
    else:
        given = frames
    allowed = allowed_by(given, structure.get('region'), None)
    assert (delta[~allowed] == 0).all()
    if isinstance(frames, int):
        allowed = allowed & touched[:, None, :, None, None]
    for axis in axes:
        inside = delta.masked_fill(~allowed, float('nan'))
        spread = inside.nan_to_num(nan=-9).amax(dim=axes) - inside.nan_to_num(nan=9).amin(dim=axes)
        assert (spread <= 1e-12).all(), f'not constant along {axis}'


@pytest.mark.parametrize(('norm', 'chosen'), [('linf', 1), ('l2', 0), ('l1', 0)])
def test_frames_are_chosen_by_what_the_ball_gains_there(norm: str, chosen: int) -> None:
    """One frame has a single large entry, the other many small ones."""
    weight = torch.zeros(1, 3, 2, 5, 6)
    weight[0, 0, 0, 0, 0], weight[:, :, 1] = 12.0, 0.2
    attack = GradientAscent(ThreatModel(eps=0.1, norm=norm, frames=1), 0.1, 1, False)
    clean = torch.zeros_like(weight)
    moved, _ = attack.run({'': clean}, {'': InputSpace()}, lambda _: {'': weight.clone()})
    assert (moved[''] != 0).transpose(1, 2).flatten(2).any(dim=2).tolist() == [
        [frame == chosen for frame in range(2)]
    ]


def test_a_flicker_goes_back_where_pixels_were_clipped() -> None:
    """The offset is kept, not what valid pixels leave of it."""
    clips = torch.full((1, 3, 2, 4, 4), 0.5, dtype=torch.float64)
    clips[..., :2] = 0.99
    points: list[Tensor] = []

    def scores(x: Tensor, index: Tensor) -> Tensor:
        points.append(x.detach().clone())
        # Best at an offset of 0.03, between two steps.
        far = -((x[..., 3] - 0.53) ** 2).flatten(1).sum(dim=1)
        return torch.stack([1e3 - far, far], dim=1)

    attack = PGD(eps=0.1, steps=4, step_size=0.05, shared='h w')
    attack(scores, clips, torch.zeros(1, dtype=torch.long), InputSpace(low=0.0, high=1.0))
    offsets = [float((point - clips)[..., 3].mean()) for point in points]
    assert max(offsets) > 0.04 and min(offsets[2:]) < 0.01, 'the attack must turn round'
    for point, offset in zip(points, offsets, strict=True):
        wanted = (clips + offset).clamp(0, 1)
        torch.testing.assert_close(point, wanted)


@pytest.mark.parametrize('shared', [(), (2,)], ids=['', 'shared'])
def test_random_starts_are_even_in_a_ball_of_frames(shared: tuple[int, ...]) -> None:
    """Features of two frames and two entries each: so many dimensions has the ball."""
    clean = torch.zeros(4000, 2, 2, dtype=torch.float64)
    threat = ThreatModel(eps=2.0, norm='l21', shared=shared)
    start = GradientAscent(threat, 0.0, 1, random_start=True)
    moved, _ = start.run({'': clean}, {'': InputSpace()}, lambda v: {'': torch.ones_like(clean)})
    size = moved[''].norm(dim=2).sum(dim=1) / 2
    volume = size ** (2 if shared else 4)
    assert volume.max() <= 1 + 1e-9
    assert (torch.histc(volume, 10, 0, 1) / 4000 - 0.1).abs().max() < 0.02


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('shared', ['b', 'b h w', 'b t'])
def test_samples_share_a_perturbation_from_any_start(shared: str, norm: str) -> None:
    clean = torch.randn(SHAPE, dtype=torch.float64)
    threat = ThreatModel(eps=1.0, norm=norm, shared=shared)
    attack = GradientAscent(threat, 0.3, 3, random_start=True)
    moved, _ = attack.run(
        {'': clean}, {'': InputSpace(axes=AXES)}, lambda v: {'': torch.randn(SHAPE).double()}
    )
    delta = moved[''] - clean
    assert delta.abs().max() > 1e-3
    torch.testing.assert_close(delta[0], delta[1], rtol=0, atol=1e-12)
    check_structure(delta, dict(shared=shared.removeprefix('b').strip()))


def test_what_is_shared_beyond_a_ball_has_one_radius() -> None:
    """One ball for each frame, and one picture for all of them."""
    clean = torch.zeros(3, 5, 4, dtype=torch.float64)
    threat = ThreatModel(eps=1.0, norm='l2', shared='t', dims=(2,))
    attack = GradientAscent(threat, 0.2, 2, random_start=True)
    moved, _ = attack.run(
        {'': clean}, {'': InputSpace()}, lambda v: {'': torch.randn(3, 5, 4).double()}
    )
    torch.testing.assert_close(moved[''], moved[''][:, :1].expand(3, 5, 4), rtol=0, atol=1e-12)


def test_one_perturbation_needs_one_mask_where_it_is_scaled() -> None:
    valid = torch.tensor([[True, True, True], [True, True, False]])[..., None]
    clean, space = torch.zeros(2, 3, 4), InputSpace(valid=valid)
    for norm in ('l2', 'l1'):
        threat = ThreatModel(eps=1.0, norm=norm, shared='b' if norm == 'l2' else 0)
        attack = GradientAscent(threat, 1.0, 1, False)
        with pytest.raises(ValueError, match="samples whose masks differ.* write norm='linf'"):
            attack.run({'': clean}, {'': space}, lambda v: {'': torch.ones(2, 3, 4)})
        one = InputSpace(valid=valid[:1].expand(2, 3, 1))
        attack.run({'': clean}, {'': one}, lambda v: {'': torch.ones(2, 3, 4)})


@pytest.mark.parametrize(
    ('structure', 'entries'),
    [
        (dict(shared='h w', region=(0, 0, 2, 2)), 12),
        (dict(shared='t h w', frames=(0, 1)), 3),
        (dict(shared='h', region=PLACES), 3 * 4 * int(PLACES.any(dim=0).sum())),
        (dict(shared='b h w'), 12),
    ],
)
@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_random_starts_are_even_where_groups_are_unlike(
    structure: dict[str, Any], entries: int, norm: str
) -> None:
    """The radius says how many dimensions a ball has: its mean is d / (d + 1)."""
    batch = 2 if 'b' in structure.get('shared', '') else 600
    clean = torch.zeros(batch, *SHAPE[1:], dtype=torch.float64)
    threat = ThreatModel(eps=1.0, norm=norm, **structure)
    start = GradientAscent(threat, 0.0, 1, random_start=True)
    space = {'': InputSpace(axes=AXES)}
    runs = [
        start.run({'': clean}, space, lambda v: {'': torch.ones_like(clean)})[0]['']
        for _ in range(300 if batch == 2 else 1)
    ]
    sizes = torch.cat([size(delta, norm)[: 1 if batch == 2 else None] for delta in runs])
    expected, spread = entries / (entries + 1), 1 / (entries + 1) / len(sizes) ** 0.5
    assert abs(float(sizes.mean()) - expected) < 5 * spread


@pytest.mark.parametrize('norm', NORMS)
def test_a_step_of_no_length_leads_nowhere(norm: str) -> None:
    """Black and white pixels have no room; a ramp may begin at 0."""
    clips = torch.tensor([0.0, 0.5, 1.0]).repeat(40).view(1, 3, 2, 4, 5)
    space = {'': InputSpace(low=0.0, high=1.0)}
    for eps, step_size in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        attack = GradientAscent(ThreatModel(eps=eps, norm=norm), step_size, 2, False)
        moved, finite = attack.run({'': clips}, space, lambda v: {'': torch.randn(clips.shape)})
        assert torch.equal(moved[''], clips) and finite.all()


def test_one_perturbation_for_the_batch() -> None:
    weight, clean = torch.randn(SHAPE), torch.randn(SHAPE)
    attack = GradientAscent(ThreatModel(eps=0.1, shared='b'), 0.1, 1, False)
    moved, _ = attack.run({'': clean}, {'': InputSpace()}, lambda _: {'': weight.clone()})
    delta = moved[''] - clean
    torch.testing.assert_close(delta[0], delta[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        (delta * weight).sum(), 0.1 * weight.sum(dim=0).abs().sum(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('steps', [1, 12])
def test_l1_in_a_box_reaches_the_best_point_of_both(steps: int) -> None:
    """The largest gain of ball and box is a linear programme, which a greedy choice solves."""
    clips, weight = torch.rand(3, 40).double(), torch.randn(40).double()
    threat = ThreatModel(eps=2.0, norm='l1')
    attack = GradientAscent(threat, 2.0 / steps, steps, False)
    space = InputSpace(low=0.0, high=1.0)
    moved, _ = attack.run({'': clips}, {'': space}, lambda _: {'': weight.expand(3, 40).clone()})
    for clip, attacked in zip(clips, moved[''], strict=True):
        left, best = 2.0, 0.0
        for place in weight.abs().argsort(descending=True).tolist():
            room = float(1 - clip[place] if weight[place] > 0 else clip[place])
            best, left = best + min(room, left) * abs(float(weight[place])), left - min(room, left)
        assert attacked.min() >= 0 and attacked.max() <= 1
        assert float(((attacked - clip) * weight).sum()) == pytest.approx(best, rel=1e-9)


class Meter(nn.Module):
    """A classifier of clips (B, C, T, H, W), features or images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(values.flatten(1))


@pytest.mark.parametrize('recipe', ['advprop', 'art', 'ceaugmentation'])
def test_recipes_take_a_structure(recipe: str) -> None:
    clips, labels = torch.rand(SHAPE), torch.tensor([0, 2])
    options = dict(shared='h w', frames=2, eps=0.1, norm='linf', step_size=0.1)
    model = make_adversarial(Meter(360), recipe, value_range=(0, 1), clamp=False, **options)
    losses = model.adversarial_loss(clips, labels)
    losses['loss'].backward()
    delta = model.perturb(clips, labels) - clips
    assert (delta.flatten(3).std(dim=3) < 1e-6).all()
    assert ((delta != 0).transpose(1, 2).flatten(2).any(dim=2).sum(dim=1) == 2).all()


def test_a_patch_with_free_pixels_stays_within_valid_ones() -> None:
    clips, labels = torch.rand(SHAPE), torch.tensor([0, 2])
    model = make_adversarial(
        Meter(360), 'ceaugmentation', value_range=(0, 1), eps=1, step_size=1, region=(0, 0, 2, 2)
    )
    moved = model.perturb(clips, labels)
    inside = torch.zeros(5, 6, dtype=torch.bool)
    inside[:2, :2] = True
    assert torch.equal(moved[..., ~inside], clips[..., ~inside])
    assert ((moved[..., inside] == 0) | (moved[..., inside] == 1)).all()


@pytest.mark.parametrize(('shape', 'time'), [((2, 2, 3, 8, 4, 4), 3), ((2, 2, 8, 3, 4, 4), 2)])
def test_several_views_have_their_frames_found_by_the_channels(
    shape: tuple[int, ...], time: int
) -> None:
    clips = torch.rand(shape)
    model = make_adversarial(
        Meter(clips[0].numel()), bad(frames=2, clamp=False), value_range=(0, 1)
    )
    delta = model.perturb(clips, torch.zeros(2, dtype=torch.long)) - clips
    touched = (delta != 0).movedim(time, 1).flatten(2).any(dim=2)
    assert touched.sum(dim=1).tolist() == [2, 2]


def test_padded_frames_are_not_chosen() -> None:
    features, mask = torch.randn(2, 6, 4), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]).bool()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(inputs['rgb'] * torch.arange(1.0, 7)[:, None]).sum(dim=1)

    model = make_adversarial(Net(), 'art', frames=2, eps=0.5)
    inputs = {'rgb': features, 'rgb_mask': mask}
    delta = model.perturb(inputs, torch.tensor([0, 1]))['rgb'] - features
    assert (delta != 0).any(dim=2).tolist() == [
        [False] * 4 + [True] * 2,
        [False, True, True] + [False] * 3,
    ]


def bad(**options: Any) -> Recipe:
    return Recipe(**{'objective': 'TrainingLoss', 'eps': 0.1, **options})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(shared='x'), r"shared=\('x',\) must be axes by letter .* write shared='h w'"),
        (dict(shared=(-1,)), r'shared=\(-1,\) must be axes'),
        (dict(frames=0), 'frames=0 must be how many, at least 1'),
        (dict(frames=[]), r'frames=\(\) must be how many'),
        (dict(frames=[1, -2]), r'frames=\(1, -2\) must be'),
        (dict(frames=2.5), 'frames=2.5 must be'),
        (dict(region=(0, 0, 0, 4)), r'region=\(0, 0, 0, 4\) must be \(top, left, height, width\)'),
        (dict(region=(-1, 0, 2, 4)), 'none negative'),
        (dict(region=(0, 0, 4, 4.0)), r'region=\(0.0, 0.0, 4.0, 4.0\) must be'),
        (dict(region='centre'), "region='centre' must be"),
        (dict(region=torch.zeros(5, 6)), 'with a place that is True'),
        (dict(shared=1.5), 'shared=1.5 must be axes'),
        (dict(shared=None), 'shared=None must be axes'),
        (dict(weight_eps=None), 'weight_eps=None must be finite and not negative'),
        (dict(step_size=dict(type='LinearEps')), 'step_size=.* must be finite'),
        (
            dict(objective=dict(type='KL'), random_start=True, attack_scale=0.5),
            r'attack_scale=0.5 makes frames smaller, and KL\(\) compares',
        ),
        (dict(norm='l21', joint=True), "joint=True has no frames; leave out norm='l21'"),
        (
            dict(shared='b', eps=dict(type='UniformEps', high=0.1)),
            'finds one perturbation for the batch, but eps=UniformEps',
        ),
    ],
)
def test_bad_options_are_told_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bad(**options)


@pytest.mark.parametrize(
    ('shape', 'options', 'message'),
    [
        ((2, 5), dict(shared='h w'), r"shared='h' needs the axis 'h'.* \(b is 0, c is 1\)"),
        ((2, 5), dict(shared=(2,)), 'shared=2 needs the axis 2'),
        ((2, 3, 4, 4), dict(frames=2), "frames=2 needs the axis 't'"),
        ((2, 4, 8, 5, 5), dict(frames=2), "frames=2 needs the axis 't'"),
        ((2, 2, 8, 8, 5, 5), dict(frames=2), "frames=2 needs the axis 't'"),
        ((2, 3, 8, 5, 5), dict(frames=9), 'frames=9 needs 9 frames, but the clips have 8'),
        ((2, 3, 8, 5, 5), dict(frames=[0, 8]), r'frames=\(0, 8\) needs 9 frames'),
        ((2, 3, 8, 5, 5), dict(region=(2, 2, 4, 2)), r'ends at 6, but the frames have 5 pixels'),
        ((2, 3, 8, 5, 5), dict(region=torch.ones(4, 5)), r'the shape \(4, 5\), .* one of \(5, 5\)'),
        ((2, 3, 4, 4), dict(norm='l21'), "norm='l21' needs the axis 't'"),
        ((2, 6, 4), dict(norm='l21', dims=(2,)), "norm='l21' is summed over the frames"),
    ],
)
def test_what_the_input_lacks_is_told_before_the_first_update(
    shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    clips = torch.rand(shape)
    model = make_adversarial(Meter(clips[0].numel()), bad(**options), value_range=(0, 1))
    with pytest.raises(ValueError, match=message):
        model.adversarial_loss(clips, torch.zeros(2, dtype=torch.long))
    assert all(value.grad is None for value in model.parameters())


def test_a_structure_is_compared_and_printed() -> None:
    box, same = bad(region=[0, 1, 2, 3]), bad(region=(0, 1, 2, 3))
    assert box == same and 'region=(0, 1, 2, 3)' in repr(box)
    masked = bad(region=PLACES)
    assert masked == bad(region=PLACES.tolist()) != bad(region=~PLACES)
    assert f'region=Mask({int(PLACES.sum())} places of (5, 6), ' in repr(masked)
    assert hash(Mask(PLACES)) == hash(Mask(PLACES.tolist()))
    assert bad(shared='h w') == bad(shared=['h', 'w'])
    assert bad(shared=3) == bad(shared=(3,)) and bad(region=torch.tensor([0, 1, 2, 3])) == box
    assert bad(frames=np.int64(2)) == bad(frames=2)
    # Results are grouped by it.
    assert str(bad(shared='w h').solver.threat) == str(bad(shared='h w').solver.threat)
    flipped = bad(region=PLACES.flip(0))
    assert str(flipped.solver.threat) != str(masked.solver.threat)
