"""The config for features of one's own: printed as it is, and it runs as it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'mm_configs/aart/aart-transformer_1xb64_own-features.py'
WIDTHS = dict(clip=768, sound=128)


def write_features(root: Path, labels: str) -> None:
    """Six videos of one to three frames in each of three lists; some have no sound."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        names = [f'{split}/{index}' for index in range(6)]
        for place, name in enumerate(names):
            for modality, width in WIDTHS.items():
                frames = 0 if modality == 'sound' and place == 0 else rng.integers(1, 4)
                file = root / 'features' / modality / f'{name}.npy'
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, rng.standard_normal((frames, width)).astype(np.float32))
        lines = [f'{name} {labels.format(place)}\n' for place, name in enumerate(names)]
        (root / f'{split}.txt').write_text(''.join(lines))


def train_and_test(file: Path) -> tuple[Runner, dict[str, Any]]:
    config = Config.fromfile(file)
    config.merge_from_dict(dict(work_dir='work_dirs/own'))
    config.merge_from_dict({'train_cfg.max_epochs': 1, 'log_level': 'WARNING'})
    runner = Runner.from_cfg(config)
    runner.train()
    return runner, runner.test()


def test_it_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One label a video: MMAction2's accuracies, clean and attacked."""
    write_features(tmp_path / 'data/own', labels='{}')
    monkeypatch.chdir(tmp_path)
    runner, metrics = train_and_test(CONFIG)
    for metric in ('top1', 'top5', 'mean1'):
        assert 0 <= metrics[f'fgm/acc/{metric}'] <= 1 and 0 <= metrics[f'acc/{metric}'] <= 1
    assert metrics['fgm/eps'] == 0.5 and metrics['fgm/ratio_sound_undefined'] == 1
    (best,) = (tmp_path / 'work_dirs/own').glob('best_acc_top1_epoch_1.pth')
    state = torch.load(best, weights_only=True)['state_dict']
    runner.model.load_state_dict(state, strict=True)
    logged = runner.message_hub.log_scalars
    assert logged['train/loss_attention_frobenius'].current() > 0
    assert logged['train/loss_cls'].current() == pytest.approx(np.log(400), rel=0.1)
    batch = next(iter(runner.test_loop.dataloader))
    for sample in runner.model.test_step(batch):
        assert sample.pred_score.sum().item() == pytest.approx(1)


def test_several_labels_a_video_are_the_change_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint is found under MMAction2's own runtime, whose save_best is 'auto'."""
    write_features(tmp_path / 'data/own', labels='{0} 399 {0}')
    monkeypatch.chdir(tmp_path)
    text = CONFIG.read_text()
    for before, after in (
        ('multi_class = False', 'multi_class = True'),
        ('AccMetric', 'YT8MMetric'),
    ):
        assert before in text
        text = text.replace(before, after)
    # The model is as large as printed in the test above.
    Path('several.py').write_text(f'{text}model.update(width=16)\n')
    _, metrics = train_and_test(Path('several.py'))
    for name in ('mAP', 'GAP', 'PERR', 'Hit@1'):
        assert 0 <= metrics[f'fgm/{name}'] <= 1 and 0 <= metrics[name] <= 1
    assert (tmp_path / 'work_dirs/own/best_mAP_epoch_1.pth').exists()
