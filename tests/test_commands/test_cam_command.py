"""The command that draws where a checkpoint looks."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins.commands import main
from adv_plugins.commands.configs import configs_folder

CONFIG = configs_folder() / 'baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'


def test_cam(tmp_path, capsys):
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    from helpers import build_recognizer
    from mmengine.config import Config

    state = build_recognizer(Config.fromfile(CONFIG).model).state_dict()
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=state), checkpoint)
    command = ['cam', str(CONFIG), str(checkpoint), '--out', str(tmp_path / 'out')]
    short = ['--num-videos', '2', '--cfg-options', 'test_dataloader.dataset.clips_per_class=1']
    assert main([*command, '--recipe', 'CEAugmentation', '--eps', '4/255', *short]) == 0
    names = [f'video_{index:05d}.{kind}' for index in (3, 9) for kind in ('mp4', 'png')]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    with av.open(str(tmp_path / 'out' / names[0])) as container:
        assert len(list(container.decode(video=0))) == 8

    state.pop('cls_head.fc_cls.bias')
    torch.save(dict(state_dict=state), checkpoint)
    assert main([*command, *short]) == 2
    said = capsys.readouterr().err
    assert 'does not fit the config: 1 weights' in said and 'cls_head.fc_cls.bias' in said
    checkpoint.write_bytes(b'no checkpoint')
    assert main([*command, *short]) == 2
    assert f'{checkpoint} is no whole checkpoint' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--recipe', 'tuf'], "'TAF'"),
        (['--eps', 'much'], '--eps much'),
        (['--eps', '-1'], 'eps'),
        (['--num-videos', '0'], '--num-videos must be 1'),
        (['--fps', '0'], '--fps more than 0'),
        (['--cfg-options', 'model.backbone.depth.a=1'], '--cfg-options model.backbone.depth.a=1'),
    ],
)
def test_what_does_not_fit(capsys, options, message):
    assert main(['cam', str(CONFIG), 'epoch_1.pth', '--out', 'out', *options]) == 2
    assert message in capsys.readouterr().err
