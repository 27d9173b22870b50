"""TAF where fused attention lies behind the CAM layer: the math kernel there, and only there."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from helpers import NUM_CLASSES, Conv3dNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from adv_plugins import make_adversarial
from adv_plugins.attention import AttentionFrobenius
from adv_plugins.cam.response import Candidate
from adv_plugins.core.conversion import get_adversary

LABELS = torch.tensor([1, 3])
CLIPS = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv, self.out, self.fused = nn.Linear(12, 36), nn.Linear(12, 12), fused

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), 'b n (three h d) -> three b h n d', three=3, h=2)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return x + self.out(rearrange(y, 'b h n d -> b n (h d)'))


class Net(nn.Module):
    """Attention in front of the CAM layer, and behind it if a class token is read."""

    def __init__(self, token, fused=True):
        super().__init__()
        self.patches = nn.Conv3d(3, 12, (1, 4, 4), (1, 4, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 12)) if token else None
        self.blocks = nn.Sequential(*(Attention(fused) for _ in range(3)))
        self.head = nn.Linear(12, NUM_CLASSES)

    def forward(self, x):
        x = rearrange(self.patches(x), 'b c t h w -> b (t h w) c')
        if self.token is None:
            return self.head(self.blocks(x).mean(1))
        return self.head(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


def pair(token):
    torch.manual_seed(0)
    plain = Net(token, fused=False)
    model = Net(token)
    model.load_state_dict(plain.state_dict())
    return plain, model


def backends(model):
    """Where fused attention is allowed, forward by forward and block by block."""
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled())
        )
    return seen


@pytest.mark.parametrize('steps', [1, 3])
def test_the_attack_is_that_of_attention_in_plain_operations(steps):
    plain, model = (
        make_adversarial(net, 'taf', steps=steps, step_size=0.1).eval() for net in pair(True)
    )
    moved, expected = (net.perturb(CLIPS, LABELS) - CLIPS for net in (model, plain))
    assert expected.abs().min() > 0
    assert (moved.sign() == expected.sign()).float().mean() > 0.999
    model.train().adversarial_loss(CLIPS, LABELS)['loss'].backward()


def test_the_math_kernel_is_used_behind_the_layer_and_in_forwards_that_need_it(caplog):
    model = make_adversarial(pair(True)[1], 'taf', steps=2)
    with caplog.at_level(logging.INFO, 'adv_plugins'):
        model.adversarial_loss(CLIPS, LABELS)
    assert get_adversary(model).attacker.layer.name == 'blocks.1'
    assert 'no second derivative' in caplog.text
    seen = backends(model)
    model.adversarial_loss(CLIPS, LABELS)
    clean = attack = [True, True, False]
    assert seen == clean + attack + [True] * 3
    seen.clear()
    model(CLIPS)
    assert seen == [True] * 3 and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(('token', 'options'), [(False, {}), (True, dict(second_order=False))])
def test_models_that_do_not_need_it_keep_every_bit(token, options, caplog):
    _, model = pair(token)
    expected = F.cross_entropy(copy.deepcopy(model).train()(CLIPS), LABELS)
    make_adversarial(model, 'taf', **options)
    seen = backends(model)
    with caplog.at_level(logging.INFO, 'adv_plugins'):
        losses = model.adversarial_loss(CLIPS, LABELS)
    assert torch.equal(losses['clean_loss'], 0.7 * expected.detach()) and all(seen)
    assert 'no second derivative' not in caplog.text


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, 'conv'), reason='needs torch 2.9')
def test_a_users_settings_of_cudnn_stay():
    """Not even read: its flags refuse to be, where the newer ones are set."""
    precision = torch.backends.cudnn.conv
    before = precision.fp32_precision
    precision.fp32_precision = 'ieee'
    try:
        make_adversarial(pair(True)[1], 'taf').adversarial_loss(CLIPS, LABELS)
        assert precision.fp32_precision == 'ieee'
    finally:
        precision.fp32_precision = before


def test_another_mode_may_have_other_kernels():
    """In training, attention with dropout is not fused; in eval mode it is."""

    class Dropping(Attention):
        def forward(self, x):
            q, k, v = rearrange(self.qkv(x), 'b n (three h d) -> three b h n d', three=3, h=2)
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
            return x + self.out(rearrange(y, 'b h n d -> b n (h d)'))

    net = Net(True)
    net.blocks = nn.Sequential(*(Dropping(True) for _ in range(3)))
    model = make_adversarial(net, 'taf').train()
    model.adversarial_loss(CLIPS, LABELS)
    assert not get_adversary(model).attacker.layer.fused
    assert not torch.equal(model.eval().perturb(CLIPS, LABELS), CLIPS)
    assert get_adversary(model).attacker.layer.fused == {'attention'}


def test_checkpointing_behind_the_layer_is_told():
    class Checkpointed(Net):
        def forward(self, x):
            x = rearrange(self.patches(x), 'b c t h w -> b (t h w) c')
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return self.head(x[:, 0])

    model = make_adversarial(Checkpointed(True), 'taf')
    with pytest.raises(RuntimeError, match='write second_order=False'):
        model.adversarial_loss(CLIPS, LABELS)
    make_adversarial(Checkpointed(True), 'taf', second_order=False).adversarial_loss(CLIPS, LABELS)


def test_with_a_regularizer_both_forwards_use_the_same_kernels():
    term = AttentionFrobenius(weight=0.1)
    model = make_adversarial(pair(True)[1], 'taf', regularizers=[term])
    model.adversarial_loss(CLIPS, LABELS)
    seen = backends(model)
    model.adversarial_loss(CLIPS, LABELS)
    assert seen == 2 * [True, True, False]


def test_an_error_in_the_forward_leaves_the_kernels_as_they_were():
    _, model = pair(True)
    make_adversarial(model, 'taf').adversarial_loss(CLIPS, LABELS)

    def fail(*_):
        raise KeyError('in the head')

    model.head.register_forward_hook(fail)
    with pytest.raises(KeyError):
        model.adversarial_loss(CLIPS, LABELS)
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cudnn.enabled


def test_recurrent_layers_of_cudnn_are_known():
    """They exist on a GPU only: a node of that name stands for one."""
    kind = type('CudnnRnnBackward0', (), {'next_functions': ()})

    class Scores(torch.Tensor):
        grad_fn, output_nr = kind(), 0

    candidate = Candidate('net', 0, Conv3dNet()(CLIPS))
    candidate.note_fused(torch.zeros(1).as_subclass(Scores))
    assert candidate.fused == {'recurrent'}
