"""The example that writes OrderedDigits as videos: MMAction2 reads back what was rendered."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
pytest.importorskip('av', reason='the example writes videos with PyAV')
pytest.importorskip('decord', reason='the stock pipeline decodes with decord')
pytest.importorskip('mmaction', reason='the videos are read by MMAction2')

from mmengine.config import Config
from mmengine.registry import DefaultScope

from adv_plugins.datasets import OrderedDigits

SCRIPT = Path(__file__).parents[2] / 'examples' / 'ordered_digits_to_mp4.py'


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    """MMAction2's transforms under their plain names, as in a config with default_scope."""
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('ordered_digits_to_mp4', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build_dataset(mmaction_scope):
    from mmaction.registry import DATASETS

    return DATASETS.build


def test_mmaction_reads_what_was_rendered(script, build_dataset, tmp_path, capsys):
    script.main([str(tmp_path), '--clips-per-class', '2', '--size', '40'])
    config = Config.fromstring(capsys.readouterr().out, '.py')
    for split in ('train', 'val'):
        rendered = OrderedDigits(split, clips_per_class=2, size=40)
        videos = build_dataset(config[f'{split}_dataset'])
        assert len(videos) == len(rendered) == 24
        for index in range(len(videos)):
            clip, item = rendered.get_data_info(index), videos[index]
            assert item['data_samples'].gt_label.item() == clip['label']
            assert len(item['inputs']) == 8
            decoded = item['inputs'].numpy().transpose(0, 2, 3, 1).astype(float)
            # Chroma is stored at half the resolution, which costs a few grey levels around the
            # coloured edges and in the coloured noise. Another frame of the clip or a swap of the
            # colour channels costs much more, as the next test measures.
            assert np.abs(decoded - clip['array']).mean() < 5


def test_the_tolerance_tells_frames_apart(script, build_dataset, tmp_path, capsys):
    script.main([str(tmp_path), '--split', 'val', '--clips-per-class', '1', '--size', '40'])
    videos = build_dataset(Config.fromstring(capsys.readouterr().out, '.py').val_dataset)
    rendered = OrderedDigits('val', clips_per_class=1, size=40)
    decoded = videos[0]['inputs'].numpy().transpose(0, 2, 3, 1).astype(float)
    assert np.abs(decoded - rendered.render(1, 0)).mean() > 5
    assert np.abs(decoded[..., ::-1] - rendered.render(0, 0)).mean() > 5


def test_both_members_of_a_pair_decode_to_the_same_frames(script, build_dataset, tmp_path, capsys):
    script.main([str(tmp_path), '--split', 'val', '--clips-per-class', '1', '--size', '32'])
    videos = build_dataset(Config.fromstring(capsys.readouterr().out, '.py').val_dataset)
    frames = [sorted(f.tobytes() for f in videos[i]['inputs'].numpy()) for i in range(12)]
    for first, second in OrderedDigits.METAINFO['pairs']:
        assert frames[first] == frames[second]


@pytest.mark.parametrize('size', ['33', '48'])
def test_a_size_that_decord_cannot_read_is_an_error(script, tmp_path, capsys, size):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path), '--size', size])
    assert f'--size {size} cannot be written' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
