"""What models return: several scores, objects, scores that cross-entropy takes silently wrong."""

import collections
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet
from torch import nn

from adv_plugins import make_adversarial
from adv_plugins.adapters.outputs import class_scores

Scores = collections.namedtuple('Scores', ['logits', 'aux_logits'])


@dataclasses.dataclass
class Slots:
    __slots__ = ('aux', 'logits')
    aux: object
    logits: object


class WithAux(nn.Module):
    """Returns the scores of an auxiliary head beside its logits, in one of the usual forms."""

    def __init__(self, form):
        super().__init__()
        self.net, self.aux, self.form = Conv3dNet(), nn.Linear(NUM_CLASSES, NUM_CLASSES), form

    def forward(self, x):
        logits = self.net(x)
        return self.form(logits, self.aux(logits))


FORMS = {
    'tuple': (lambda *both: both, lambda o: (o[0], o[1])),
    'dict': (lambda a, b: dict(scores=a, second=b), lambda o: (o['scores'], o['second'])),
    'logits in a dict': (lambda a, b: dict(aux=b, logits=a), lambda o: (o['logits'], o['aux'])),
    'named tuple': (Scores, lambda o: (o.logits, o.aux_logits)),
    'object': (
        lambda a, b: SimpleNamespace(logits=a, aux=b),
        lambda o: (o.logits, o.aux),
    ),
    'nested': (lambda a, b: (a, [b]), lambda o: (o[0], o[1][0])),
}


@pytest.mark.parametrize('kind', FORMS)
def test_several_scores_need_a_loss_of_ones_own(clips, kind):
    form, read = FORMS[kind]
    net = make_adversarial(WithAux(form))
    with pytest.raises(TypeError, match='write loss_fn=') as caught:
        net.adversarial_loss(*clips)
    line = str(caught.value).split('e.g. loss_fn=')[1]
    for loss_fn in (
        lambda o, y: F.cross_entropy(read(o)[0], y) + 0.3 * F.cross_entropy(read(o)[1], y),
        # The line of the error is ready to be written.
        eval(line, {'F': F}),
    ):
        torch.manual_seed(0)
        plain = WithAux(form)
        net = make_adversarial(plain, loss_fn=loss_fn)
        a, b = read(plain(clips[0]))
        wanted = F.cross_entropy(a, clips[1]) + 0.3 * F.cross_entropy(b, clips[1])
        losses = net.adversarial_loss(*clips)
        torch.testing.assert_close(losses['clean_loss'], wanted)
        losses['loss'].backward()
        assert net.aux.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('loss_fn', [nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy])
def test_a_loss_of_pytorch_drops_no_scores_either(clips, loss_fn):
    with pytest.raises(TypeError, match=r'output.aux_logits \(5, 6\)'):
        make_adversarial(WithAux(Scores), loss_fn=loss_fn).adversarial_loss(*clips)


def test_a_loss_among_the_outputs_is_not_dropped(clips):
    net = make_adversarial(WithAux(lambda a, b: dict(logits=a, balance=b.square().mean())))
    with pytest.raises(TypeError, match=r"target\) \+ output\['balance'\]"):
        net.adversarial_loss(*clips)


@pytest.mark.parametrize(
    'form',
    [
        lambda z, _: SimpleNamespace(logits=z),
        lambda z, _: Slots(None, z),
        lambda z, _: dict(logits=z, features=z.detach().repeat(1, 4), loss=None),
        lambda z, _: dict(scores=z),
        lambda z, _: (z,),
    ],
)
@pytest.mark.parametrize(
    'recipe', [dict(recipe='advprop'), dict(recipe='taf', cam_layer='net.layer4')]
)
def test_scores_that_are_alone_are_the_class_scores(clips, form, recipe):
    for options in ({}, dict(loss_fn=nn.CrossEntropyLoss())):
        plain, net = WithAux(lambda z, _: z), WithAux(form)
        net.load_state_dict(plain.state_dict())
        make_adversarial(plain, **recipe)
        make_adversarial(net, **recipe, **options)
        wanted, losses = (m.adversarial_loss(*clips) for m in (plain, net))
        assert {**wanted} == {**losses}


def test_a_function_gets_the_output_as_it_is(clips):
    seen = []

    def loss_fn(output, target):
        seen.append(output)
        return F.cross_entropy(output.logits, target)

    make_adversarial(WithAux(lambda z, _: SimpleNamespace(logits=z)), loss_fn=loss_fn)
    net = make_adversarial(WithAux(Scores), 'ceaugmentation', loss_fn=loss_fn)
    net.adversarial_loss(*clips)['loss'].backward()
    assert {type(output) for output in seen} == {Scores}


def test_a_function_of_logits_is_told_what_it_gets(clips):
    net = make_adversarial(
        WithAux(lambda z, _: SimpleNamespace(logits=z)), loss_fn=lambda z, y: z.logsumexp(1).mean()
    )
    with pytest.raises(
        TypeError, match=r'training mode a SimpleNamespace with output.logits \(5, 6\)'
    ):
        net.adversarial_loss(*clips)


def test_a_part_of_the_batch_under_a_loss_of_several_scores(clips):
    """The loss may leave out a class, which shows only where it is called."""
    inputs, labels = clips[0], torch.tensor([2, 2, 2, 2, 1])

    def loss_fn(output, target):
        return F.cross_entropy(output[0], target, ignore_index=2) + output[1].square().mean()

    net = make_adversarial(WithAux(lambda *both: both), loss_fn=loss_fn, fraction=0.4)
    for _ in range(4):
        assert net.adversarial_loss(inputs, labels)['loss'].isfinite()


def test_class_scores_under_a_loss_of_ones_own():
    scores, features = torch.rand(5, 6), torch.rand(5, 8, 4, 4)
    assert class_scores((features, scores), 5) is scores
    assert class_scores(dict(a=scores, logits=features), 5) is features
    assert class_scores(['text', features], 5) is features
    boxes = dict(boxes=torch.rand(17, 4))
    assert class_scores(boxes, 5) is boxes


def test_googlenet_as_torchvision_builds_it():
    models = pytest.importorskip('torchvision.models', reason='needs adv_plugins[mmaction]')

    def loss_fn(output, target):
        parts = (output.logits, output.aux_logits1, output.aux_logits2)
        return sum(
            w * F.cross_entropy(z, target) for w, z in zip((1, 0.3, 0.3), parts, strict=True)
        )

    net = models.GoogLeNet(num_classes=5, init_weights=False)
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([1, 3])
    with pytest.raises(TypeError, match=r'0.3 \* F.cross_entropy\(output.aux_logits2, target\)'):
        make_adversarial(net).adversarial_loss(images, labels)
    net = models.GoogLeNet(num_classes=5, init_weights=False)
    make_adversarial(net, steps=1, loss_fn=loss_fn).adversarial_loss(images, labels)[
        'loss'
    ].backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(TypeError, match='in eval mode a Tensor.*in the other mode'):
        net.eval().perturb(images, labels)


class Shaped(nn.Module):
    """Scores of a given shape behind the batch axis."""

    def __init__(self, *shape):
        super().__init__()
        self.fc = nn.Sequential(nn.Flatten(), nn.LazyLinear(int(np.prod(shape or (1,)))))
        self.fc(torch.zeros(1, 3, 4, 6, 6))
        self.shape = shape

    def forward(self, x):
        return self.fc(x).unflatten(1, self.shape or (1,)).reshape(len(x), *self.shape)


INDICES = torch.tensor([0, 1, 2, 0, 1])
BINARY = torch.tensor([0.0, 1, 1, 0, 1])
MULTI = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ('shape', 'target', 'line'),
    [
        ((1,), BINARY[:, None], r'loss_fn=nn.BCEWithLogitsLoss\(\)'),
        ((1,), BINARY, r'F.binary_cross_entropy_with_logits\(output, target.float\(\).view_as'),
        ((1,), BINARY.long(), r'F.binary_cross_entropy_with_logits\(output, target.float\(\).view'),
        ((), BINARY, r'loss_fn=nn.BCEWithLogitsLoss\(\)'),
        ((3,), MULTI.float(), r'loss_fn=nn.BCEWithLogitsLoss\(\)'),
        ((3,), MULTI, r'F.binary_cross_entropy_with_logits\(output, target.float\(\)\)'),
        ((3,), INDICES.int(), r'labels.long\(\)'),
        ((3,), BINARY, r'F.cross_entropy\(output, target.long\(\)\)'),
        ((3,), INDICES[:, None], r'F.cross_entropy\(output, target.squeeze\(1\)\)'),
        ((8, 3), INDICES, r'F.cross_entropy\(output.mean\(1\), target\)'),
        ((8, 3), INDICES[:, None].repeat(1, 8), r'F.cross_entropy\(output.transpose\(1, 2\), t'),
        ((3, 1, 1), INDICES, r'F.cross_entropy\(output.flatten\(1\), target\)'),
        ((3, 2, 2), INDICES[:2], r'scores \(5, 3, 2, 2\) and integer labels \(2,\)'),
    ],
)
def test_scores_and_labels_of_which_cross_entropy_is_silent_or_cryptic(clips, shape, target, line):
    for options in ({}, dict(loss_fn=nn.CrossEntropyLoss())):
        soft = torch.equal(target, MULTI.float()) and target.is_floating_point()
        if options and soft:
            # Whoever writes it means it.
            make_adversarial(Shaped(*shape), **options).adversarial_loss(clips[0], target)
            continue
        with pytest.raises(ValueError, match=line):
            make_adversarial(Shaped(*shape), **options).adversarial_loss(clips[0], target)


@pytest.mark.parametrize(
    ('shape', 'target'),
    [
        ((3,), INDICES),
        ((3,), [0, 1, 2, 0, 1]),
        ((3,), np.array([0, 1, 2, 0, 1])),
        ((3,), torch.rand(5, 3).softmax(1).bfloat16().float()),
        ((3, 8), INDICES[:, None].repeat(1, 8)),
        ((3, 8), torch.rand(5, 3, 8).softmax(1)),
    ],
)
def test_scores_and_labels_as_cross_entropy_takes_them(clips, shape, target):
    net = make_adversarial(Shaped(*shape))
    wanted = F.cross_entropy(net(clips[0]), torch.as_tensor(target))
    got = net.adversarial_loss(clips[0], target)['clean_loss']
    torch.testing.assert_close(got, wanted)


def test_frames_folded_into_the_samples(clips):
    class Folded(Shaped):
        def forward(self, x):
            return super().forward(x).repeat_interleave(2, 0)

    with pytest.raises(ValueError, match=r'output.unflatten\(0, \(len\(target\), -1\)\).mean\(1\)'):
        make_adversarial(Folded(3)).adversarial_loss(clips[0], INDICES)


def test_binary_and_multi_label_training(clips):
    for shape, target in (((1,), BINARY[:, None]), ((3,), MULTI.float())):
        net = make_adversarial(Shaped(*shape), loss_fn=nn.BCEWithLogitsLoss(), eps=0.1)
        losses = net.adversarial_loss(clips[0], target)
        assert losses['adv_loss'] > losses['clean_loss'] and not losses['adv_unmoved']


def test_feature_maps_are_no_scores():
    class WithMap(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            maps = self.conv(x)
            return {'maps': maps, 'scores': self.fc(maps.mean((2, 3)))}

    model = make_adversarial(WithMap(), eps=0.1)
    losses = model.adversarial_loss(torch.rand(2, 3, 8, 8), torch.tensor([1, 3]))
    assert losses['adv_unmoved'] == 0
