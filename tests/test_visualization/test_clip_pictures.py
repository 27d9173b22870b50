"""Pictures of clips: what is drawn is what was recorded."""

import io
from dataclasses import replace

import numpy as np
import pytest

from adv_plugins.evaluation.selection import evenly_spread
from adv_plugins.visualization.clip_pictures import contact_sheet, magnify, overlay, side_by_side
from adv_plugins.visualization.clips import Look
from adv_plugins.visualization.figures import to_rgb
from adv_plugins.visualization.mp4 import enlarge


def a_look(length, height=24, width=32, attacked=True):
    """Frames of random colours, evidence that moves, a perturbation of +-5 grey levels."""
    random = np.random.default_rng(length)
    frames = random.integers(256, size=(length, height, width, 3), dtype=np.uint8)
    cam = random.random((length, height, width), dtype=np.float32)
    cam *= np.linspace(1, 2, length, dtype=np.float32)[:, None, None]
    shares = cam.sum((1, 2)) / cam.sum()
    seen = Look(frames, cam, shares, label=1, predicted=1, score=0.934, cam_class=1)
    if not attacked:
        return seen
    added = random.choice([-5.0, 5.0], size=frames.shape).astype(np.float32)
    moved = (frames + added).clip(0, 255).astype(np.uint8)
    adversarial = replace(
        seen, frames=moved, cam=cam[::-1], attention=shares[::-1], predicted=0, score=0.512
    )
    return replace(seen, adversarial=adversarial, perturbation=added)


NAMES = ['pull', 'push']


def test_overlay():
    frames = np.zeros((2, 1, 2, 3), np.uint8)
    frames[0, 0, 0] = (255, 0, 0)
    frames[1] = 200
    cam = np.array([[[0, 2]], [[4, 0]]], np.float32)
    grey = overlay(frames, cam, alpha=0)
    assert (grey[0, 0, 0] == 76).all() and (grey[1] == 200).all() and (grey[0, 0, 1] == 0).all()
    colours = overlay(frames, cam, alpha=1)
    # The ends of the colour map, whatever the pixels are; one scale for both frames.
    assert colours[1, 0, 0].tolist() == [252, 255, 164]
    assert colours[0, 0, 0].tolist() == colours[1, 0, 1].tolist() == [0, 0, 4]
    assert colours[0, 0, 1].tolist() == [188, 55, 84]
    half = overlay(frames, cam)
    np.testing.assert_allclose(half, (grey.astype(float) + colours) / 2, atol=1)
    assert (overlay(frames, 0 * cam, alpha=1) == [0, 0, 4]).all()
    with pytest.raises(ValueError, match='alpha=1.5'):
        overlay(frames, cam, 1.5)
    with pytest.raises(ValueError, match=r'\(2, 1, 2\)'):
        overlay(frames, cam[:, :, :1])
    with pytest.raises(ValueError, match='uint8 RGB.*float64'):
        overlay(frames / 255, cam)


def test_magnified_perturbation():
    still, factor = magnify(np.zeros((2, 3, 3, 3), np.float32))
    assert factor == 1 and (still == 128).all()
    shown, factor = magnify(np.array([-4.0, 0.0, 4.0]).repeat(9).reshape(1, 3, 3, 3))
    assert factor == 31 and set(shown.flat) == {128 - 124, 128, 128 + 124}
    sparse = np.zeros((1, 20, 20, 3))
    sparse[0, 0, 0, 0] = 2
    shown, factor = magnify(sparse)
    assert factor == 63 and shown[0, 0, 0].tolist() == [254, 128, 128]
    assert magnify(np.full((1, 2, 2, 3), 200.0))[1] == 1


@pytest.mark.parametrize('attacked', [True, False])
@pytest.mark.parametrize('length', [1, 8, 40])
def test_contact_sheet(length, attacked):
    clip = a_look(length, attacked=attacked)
    figure = contact_sheet(clip, NAMES)
    *pictures, bars = figure.axes
    frames = list(range(8)) if length == 8 else evenly_spread(length, 16)
    assert len(frames) == min(length, 16)

    shown = {axes.get_ylabel().split('\n')[0]: axes for axes in pictures}
    expected = {'clean': clip.frames, 'CAM of clean': overlay(clip.frames, clip.cam)}
    if attacked:
        moved = clip.adversarial
        expected['adversarial'] = moved.frames
        expected['CAM of adversarial'] = overlay(moved.frames, moved.cam)
        expected['perturbation'] = (128 + 25 * clip.perturbation).astype(np.uint8)
        assert '×25' in shown['perturbation'].get_ylabel()
    assert list(shown) == list(expected)
    for name, axes in shown.items():
        (image,) = axes.get_images()
        columns = np.split(image.get_array(), len(frames), axis=1)
        for column, frame in zip(columns, frames, strict=True):
            # A pixel of white on both sides.
            np.testing.assert_array_equal(column[:, 1:-1], expected[name][frame])
        # Columns are above their bars.
        assert axes.get_xlim() == bars.get_xlim() == (-0.5, len(frames) - 0.5)
        assert axes.get_position().intervalx.tolist() == bars.get_position().intervalx.tolist()

    clips = [clip, clip.adversarial] if attacked else [clip]
    assert len(bars.containers) == len(clips)
    for container, seen in zip(bars.containers, clips, strict=True):
        np.testing.assert_array_equal(
            [bar.get_height() for bar in container], seen.attention[frames]
        )
        middles = [bar.get_x() + bar.get_width() / 2 for bar in container]
        np.testing.assert_allclose(middles, range(len(frames)), atol=0.21)
    (even,) = bars.get_lines()
    assert even.get_linestyle() == '--' and set(even.get_ydata()) == {1 / length}
    assert [tick.get_text() for tick in bars.get_xticklabels()] == [str(f) for f in frames]
    assert bars.get_xlabel() == 'frame' + (' (16 of 40 are shown)' if length == 40 else '')
    title = ' '.join(figure.get_suptitle().split())
    verdict = ' adversarial: pull (0.51) ✗' if attacked else ''
    assert title == f'label: push clean: push (0.93) ✓{verdict}'


def test_the_evidence_for_a_wrong_prediction_has_its_own_panel():
    clip = a_look(8)
    moved = replace(clip.adversarial, predicted_cam=clip.cam)
    clip = replace(clip, adversarial=moved)
    *pictures, _ = contact_sheet(clip, NAMES).axes
    labels = [axes.get_ylabel() for axes in pictures]
    assert labels[3:5] == ['CAM of adversarial\nfor push', 'CAM of adversarial\nfor pull ✗']
    (image,) = pictures[4].get_images()
    column = np.split(image.get_array(), 8, axis=1)[0]
    np.testing.assert_array_equal(column[:, 1:-1], overlay(moved.frames, clip.cam)[0])
    assert side_by_side(clip).shape[2] > side_by_side(replace(clip, adversarial=None)).shape[2]


def test_labels_stay_on_the_page():
    """Long names are cut, and no text leaves the figure or covers a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = ['Pushing something so that it falls off the table', 'Pretending to put it into a box']
    for length in (2, 8):
        figure = contact_sheet(a_look(length), names)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        page = figure.bbox
        for axes in figure.axes:
            box = axes.yaxis.label.get_window_extent(renderer)
            assert box.x0 >= page.x0 and box.x1 <= axes.bbox.x0
        title = figure._suptitle.get_window_extent(renderer)
        assert title.x0 >= 0 and title.x1 <= page.x1 and title.y1 <= page.y1
        assert title.y0 >= figure.axes[0].bbox.y1


def test_figures_are_not_kept():
    from matplotlib import pyplot

    page = to_rgb(contact_sheet(a_look(4)))
    assert page.dtype == np.uint8 and page.ndim == 3 and page.shape[2] == 3
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize('attacked', [True, False])
def test_side_by_side(attacked):
    clip = a_look(5, attacked=attacked)
    film = side_by_side(clip, NAMES)
    count = 5 if attacked else 2
    assert film.dtype == np.uint8 and len(film) == 5
    assert film.shape[1] % 2 == film.shape[2] % 2 == 0
    # 24 x 32 pixels become 240 x 320.
    assert film.shape[2] == count * 326 + 6
    panels = [film[:, 66:306, 6 + 326 * i : 326 + 326 * i] for i in range(count)]
    expected = [clip.frames, overlay(clip.frames, clip.cam)]
    if attacked:
        expected += [
            clip.adversarial.frames,
            overlay(clip.adversarial.frames, clip.adversarial.cam),
        ]
        expected += [magnify(clip.perturbation)[0]]
    for panel, frames in zip(panels, expected, strict=True):
        np.testing.assert_array_equal(panel, enlarge(frames, 10))
    # Captions stand still, and of the bars one column after the other is lit.
    assert (film[:, :66] == film[0, :66]).all() and (film[0, :66] < 100).any()
    yellow = (film[:, 306:] == (255, 224, 138)).all(-1)
    middles = [np.nonzero(strip)[1].mean() for strip in yellow]
    steps = np.diff(middles)
    assert (steps > 0.9 * (film.shape[2] - 90) / 5).all() and np.ptp(steps) < 0.05 * steps.mean()


@pytest.mark.parametrize('name', ['$\\frac{$', 'a\nb', '\udc80'], ids=ascii)
def test_a_class_may_be_called_anything(name):
    look = a_look(4)
    contact_sheet(look, [name, name]).savefig(io.BytesIO())
    side_by_side(look, [name, name])


def test_a_clip_without_evidence_is_not_drawn_as_even():
    clip = replace(a_look(4), attention=np.full(4, np.nan, np.float32))
    bars = contact_sheet(clip).axes[-1]
    assert all(bar.get_height() == 0 for bar in bars.containers[0])
    labels = bars.get_legend_handles_labels()[1]
    assert 'clean: no evidence' in labels and 'adversarial' in labels
    assert side_by_side(replace(clip, adversarial=None, perturbation=None)).dtype == np.uint8
