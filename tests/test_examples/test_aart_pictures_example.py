"""The example that draws the figures of A-ART: its numbers against those of single videos."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adv_plugins.visualization import plot_robustness

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
NAN = float('nan')
EYE = torch.eye(3)
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
        (['--model', 'ART', 'a.py', 'b.pth'], 'distinct name'),
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
