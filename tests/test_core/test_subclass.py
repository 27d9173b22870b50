"""Classes that are hard to subclass at run time, and pickles of converted models."""

import abc
import copy
import io
import pickle
from typing import Generic, TypeVar

import pytest
import torch
from helpers import Conv3dNet
from torch import multiprocessing as mp
from torch import nn

from adv_plugins import adversarial_state_dict, make_adversarial, remove_adversarial

T = TypeVar('T')
REGISTRY = []


class AbstractFirst(abc.ABC, Conv3dNet):
    @abc.abstractmethod
    def kind(self): ...


class Concrete(AbstractFirst):
    def kind(self):
        return 'concrete'


class ProtocolLast(Conv3dNet, Generic[T]):
    pass


class GenericFirst(Generic[T], nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Conv3dNet()

    def forward(self, x):
        return self.net(x)


class Registered(Conv3dNet):
    def __init_subclass__(cls, *, entry, **kwargs):
        super().__init_subclass__(**kwargs)
        REGISTRY.append(entry)


class Entry(Registered, entry='first'):
    pass


class Sealed(type):
    def __new__(meta, name, bases, members):
        if bases != (Conv3dNet,):
            raise RuntimeError('this class is sealed')
        return super().__new__(meta, name, bases, members)


class SealedNet(Conv3dNet, metaclass=Sealed):
    pass


class OwnPickle(Conv3dNet):
    def __reduce__(self):
        return (OwnPickle, ())


def make_loss(scores, target):
    return nn.functional.cross_entropy(scores, target)


@pytest.mark.parametrize('kind', [Concrete, ProtocolLast, GenericFirst, Registered, Entry])
def test_every_class_is_converted_pickled_and_restored(clips, kind):
    plain = kind()
    entries = list(REGISTRY)
    model = make_adversarial(copy.deepcopy(plain), 'taf', cam_layer=_layer4(plain), eps=0.1)
    assert isinstance(model, kind) and entries == REGISTRY
    losses = model.adversarial_loss(*clips)
    assert losses['adv_loss'].isfinite() and losses['adv_unmoved'] == 0
    copies = (pickle.loads(pickle.dumps(model)), copy.deepcopy(model))
    expected = model.adversarial_loss(*clips)
    for twin in copies:
        assert type(twin) is type(model)
        for name, value in twin.adversarial_loss(*clips).items():
            assert torch.equal(value, expected[name]), name
    assert type(remove_adversarial(model)) is kind


def _layer4(model):
    return 'net.layer4' if isinstance(model, GenericFirst) else 'layer4'


def test_class_without_a_subclass_is_an_error_that_changes_nothing(net):
    model = SealedNet()
    before = {name: (type(part), list(vars(part))) for name, part in model.named_modules()}
    with pytest.raises(TypeError, match='SealedNet cannot be made adversarial.*sealed'):
        make_adversarial(model)
    after = {name: (type(part), list(vars(part))) for name, part in model.named_modules()}
    assert after == before and len(list(model.bn1.parameters())) == 2


def test_saved_and_loaded_as_a_whole(net, clips):
    make_adversarial(net, 'advprop', loss_fn=make_loss, mean=0.0, std=1.0)
    net.adversarial_loss(*clips)
    file = io.BytesIO()
    torch.save(net, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    state = adversarial_state_dict(net)
    assert all(torch.equal(v, state[n]) for n, v in adversarial_state_dict(loaded).items())
    assert torch.equal(loaded.perturb(*clips), net.perturb(*clips))


def test_class_with_a_pickle_of_its_own_names_the_way_out():
    with pytest.raises(TypeError, match='remove_adversarial'):
        pickle.dumps(make_adversarial(OwnPickle()))


def _score(rank, model, clips, scores):
    scores.copy_(model.adversarial_loss(*clips)['loss'].detach())


@pytest.mark.exhaustive
def test_sent_to_a_spawned_process(net, clips):
    make_adversarial(net)
    scores = torch.zeros(()).share_memory_()
    clone = copy.deepcopy(net)
    mp.spawn(_score, args=(net, clips, scores))
    assert torch.equal(scores, clone.adversarial_loss(*clips)['loss'].detach())


@pytest.mark.filterwarnings('ignore:.*torch.jit.*is deprecated')
def test_scripting_names_the_way_to_it_and_leaves_the_model(net, clips):
    converted = make_adversarial(net.eval())
    for model in (converted, nn.Sequential(converted), converted.layer4):
        with pytest.raises(TypeError, match='script a plain copy'):
            torch.jit.script(model)
    plain = torch.jit.script(remove_adversarial(copy.deepcopy(converted)))
    assert torch.equal(plain(clips[0]), converted(clips[0]))
    traced = torch.jit.trace(converted, clips[0])
    assert torch.equal(traced(clips[0]), converted(clips[0]))
