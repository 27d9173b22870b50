"""Attention between frames: against sums token by token."""

import pytest
import torch
from helpers import assert_same, snapshot
from test_zoo import FAMILIES, build
from video_clips import clips_of

from adv_plugins.attention import capture_attention
from adv_plugins.visualization.token_attention import frame_attention_map, video_attention


def slow_frame_map(weights, frame_of_query, frame_of_key, count):
    """Token by token; None is the frame of a class token."""
    sums = torch.zeros(count, count, dtype=torch.float64)
    for q, row in zip(frame_of_query, weights.double(), strict=True):
        for k, weight in zip(frame_of_key, row, strict=True):
            if q is not None and k is not None:
                sums[q, k] += weight
    return sums / sums.sum(1, keepdim=True)


def tokens(count, places, class_token=False, frames_first=True):
    order = [t for t in range(count) for _ in range(places)]
    if not frames_first:
        order = list(range(count)) * places
    return [None] * class_token + order


@pytest.mark.parametrize('class_token', [False, True])
@pytest.mark.parametrize('frames_first', [False, True])
def test_from_tokens_to_frames(class_token, frames_first):
    # Keys may be pooled in space, as in MViT.
    queries = tokens(3, 4, class_token, frames_first)
    keys = tokens(3, 2, class_token, frames_first)
    weights = torch.randn(2, len(queries), len(keys)).softmax(-1)
    maps = frame_attention_map(weights, 3, class_token, frames_first)
    for found, given in zip(maps, weights, strict=True):
        torch.testing.assert_close(found.double(), slow_frame_map(given, queries, keys, 3))
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3))


def test_other_tokens_are_told():
    weights = torch.ones(1, 13, 13)
    with pytest.raises(ValueError, match=r'\(1, 13, 13\).*num_frames=4'):
        frame_attention_map(weights, 4)
    with pytest.raises(ValueError, match=r'beside a class token of num_frames=5'):
        frame_attention_map(weights, 5, class_token=True)
    with pytest.raises(ValueError, match=r'\(B, Q, K\)'):
        frame_attention_map(weights[0], 13)


@pytest.mark.parametrize(
    ('name', 'count', 'options'),
    [
        ('mvit', 4, dict(class_token=True)),
        ('timesformer divided', 8, {}),
        ('timesformer joint', 8, dict(class_token=True, frames_first=False)),
        ('uniformer', 4, {}),
        ('videomae', 4, {}),
    ],
)
def test_attention_of_video_transformers(name, count, options):
    model = build(FAMILIES[name]).eval()
    _, inputs, samples = clips_of(model, FAMILIES[name].shape)
    before = snapshot(model)
    found = video_attention(model, inputs, samples)
    assert_same(before, snapshot(model))
    assert found.shape == (2, count, count) and not found.requires_grad
    torch.testing.assert_close(found.sum(-1), torch.ones(2, count))

    with torch.no_grad(), capture_attention(model) as maps:
        model(inputs, samples, mode='loss')
    if 'divided' in name:
        # The spatial maps are told by their tokens: a class token and four places.
        temporal = [entry.weights for entry in maps if entry.weights.shape[1:] == (8, 8)]
        assert len(temporal) == len(maps) / 2 == 12
        layers = [weights.reshape(2, -1, 8, 8).mean(1).double() for weights in temporal]
    else:
        layers = []
        for entry in maps:
            extra = options.get('class_token', False)
            orders = [
                tokens(count, (size - extra) // count, **options)
                for size in entry.weights.shape[1:]
            ]
            layers.append(
                torch.stack([slow_frame_map(clip, *orders, count) for clip in entry.weights])
            )
    torch.testing.assert_close(found.double(), torch.stack(layers).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['swin', 'timesformer space only', 'uniformerv2 base'])
def test_attention_without_an_axis_of_frames_is_told(name):
    model = build(FAMILIES[name]).eval()
    _, inputs, samples = clips_of(model, FAMILIES[name].shape)
    kind = type(model.backbone).__name__
    with pytest.raises(ValueError, match=f'{kind} has no axis of frames.*VisionTransformer'):
        video_attention(model, inputs, samples)
