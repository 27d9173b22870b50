"""ART and A-ART on features of several modalities, against the paper's equations written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, snapshot
from torch import nn

from adv_plugins import (
    AART,
    ART,
    TAF,
    AttentionFrobenius,
    Recipe,
    Regularizer,
    make_adversarial,
    remove_adversarial,
)

WIDTHS = {'rgb': 8, 'audio': 4}


class FeatureNet(nn.Module):
    """One attention layer a modality, masked mean pooling, several labels."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.ModuleDict(
            {n: nn.MultiheadAttention(w, 2, batch_first=True) for n, w in WIDTHS.items()}
        )
        for attention in self.attention.values():
            # Else padded queries attend evenly, and do not move whatever the mask.
            nn.init.normal_(attention.in_proj_bias)
        self.fc = nn.Linear(sum(WIDTHS.values()), 5)

    def attend(self, inputs, name):
        x, mask = self.dropout(inputs[name]), inputs[f'{name}_mask']
        return self.attention[name](x, x, x, key_padding_mask=~mask, need_weights=True)

    def forward(self, inputs):
        pooled = []
        for name in WIDTHS:
            x, mask = self.attend(inputs, name)[0], inputs[f'{name}_mask'][..., None]
            pooled.append((x * mask).sum(1) / mask.sum(1))
        return self.fc(torch.cat(pooled, dim=1))


def features(lengths=(5, 3, 1), frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(frames) < torch.tensor(lengths)[:, None]
    inputs = {}
    for name, width in WIDTHS.items():
        x = torch.randn(len(lengths), 9, width, generator=generator)[:, :frames]
        inputs |= {name: x * valid[..., None], f'{name}_mask': valid}
    labels = torch.randint(2, (len(lengths), 5), generator=generator).float()
    return inputs, labels


def converted(recipe, **options):
    torch.manual_seed(1)
    net = FeatureNet(**options)
    return make_adversarial(net, recipe, loss_fn=F.binary_cross_entropy_with_logits)


def written_out(net, inputs, labels, eps, alpha, beta):
    """A-ART, eq. 1-4 and 2.2, video by video, with plain autograd."""
    videos = []
    for i in range(len(labels)):
        length = int(inputs['rgb_mask'][i].sum())
        x = {n: inputs[n][i : i + 1, :length].clone().requires_grad_() for n in WIDTHS}
        mask = {f'{n}_mask': torch.ones(1, length, dtype=torch.bool) for n in WIDTHS}
        y = labels[i : i + 1]
        loss = F.binary_cross_entropy_with_logits(net({**x, **mask}), y)
        grads = torch.autograd.grad(loss, list(x.values()), retain_graph=True)
        moved = {n: x[n].detach() + eps * g / g.norm() for n, g in zip(x, grads, strict=True)}
        adv = F.binary_cross_entropy_with_logits(net({**moved, **mask}), y)
        term = sum(
            torch.linalg.matrix_norm(
                net.attend({**x, **mask}, n)[1][0] - net.attend({**moved, **mask}, n)[1][0]
            )
            for n in WIDTHS
        )
        videos.append((loss, adv, term))
    clean, adv, term = (torch.stack(parts).mean() for parts in zip(*videos, strict=True))
    return clean, alpha * adv, beta * term


@pytest.mark.parametrize('recipe', [ART(eps=0.7, alpha=1.5), AART(eps=0.7, alpha=1.5, beta=0.3)])
def test_loss_and_gradients_are_those_of_the_paper(recipe):
    net = converted(recipe)
    inputs, labels = features()
    plain = copy.deepcopy(net)
    losses = net.adversarial_loss(inputs, labels)
    losses['loss'].backward()
    beta = recipe.regularizers[0].weight if recipe.regularizers else 0.0
    clean, adv, term = written_out(plain, inputs, labels, 0.7, 1.5, beta)
    (clean + adv + term).backward()
    torch.testing.assert_close(losses['clean_loss'], clean.detach())
    torch.testing.assert_close(losses['adv_loss'], adv.detach())
    if recipe.regularizers:
        torch.testing.assert_close(losses['loss_attention_frobenius'], term.detach())
        torch.testing.assert_close(losses['attention_frobenius'], term.detach() / 0.3)
    torch.testing.assert_close(losses['loss'], (clean + adv + term).detach())
    for (name, a), b in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_epsilon_and_the_relative_size_are_logged():
    net = converted(ART(eps=0.7))
    inputs, labels = features()
    losses = net.adversarial_loss(inputs, labels)
    assert losses['adv_eps'] == pytest.approx(0.7)
    for name in WIDTHS:
        expected = (0.7 / inputs[name].flatten(1).norm(dim=1)).mean()
        torch.testing.assert_close(losses[f'adv_ratio_{name}'], expected)


def test_epsilon_may_be_a_whole_number():
    """mmengine takes the mean of all that is logged."""
    losses = converted(ART(eps=1)).adversarial_loss(*features())
    assert all(value.is_floating_point() for value in losses.values())


def test_padding_is_no_part_of_the_relative_size():
    net = converted(ART(eps=0.7))
    inputs, labels = features()
    expected = net.adversarial_loss(inputs, labels)
    for name in WIDTHS:
        inputs[name] = inputs[name].masked_fill(~inputs[f'{name}_mask'][..., None], 1e3)
    inputs['rgb'].requires_grad_(False)
    losses = net.adversarial_loss(inputs, labels)
    for name in WIDTHS:
        torch.testing.assert_close(losses[f'adv_ratio_{name}'], expected[f'adv_ratio_{name}'])


def test_a_modality_that_the_model_does_not_read_stays_as_it_is():
    net = converted(ART())
    inputs, labels = features()
    inputs['depth'] = torch.randn(3, 5, 2)
    moved = net.eval().perturb(inputs, labels)
    assert torch.equal(moved['depth'], inputs['depth'])
    assert not torch.equal(moved['rgb'], inputs['rgb'])


def test_inputs_made_in_inference_mode_can_be_perturbed():
    net = converted(ART()).eval()
    inputs, labels = features()
    with torch.inference_mode():
        given = {name: value.clone() for name, value in inputs.items()}
        moved = net.perturb(given, labels)
    assert torch.equal(moved['rgb'], net.perturb(inputs, labels)['rgb'])


@pytest.mark.parametrize('options', [{}, {'joint': True}, {'dims': (2,)}, {'steps': 3}])
def test_padding_and_batch_mates_change_neither_attack_nor_attention_term(options):
    net = converted(AART(eps=0.7, **options)).eval()
    short, labels = features(frames=5)
    long, _ = features(frames=9)
    a, b = net.perturb(short, labels), net.perturb(long, labels)
    for name in WIDTHS:
        torch.testing.assert_close(a[name], b[name][:, :5], rtol=0, atol=1e-6)
        assert torch.equal(b[name][:, 5:], long[name][:, 5:])
        assert a[name].shape == short[name].shape and not a[name].requires_grad
        assert torch.equal(a[f'{name}_mask'], short[f'{name}_mask'])
    one = {name: value[1:2, :3] for name, value in short.items()}
    alone = net.perturb(one, labels[1:2])
    for name in WIDTHS:
        torch.testing.assert_close(alone[name], a[name][1:2, :3], rtol=0, atol=1e-6)
    terms = [net.adversarial_loss(x, labels)['attention_frobenius'] for x in (short, long)]
    torch.testing.assert_close(*terms)


def test_nothing_is_left_behind():
    net = converted(AART(), dropout=0.5)
    inputs, labels = features()
    given = {name: value.clone() for name, value in inputs.items()}
    net.perturb(inputs, labels)
    before = snapshot(net)
    net.perturb(inputs, labels)
    assert_same(before, snapshot(net))
    net.adversarial_loss(inputs, labels)
    after = snapshot(net)
    after['rng'] = before['rng']
    assert_same(before, after)
    assert all(torch.equal(value, inputs[name]) for name, value in given.items())


def test_dropout_is_the_same_in_both_records():
    """Else the attention term would measure dropout: without a perturbation it is zero."""
    inputs, labels = features()
    losses = converted(AART(eps=0.0), dropout=0.5).adversarial_loss(inputs, labels)
    assert losses['attention_frobenius'] == 0
    assert losses['clean_loss'] == losses['adv_loss']
    losses['loss'].backward()
    moved = converted(AART(), dropout=0.5).adversarial_loss(inputs, labels)
    assert moved['attention_frobenius'] > 0


def test_beta_zero_is_art_with_the_term_still_logged():
    inputs, labels = features()
    nets = [converted(AART(beta=0.0)), converted(ART())]
    for net in nets:
        net.adversarial_loss(inputs, labels)['loss'].backward()
    grads = [[value.grad for value in net.parameters()] for net in nets]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert nets[0].adversarial_loss(inputs, labels)['attention_frobenius'] > 0


def test_part_of_the_batch_is_compared_with_its_own_clean_maps():
    inputs, labels = features(lengths=(5, 3, 1, 4), frames=5)
    losses = converted(AART(eps=0.0, fraction=0.5)).adversarial_loss(inputs, labels)
    assert losses['attention_frobenius'] == 0
    half = converted(AART(fraction=0.5)).adversarial_loss(inputs, labels)
    assert half['attention_frobenius'] > 0


def test_only_the_named_modules_count():
    inputs, labels = features()
    terms = {
        names: converted(AART(attention=names)).adversarial_loss(inputs, labels)
        for names in [('attention.rgb',), ('attention.audio',), None]
    }
    single, other, both = (losses['attention_frobenius'] for losses in terms.values())
    assert single > 0 and other > 0
    torch.testing.assert_close(single + other, both)


def test_unknown_or_missing_attention_is_an_error_before_training():
    with pytest.raises(ValueError, match="attention='attention.rgb'"):
        converted(AART(attention=['attention.rbg']))
    net = make_adversarial(nn.Linear(4, 2), AART())
    with pytest.raises(ValueError, match='no attention'):
        net.adversarial_loss(torch.randn(3, 4), torch.tensor([0, 1, 1]))


def test_schedule_that_begins_later_is_rehearsed_with_its_regularizers():
    net = make_adversarial(nn.Linear(4, 2), AART(begin=100))
    with pytest.raises(ValueError, match='no attention'):
        net.adversarial_loss(torch.randn(3, 4), torch.tensor([0, 1, 1]))


def test_a_regularizer_of_ones_own_reads_both_records():
    class LogitPairing(Regularizer):
        name = 'logit_pairing'
        weight = 0.5

        def __call__(self, clean, adversarial):
            return (clean.logits - adversarial.logits).square().mean()

    inputs, labels = features()
    half = converted(ART(eps=0.0, fraction=0.5, regularizers=[LogitPairing()]))
    assert half.adversarial_loss(inputs, labels)['logit_pairing'] < 1e-10
    LogitPairing.weight = 0.0
    watched = converted(ART(regularizers=[LogitPairing()])).adversarial_loss(inputs, labels)
    assert watched['logit_pairing'] > 0 == watched['loss_logit_pairing']
    LogitPairing.weight = 0.5
    net = converted(ART(regularizers=[LogitPairing()]))
    moved = copy.deepcopy(net).perturb(inputs, labels)
    expected = (net(inputs) - net(moved)).square().mean()
    losses = net.adversarial_loss(inputs, labels)
    torch.testing.assert_close(losses['loss_logit_pairing'], 0.5 * expected.detach())
    parts = losses['clean_loss'] + losses['adv_loss'] + losses['loss_logit_pairing']
    torch.testing.assert_close(losses['loss'].detach(), parts)


def test_regularizer_without_a_clean_loss():
    """Its gradient goes through the clean forward all the same."""

    class LogitPairing(Regularizer):
        name = 'logit_pairing'
        weight = 0.5

        def __call__(self, clean, adversarial):
            return (clean.logits - adversarial.logits).square().mean()

    inputs, labels = features()
    ball = dict(norm='l2', eps=0.5, dual_bn=False)
    weights = dict(clean_weight=0.0, adv_weight=2.0, regularizers=[LogitPairing()])
    net = converted(Recipe(objective='TrainingLoss', **ball, **weights))
    plain = remove_adversarial(copy.deepcopy(net))
    moved = net.perturb(inputs, labels)
    net.adversarial_loss(inputs, labels)['loss'].backward()
    scores, attacked = plain(inputs), plain(moved)
    adversarial = F.binary_cross_entropy_with_logits(attacked, labels)
    (2 * adversarial + 0.5 * (scores - attacked).square().mean()).backward()
    for (name, value), other in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


def test_regularizer_beside_another_recipe():
    """Attention of a raw-video model: the CAM objective and the attention term together."""

    class FrameNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv3d(3, 8, 3, padding=1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            frames = self.stem(x).relu()
            tokens = frames.mean(dim=(3, 4)).transpose(1, 2)
            return self.fc(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    def build(**options):
        terms = [AttentionFrobenius(weight=2.0)]
        recipe = TAF(cam_layer='stem', dual_bn=False, regularizers=terms, **options)
        return make_adversarial(FrameNet(), recipe, mean=0.5, std=0.5)

    batch = torch.randn(3, 3, 4, 6, 6), torch.tensor([0, 1, 2])
    for options in ({}, dict(second_order=False)):
        net = build(**options)
        losses = net.adversarial_loss(*batch)
        assert losses['loss_attention_frobenius'] == 2 * losses['attention_frobenius'] > 0
        losses['loss'].backward()
        assert net.attention.in_proj_weight.grad.abs().sum() > 0
