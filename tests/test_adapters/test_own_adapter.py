"""An adapter of a user's, for a model that takes a tuple and returns a dict."""

import torch
from torch import nn
from torch.nn import functional as F

from adv_plugins import make_adversarial
from adv_plugins.adapters import Adapter, ClassifierAdapter, Record, register_adapter
from adv_plugins.core.adapter import ADAPTERS


class Pair(nn.Module):
    """Takes a clip and its words, each by its name."""

    def __init__(self):
        super().__init__()
        self.video, self.text = nn.Linear(12, 5), nn.Embedding(7, 5)

    def forward(self, video, words):
        return self.video(video) + self.text(words).mean(dim=1)


class TuplePair(Pair):
    """The same model as another family calls it."""

    def forward(self, pair):
        return dict(scores=super().forward(*pair))


class TuplePairAdapter(ClassifierAdapter):
    @classmethod
    def handles(cls, model):
        return isinstance(model, TuplePair)

    def forward(self, batch, target):
        output = self.model((batch.inputs['video'], batch.inputs['words']))
        loss = F.cross_entropy(output['scores'], target)
        return Record({'loss': loss}, loss, output['scores'], target, batch.size)


def test_model_of_another_call_trains_as_its_twin(monkeypatch):
    assert issubclass(TuplePairAdapter, Adapter)
    monkeypatch.setattr('adv_plugins.core.adapter.ADAPTERS', list(ADAPTERS))
    register_adapter(TuplePairAdapter)
    own, twin = TuplePair(), Pair()
    twin.load_state_dict(own.state_dict())
    batch = dict(video=torch.randn(3, 12), words=torch.randint(7, (3, 4)))
    labels = torch.tensor([0, 4, 2])
    losses = []
    for model in (own, twin):
        make_adversarial(model, 'advprop', dual_bn=False, eps=0.1, mean=0.5, std=0.25)
        losses.append(model.adversarial_loss(batch, labels)['loss'])
        losses[-1].backward()
    assert torch.equal(*losses)
    for a, b in zip(own.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(own.perturb(batch, labels)['video'], twin.perturb(batch, labels)['video'])
