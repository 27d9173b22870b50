"""Pictures of attention and robustness: what is drawn is what was given, and nothing of padding."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adv_plugins.visualization import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
    plot_robustness,
)

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
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


def test_robustness_bars():
    rho = {'Non-ART': torch.tensor([0.1, 0.3, NAN]), 'ART': [0.5], 'A-ART': np.full(2, np.nan)}
    figure = plot_robustness(rho, over='seeds')
    (panel,) = figure.axes
    bars, errors = (
        next(c for c in panel.containers if type(c).__name__ == kind)
        for kind in ('BarContainer', 'ErrorbarContainer')
    )
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([0.2, 0.5, NAN], nan_ok=True)
    ends = errors.lines[2][0].get_segments()[0][:, 1]
    # The sample standard deviation of 0.1 and 0.3.
    assert list(ends) == pytest.approx([0.2 - 0.1 * 2**0.5, 0.2 + 0.1 * 2**0.5])
    assert [text.get_text() for text in panel.texts] == ['0.200', '0.500', '']
    assert [text.get_text() for text in panel.get_xticklabels()] == [
        'Non-ART\nn = 2, 1 not fooled',
        'ART\nn = 1',
        'A-ART\nn = 0, 2 not fooled',
    ]
    assert panel.get_ylabel().endswith('over seeds') and panel.get_ylim()[0] == 0


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
        (lambda: plot_robustness({}), 'rho is empty'),
        (lambda: plot_robustness({'ART': 0.3}), r"rho\['ART'\].*\(N,\)"),
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


MODALITIES = ('rgb', 'audio')
CONFIG = """
custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='FeatureTransformer',
    modalities=dict(rgb=16, audio=8),
    num_classes=6,
    width=8,
    depth={depth},
    num_heads=2,
    dropout=0.2,
)
test_dataloader = dict(
    batch_size=3, num_workers=0, dataset=dict(type='PictureVideos', _scope_='mmengine')
)
"""


class PictureVideos(torch.utils.data.Dataset):
    """Eighteen ragged videos of fixed random features."""

    def __len__(self):
        return 18

    def __getitem__(self, index):
        from mmaction.structures import ActionDataSample

        generator = torch.Generator().manual_seed(index)
        features = {
            name: torch.randn(3 + index % 3, width, generator=generator)
            for name, width in (('rgb', 16), ('audio', 8))
        }
        label = torch.randint(2, (6,), generator=generator).float()
        return dict(inputs=features, data_samples=ActionDataSample().set_gt_label(label))


@pytest.fixture
def pictures(monkeypatch):
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from mmengine.registry import DATASETS

    monkeypatch.syspath_prepend(str(EXAMPLES))
    DATASETS.register_module(module=PictureVideos, force=True)
    import aart_pictures

    return aart_pictures


def saved_model(folder, name, depth=1):
    """A config and a checkpoint as training leaves them."""
    from mmengine.config import Config
    from mmengine.registry import MODELS

    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(CONFIG.format(depth=depth))
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'meta': {'iter': 3}, 'state_dict': model.state_dict()}, checkpoint)
    return [name, str(config), str(checkpoint)]


def run(pictures, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['aart_pictures.py', *map(str, arguments)])
    pictures.main()


def test_example_end_to_end(pictures, tmp_path, monkeypatch, capsys):
    saved = [saved_model(tmp_path, 'ART'), saved_model(tmp_path, 'A-ART', depth=2)]
    models = [argument for entry in saved for argument in ('--model', *entry)]
    out = tmp_path / 'a/b'
    run(pictures, monkeypatch, *models, '--out', out, '--video', 2, '--num-videos', 17)
    kinds = [f'attention_{kind}_{name}' for kind in ('maps', 'profiles') for name in MODALITIES]
    names = ['robustness', *kinds]
    assert sorted(file.name for file in out.iterdir()) == sorted(f'{name}.png' for name in names)
    printed = capsys.readouterr().out
    for file in out.iterdir():
        assert file.stat().st_size > 5_000 and f'written: {file}' in printed
    rows = dict(line.split(' | ', 1) for line in printed.splitlines() if line.startswith('| '))
    for column in (0, 1):
        for title, value in expected_numbers(saved[column], 2, 17).items():
            shown = float(rows[f'| {title}'].strip(' |').split(' | ')[column])
            assert shown == pytest.approx(value, rel=6e-3), title


def test_example_draws_no_rho_of_a_search_that_failed(pictures, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        pictures, 'plot_robustness', lambda rho: drawn.update(rho) or plot_robustness(rho)
    )
    maps = pictures.Attention(EYE[None], EYE[None], torch.ones(1, 3, dtype=torch.bool))
    found = {'rho': torch.tensor([0.1, 0.2]), 'success': torch.tensor([True, False])}
    pictures.draw({'ART': {'rgb': maps}}, {'ART': found}, tmp_path)
    assert drawn['ART'].tolist() == pytest.approx([0.1, NAN], nan_ok=True)


def expected_numbers(entry, video, count):
    """One video after the other, from the parts that are tested elsewhere."""
    from mmengine.config import Config
    from mmengine.registry import MODELS

    from adv_plugins import make_adversarial
    from adv_plugins.attention import capture_attention
    from adv_plugins.evaluation import deepfool

    _, config, checkpoint = entry
    model = MODELS.build(Config.fromfile(config).model).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    make_adversarial(model, 'art', eps=0.5)
    errors, rho = {name: [] for name in MODALITIES}, []
    for index in range(count):
        item = PictureVideos()[index]
        inputs = {name: value[None] for name, value in item['inputs'].items()}
        moved = model.perturb(inputs, [item['data_samples']])
        for name in MODALITIES:
            layers = [f'encoders.{name}.{len(model.encoders[name]) - 1}.attention']
            with capture_attention(model, layers) as maps:
                model(inputs), model(moved)
            clean, adversarial = (entry.weights for entry in maps)
            errors[name].append((clean - adversarial).square().mean().item())
        result = deepfool(model, inputs)
        assert result.success.all()
        size = sum(value.square().sum() for value in result.perturbation.values()).sqrt()
        rho.append((size / sum(value.square().sum() for value in inputs.values()).sqrt()).item())
    numbers = {'DeepFool, rho_mean': np.mean(rho), 'DeepFool, success_rate': 1.0}
    for name in MODALITIES:
        numbers[f'attention MSE, {name}, shown video'] = errors[name][video]
        numbers[f'attention MSE, {name}, mean over {count} videos'] = np.mean(errors[name])
    return numbers


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--video', 18], '--video 18 must be from 0 to 17'),
        (['--num-videos', 0], '--num-videos 0'),
        (['--model', 'ART', 'a.py', 'b.pth'], 'name of its own'),
    ],
)
def test_example_tells_what_does_not_fit(
    pictures, tmp_path, monkeypatch, capsys, arguments, message
):
    model = ['--model', *saved_model(tmp_path, 'ART')]
    with pytest.raises(SystemExit) as error:
        run(pictures, monkeypatch, *model, '--out', tmp_path, *arguments)
    assert message in str(error.value) + capsys.readouterr().err


def test_example_needs_attention_for_each_modality(pictures, tmp_path):
    _, config, checkpoint = saved_model(tmp_path, 'ART')
    model = pictures.load_model(Path(config), Path(checkpoint), eps=0.5)
    model.encoders['audio'] = torch.nn.ModuleList()
    with pytest.raises(SystemExit, match=r"'audio'.*encoders\.rgb\.0\.attention"):
        pictures.attend(model, [PictureVideos()[0]])
