"""Pictures of attention: what is drawn is what was given, and nothing of padding."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from adv_plugins.visualization import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
    plot_robustness,
)

NAN = float('nan')


def lengths_mask(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def attention(count, length, valid=None):
    scores = torch.randn(count, length, length, dtype=torch.float64)
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None], -torch.inf)
    return scores.softmax(-1)


def slow_profile(weights, valid):
    """One video, entry by entry."""
    queries = [t for t in range(len(valid)) if valid[t]]
    profile = [0.0] * len(valid)
    for key in queries:
        profile[key] = sum(float(weights[query, key]) for query in queries) / len(queries)
    return profile


def test_profile_against_a_loop_with_padding():
    valid = lengths_mask(7, 4, 1)
    valid[0, 2] = False
    weights = attention(3, 7, valid)
    # What a model computes for padding queries may be anything.
    weights = weights.masked_fill(~valid[:, :, None], NAN)
    profile = attention_profile(weights, valid)
    expected = torch.tensor(
        [slow_profile(w, v) for w, v in zip(weights, valid, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(profile, expected)
    torch.testing.assert_close(profile.sum(1), torch.ones(3, dtype=torch.float64))
    assert (profile[~valid] == 0).all()
    torch.testing.assert_close(attention_profile(weights[:2, :4, :4])[1], profile[1, :4])


def test_profile_stays_a_share_where_padding_was_attended_to():
    valid = lengths_mask(5, 3)
    profile = attention_profile(attention(2, 5), valid)
    torch.testing.assert_close(profile.sum(1), torch.ones(2, dtype=torch.float64))
    assert attention_profile(attention(1, 5), torch.zeros(1, 5, dtype=torch.bool)).eq(0).all()


@pytest.fixture
def pairs():
    """Maps of two models for a video of six frames, of which frame 3 and the last are padding."""
    valid = torch.tensor([True, True, True, False, True, False])
    return {name: tuple(attention(2, 6, valid[None])) for name in ('ART', 'A-ART')}, valid


def test_maps_show_the_input(pairs):
    maps, valid = pairs
    block = (valid[:, None] & valid)[:5, :5].numpy()
    figure = plot_attention_maps(maps, valid, 'rgb')
    assert len(figure.subfigs) == 2
    limits = []
    for row, (name, (video, adversary)) in zip(figure.subfigs, maps.items(), strict=True):
        assert row.get_suptitle() == f'{name}: rgb'
        panels, bars = row.axes[:3], row.axes[3:]
        assert len(bars) == 2
        given = (video, adversary, adversary - video)
        for panel, expected in zip(panels, given, strict=True):
            assert (panel.get_xlabel(), panel.get_ylabel()) == ('key frame', 'query frame')
            (image,) = panel.get_images()
            # Frames 0 to 4, each in the middle of its square; the first query on top.
            assert image.get_extent() == [-0.5, 4.5, 4.5, -0.5]
            drawn = image.get_array()
            assert drawn.shape == (5, 5)
            np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~block)
            np.testing.assert_array_equal(drawn.data[block], expected[:5, :5].numpy()[block])
        scales = [panel.get_images()[0].get_clim() for panel in panels]
        top = max(weights[valid][:, valid].max().item() for weights in (video, adversary))
        assert scales[0] == scales[1] == (0, top)
        limits.append(scales[2])
        error = (adversary - video)[valid][:, valid].square().mean()
        assert f'MSE {error:.1e}' in panels[2].get_title()
        labels = [{bar.get_ylabel(), bar.get_xlabel()} - {''} for bar in bars]
        assert labels == [{'attention'}, {'difference'}]
    largest = max((b - a)[valid][:, valid].abs().max().item() for a, b in maps.values())
    assert limits == [(-largest, largest)] * 2


def test_colours_of_a_long_video_with_peaks():
    """A peak does not leave the rest dark, and rare attention does not leave only noise."""
    few_peaks = torch.full((100, 100), 0.01)
    few_peaks[:20, 0] = 0.04
    one_frame = torch.zeros(300, 300)
    one_frame[:, 7] = 1.0
    for maps, top in ((few_peaks, 0.01), (one_frame, 0.1)):
        (row,) = plot_attention_maps({'ART': (maps, maps)}).subfigs
        assert row.axes[0].get_images()[0].get_clim() == pytest.approx((0, top))
        assert row.axes[2].get_images()[0].get_clim() == (-1, 1)


def test_profiles_show_the_input(pairs):
    maps, valid = pairs
    profiles = {
        name: tuple(attention_profile(x[None], valid[None])[0] for x in pair)
        for name, pair in maps.items()
    }
    figure = plot_attention_profiles(profiles, valid.numpy(), 'audio')
    assert [panel.get_title() for panel in figure.axes] == ['ART: audio', 'A-ART: audio']
    shown = np.flatnonzero(valid)
    for panel, pair in zip(figure.axes, profiles.values(), strict=True):
        assert panel.get_xlabel() == 'frame' and panel.get_ylim() == figure.axes[0].get_ylim()
        video, adversary, even = panel.get_lines()
        assert [line.get_label() for line in (video, adversary)] == ['video', 'adversary']
        for line, expected in zip((video, adversary), pair, strict=True):
            frames, shares = line.get_data()
            assert list(frames) == [0, 1, 2, 3, 4]
            np.testing.assert_array_equal(frames[~np.isnan(shares)], shown)
            np.testing.assert_array_equal(shares[shown], expected.numpy()[shown])
        assert set(even.get_ydata()) == {1 / 4}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ['video', 'adversary']


def test_figures_are_not_kept_and_can_be_saved(tmp_path):
    """Also those of one frame, of models with gradients, in half precision."""
    from matplotlib import pyplot

    one = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    figures = (
        plot_attention_maps({'ART': (one, one)}),
        plot_attention_profiles({'ART': (one[0], one[0])}),
        plot_robustness({'ART': one[0]}),
    )
    for index, figure in enumerate(figures):
        figure.savefig(tmp_path / f'{index}.png')
        assert (tmp_path / f'{index}.png').stat().st_size > 3_000
    assert pyplot.get_fignums() == []


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: attention_profile(torch.ones(2, 8, 3, 3)), r'\(B, T, T\).*\(2, 8, 3, 3\)'),
        (lambda: attention_profile(EYE[None], torch.ones(1, 3)), 'boolean.*float32'),
        (lambda: plot_attention_maps({}), 'maps is empty'),
        (lambda: plot_attention_profiles({}), 'profiles is empty'),
        (lambda: plot_attention_maps({'ART': (EYE[None],) * 2}), "'ART'.*averaged over heads"),
        (lambda: plot_attention_maps({'ART': (EYE[:2], EYE[:2])}), r"'ART'.*\(T, T\)"),
        (lambda: plot_attention_profiles({'ART': (EYE[0], EYE[0, :2])}), r"'ART'.*\(T,\)"),
        (lambda: plot_attention_maps({'ART': (EYE, EYE, EYE)}), "'ART' has 3 entries; give two"),
        (
            lambda: plot_attention_maps({'ART': (EYE, EYE), 'A-ART': (EYE[:2, :2],) * 2}),
            "one video.*'A-ART': 2",
        ),
        (lambda: plot_attention_maps({'ART': (EYE, EYE)}, torch.ones(4) > 0), r'\(3,\).*\(4,\)'),
        (lambda: plot_attention_maps({'ART': (EYE, EYE)}, torch.ones(3) < 0), 'no frame'),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_importable_without_matplotlib_and_mmengine():
    code = """
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('matplotlib', 'mmengine', 'mmaction', 'mmcv'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
import torch
from adv_plugins.visualization import attention_profile, plot_robustness
attention_profile(torch.ones(1, 1, 1))
try:
    plot_robustness({'ART': [0.1]})
except ImportError as error:
    assert 'pip install "adv_plugins[mmaction]"' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


def test_attention_that_is_undefined_is_left_out():
    maps = torch.full((3, 3), float('nan'))
    plot_attention_maps({'ART': (maps, maps)}, modality='rgb')
    plot_attention_profiles({'ART': (maps[0], maps[0])})
