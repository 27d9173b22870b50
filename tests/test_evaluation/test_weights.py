"""Checkpoints that fit a model in full, and those that do not."""

import pytest
import torch
from helpers import build_recognizer, tsm_config

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins.evaluation.weights import load_weights, weights_digest


def test_weights_that_do_not_fit_are_told(tmp_path):
    model = build_recognizer(tsm_config())
    file = str(tmp_path / 'weights.pth')
    state = model.state_dict()
    digest = weights_digest(model)
    # What a test of TPN leaves behind is no mistake.
    torch.save({'state_dict': {**state, 'cls_head.new_cls.weight': torch.ones(1)}}, file)
    with torch.no_grad():
        model.cls_head.fc_cls.bias += 1
    assert weights_digest(model) != digest
    load_weights(model, file)
    assert weights_digest(model) == digest

    name = 'cls_head.fc_cls.weight'
    torch.save({'state_dict': {**state, name: torch.ones(9, 512)}}, file)
    with pytest.raises(ValueError, match=r'weights.pth does not fit.*\(9, 512\) in the file'):
        load_weights(model, file)
    torch.save({'state_dict': {k: v for k, v in state.items() if k != name}}, file)
    with pytest.raises(ValueError, match='not in the file'):
        load_weights(model, file)
    torch.save({'state_dict': {**state, 'neck.weight': torch.ones(1)}}, file)
    with pytest.raises(ValueError, match='neck.weight .not in the model'):
        load_weights(model, file)
    assert weights_digest(model) == digest
