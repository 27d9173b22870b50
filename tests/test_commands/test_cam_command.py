"""The example that draws where a checkpoint looks."""

import importlib.util
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def example():
    file = REPOSITORY / 'examples' / 'cam_videos.py'
    spec = importlib.util.spec_from_file_location('cam_videos', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example(example, tmp_path, capsys):
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    import mmaction.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    file = REPOSITORY / 'mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'
    model = MODELS.build(Config.fromfile(file).model)
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    arguments = [str(file), str(checkpoint), '--out', str(tmp_path / 'out'), '--num-videos', '2']
    example.main([*arguments, '--recipe', 'CEAugmentation', '--eps', '4/255'])
    names = [f'video_{index:05d}.{kind}' for index in (120, 360) for kind in ('mp4', 'png')]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    assert all(name in capsys.readouterr().out for name in names[:1])
    with av.open(str(tmp_path / 'out' / names[0])) as container:
        assert len(list(container.decode(video=0))) == 8

    state = model.state_dict()
    state.pop('cls_head.fc_cls.bias')
    torch.save(dict(state_dict=state), checkpoint)
    with pytest.raises(
        SystemExit, match='does not fit the config: 1 weights.*cls_head.fc_cls.bias'
    ):
        example.main(arguments)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--recipe', 'tuf'], "'TAF'"),
        (['--eps', 'much'], '--eps much'),
        (['--eps', '-1'], 'eps'),
        (['--num-videos', '0'], '--num-videos must be 1'),
        (['--fps', '0'], '--fps more than 0'),
    ],
)
def test_example_tells_what_does_not_fit(example, capsys, options, message):
    with pytest.raises(SystemExit):
        example.parse_args(['config.py', 'epoch_1.pth', '--out', 'out', *options])
    assert message in capsys.readouterr().err
