"""The projection of the papers' full runs: counted operations by hand, and a small table."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/benchmarks'))

import full_runs  # noqa: E402


class Recognizer(nn.Module):
    """As much of a recognizer as a step needs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, inputs, samples, mode):
        return dict(loss=self.layer(inputs).sum())

    def parse_losses(self, losses):
        return losses['loss'], {}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = x * self.scale
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_operations_by_hand():
    inputs = torch.randn(3, 4)
    # A forward and the gradient by the weight; the data, a constant, has none.
    assert full_runs.operations(Recognizer(nn.Linear(4, 5)), inputs, []) == 2 * (2 * 3 * 4 * 5)
    # Two products forward, and two for each of them backward, fused on the CPU or not.
    inputs = torch.randn(1, 2, 6, 8)
    assert full_runs.operations(Recognizer(Attention()), inputs, []) == 3 * 2 * (2 * 2 * 6 * 6 * 8)


def test_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_runs, 'PIXELS', 32)
    monkeypatch.setattr(full_runs, 'FRAMES_OF_YT8M', 4)
    full_runs.main(['--rows', 'tsm-sthv1', 'yt8m', '--tflops', '10', '--out', str(tmp_path)])
    taf, art, aart = json.loads((tmp_path / 'full_runs.json').read_text())
    # TAF, section 4.1: 15 epochs on top of 50; 2.33 clean steps, and a first layer by its data.
    assert (taf['method'], taf['clean_epochs'], taf['epochs']) == ('TAF', 50, 15)
    assert taf['ratio'] == pytest.approx(7 / 3, abs=0.1)
    assert art['ratio'] == pytest.approx(2, abs=0.1) and art['ratio'] < aart['ratio'] < 3
    seconds = 86_017 * 50 * taf['clip_gflop'] * 1e9 / (8 * 10e12)
    assert taf['clean_hours'] == pytest.approx(seconds / 3600)
    assert taf['hours'] == pytest.approx(taf['clean_hours'] * 15 / 50 * taf['ratio'])
    assert taf['clips_per_second'] == pytest.approx(86_017 * 50 / seconds)
    beyond = 100 * 15 * taf['ratio'] / 50
    assert f'| {beyond:.0f} % | {beyond - 30:.0f} % |' in capsys.readouterr().out
