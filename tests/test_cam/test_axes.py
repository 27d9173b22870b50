"""The axes of feature maps: what shapes allow, and what the corners of a clip confirm."""

import math
import re

import pytest
import torch
from einops import rearrange

from adv_plugins.cam.axes import (
    CORNERS,
    alike,
    change_corners,
    effects,
    extra_tokens,
    leads,
    readings,
)
from adv_plugins.core.capture import to_frames


def test_corners_are_balanced():
    """Each axis has as many early as late corners, whatever the others are."""
    signs = torch.tensor(CORNERS, dtype=torch.float)
    assert torch.equal(signs.T @ signs, 4 * torch.eye(3)) and not signs.sum(0).any()


@pytest.mark.parametrize('axes', [(2, 3, 4), (1, 3, 4)])
@pytest.mark.parametrize('first', [0, 2])
def test_one_corner_is_changed_in_each_sample(axes, first):
    clips = torch.randn(3, 8, 8, 6, 10)
    changed = change_corners(clips, axes, first)
    moved = (changed != clips).movedim(axes, (1, 2, 3)).all(dim=4)
    for sample, signs in zip(moved, CORNERS[first:], strict=False):
        expected = torch.zeros(8, 6, 10, dtype=torch.bool)
        parts = zip(signs, (8, 6, 10), (4, 3, 5), strict=True)
        expected[tuple(slice(0, n) if s < 0 else slice(k - n, k) for s, k, n in parts)] = True
        assert torch.equal(sample, expected)
    assert not moved[len(CORNERS) - first :].any()


def test_all_halves_of_all_clips_are_alike():
    clips = alike(torch.randn(3, 2, 5, 4, 6), {2, 3, 4})
    assert clips.shape == (3, 2, 5, 4, 6) and clips.is_contiguous()
    assert torch.equal(clips[1:], clips[:-1])
    for axis, length in ((2, 5), (3, 4), (4, 6)):
        first = clips.narrow(axis, 0, length // 2)
        assert torch.equal(first, clips.narrow(axis, length - length // 2, length // 2))


def test_effects_of_a_change_that_stays_in_place():
    """Of corners that move the map in the same corner, and there only, each axis moves by 1."""
    response = torch.zeros(4, 3, 5, 2)
    for row, signs in zip(response, CORNERS, strict=True):
        row[tuple(0 if sign < 0 else -1 for sign in signs)] = 7.0
    assert torch.equal(effects(response), torch.eye(3, dtype=torch.double))
    swapped = response.transpose(1, 2)
    expected = torch.eye(3, dtype=torch.double)[:, [1, 0, 2]]
    assert torch.equal(effects(swapped), expected)
    assert leads(effects(response), (3, 5, 2)) == pytest.approx([0.99] * 3)
    assert leads(effects(swapped), (5, 3, 2)) == pytest.approx([-1, -1, 0.99])
    assert leads(effects(swapped), (5, 3, 1)) == [-1, -1, math.inf]


def test_an_axis_of_one_place_cannot_contradict():
    moved = torch.tensor([[0.5, 0.1, 9.0], [0.2, 0.4, 9.0], [9.0, 9.0, 0.0]])
    assert leads(moved, (4, 4, 1)) == pytest.approx([0.3, 0.2, math.inf])


def test_a_map_that_does_not_change_tells_nothing():
    assert all(map(math.isnan, leads(effects(torch.zeros(4, 2, 3, 3)), (2, 3, 3))))


MAP = torch.arange(2 * 4 * 5 * 6 * 3.0).view(2, 4, 5, 6, 3)  # b t c h w


LAYOUTS = [
    'b c t h w',
    'b t h w c',
    'b t c h w',
    '(b t) c h w',
    '(t b) c h w',
    '(b t) h w c',
    'b (t h w) c; h=6 w=3',
    'b 1+(t h w) c; h=6 w=3',
    'b (h w t) c; h=6 w=3',
    'b 4+(h w t) c; h=6 w=3',
    'b c (t h w); h=6 w=3',
    '(t h w) b c; h=6 w=3',
    '(h w) (b t) c; h=6 w=3',
    '1+(h w) (b t) c; h=6 w=3',
    '(b t) 1+(h w) c; h=6 w=3',
    'b t 1+(h w) c; h=6 w=3',
    '(b h w) t c; h=6 w=3',
]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_is_among_the_readings_of_its_shape(layout):
    axes = re.findall(r'(?:(\d)\+)?(\([^)]*\)|\S+)', layout.partition(';')[0])
    output = rearrange(MAP, f'b t c h w -> {" ".join(names for _, names in axes)}')
    assert extra_tokens(layout) == max(int(extra or 0) for extra, _ in axes)
    for axis, (extra, _) in enumerate(axes):
        tokens = output.narrow(axis, 0, int(extra or 0))
        output = torch.cat([tokens, output], dim=axis)
    assert torch.equal(to_frames(output, 2, 'layer', layout), MAP)
    assert layout in set(readings(output.shape, 2, (8, 24, 12)))


@pytest.mark.parametrize(
    'shape', [(2, 7, 4, 3, 3), (2, 7, 1, 3, 3), (8, 7, 4, 4), (2, 65, 5), (2, 4, 16, 5), (2, 5)]
)
def test_readings_have_time_and_place_and_no_more_than_the_clip(shape):
    for layout in readings(shape, 2, (4, 32, 16)):
        b, t, _, h, w = to_frames(torch.zeros(shape), 2, 'layer', layout).shape
        assert b == 2 and 2 <= t <= 4 and h <= 32 and w <= 16 and h * w > 1
        assert ';' not in layout or abs(h - 2 * w) <= 1, layout


def test_a_map_of_another_batch_has_no_reading():
    assert not set(readings((3, 7, 4, 3, 3), 2, (4, 32, 32)))
