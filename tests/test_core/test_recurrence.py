"""Attacks through recurrent layers in eval mode, where cuDNN's kernels have no backward."""

import pytest
import torch
from helpers import NUM_CLASSES, assert_same, snapshot
from torch import nn

from adv_plugins import AdvProp, CEAugmentation, make_adversarial


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError('cudnn RNN backward can only be called in training mode')


class LikeCudnn(nn.LSTM):
    def forward(self, x):
        output, state = super().forward(x)
        return (output if self.training else NoBackward.apply(output)), state


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.lstm = layer(3 * 6 * 6, 8, num_layers=2, dropout=0.5, batch_first=True)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, clips):
        return self.fc(self.lstm(clips.transpose(1, 2).flatten(2))[0][:, -1])


@pytest.mark.filterwarnings('ignore:.*has no batch normalisation')
@pytest.mark.parametrize('recipe', [CEAugmentation(), AdvProp(steps=2)], ids=['CE', 'AdvProp'])
def test_an_attack_in_eval_mode_is_that_of_other_kernels(clips, recipe):
    model, other = Net(LikeCudnn), Net(nn.LSTM)
    other.load_state_dict(model.state_dict())
    for net in (model, other):
        make_adversarial(net, recipe).eval()
    before = snapshot(model)
    moved = model.perturb(*clips)
    assert torch.equal(moved, other.perturb(*clips)) and not torch.equal(moved, clips[0])
    assert_same(before, snapshot(model))
    assert model.lstm.dropout == 0.5


@pytest.mark.filterwarnings('ignore:.*has no batch normalisation')
def test_a_failure_leaves_the_layers_as_they_were(clips):
    model = make_adversarial(Net(LikeCudnn), AdvProp(steps=1)).eval()
    with pytest.raises(RuntimeError):
        model.perturb(clips[0][:, :2], clips[1])
    assert not model.lstm.training and model.lstm.dropout == 0.5
