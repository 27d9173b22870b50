"""The five steps of the front page, from a folder of videos to a report."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mim', reason='needs adv_plugins[mmaction]')
av = pytest.importorskip('av', reason='needs adv_plugins[data]')

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    'model.backbone.depth=18',
    'model.cls_head.in_channels=512',
    'train_cfg.max_epochs=2',
    'custom_hooks.0.begin=1',
]
PROTOCOL = """
robustness = dict(
    type='RobustnessTestLoop', corruptions=['snow'], severities=[3], deepfool=None, curve=None,
    attacks=dict(pgd=dict(type='PGD', steps=2)))
"""


def write_video(file: Path, direction: int) -> None:
    """A white square that moves left or right."""
    with av.open(str(file), 'w') as container:
        stream = container.add_stream('libx264', rate=15)
        stream.width, stream.height, stream.pix_fmt = 96, 72, 'yuv420p'
        for frame in range(16):
            picture = np.full((72, 96, 3), 60, np.uint8)
            left = 40 + direction * (2 * frame - 16)
            picture[30:46, left : left + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())


def steps() -> tuple[str, list[str]]:
    """The config and the commands that the front page prints."""
    text = (ROOT / 'README.md').read_text()
    text = text[text.index('## Your own data') : text.index('## Recipes')]
    (config,) = re.findall(r'```python\n(.*?)```', text, re.S)
    blocks = re.findall(r'```bash\n(.*?)```', text, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return config, [line for line in lines if line.startswith(('mim', 'adv-plugins'))]


@pytest.mark.exhaustive
def test_five_steps(tmp_path: Path) -> None:
    (tmp_path / 'videos').mkdir()
    for number in range(12):
        write_video(tmp_path / f'videos/{number}.mp4', direction=1 - 2 * (number % 2))
    lines = [f'{number}.mp4 {number % 2}\n' for number in range(12)]
    (tmp_path / 'train.txt').write_text(''.join(lines[:8]))
    (tmp_path / 'val.txt').write_text(''.join(lines[8:]))
    config, commands = steps()
    (tmp_path / 'my_tsm.py').write_text(config)
    (tmp_path / 'tiny.py').write_text(PROTOCOL)
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command.replace('epoch_20', 'epoch_2'))
        words[0] = {'adv-plugins': 'adv_plugins'}.get(words[0], words[0])
        if words[1] == 'report':
            words += ['--protocol', 'tiny.py']
        call = [sys.executable, '-m', *words, '--cfg-options', *SMALL]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f'{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}'
    page = (tmp_path / 'report/report.html').read_text()
    assert 'jump' in page and 'pgd' in page
