"""What is measured of a video depends on the video, and not on its batch."""

from dataclasses import dataclass, field

import pytest
import torch
from helpers import build_recognizer, data_samples, tsm_config

from adv_plugins.evaluation.attacks import Attack
from adv_plugins.evaluation.deployed import Deployed
from adv_plugins.evaluation.measurements import Measurements, VideoBatch, _change, _entropy

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')


@dataclass(frozen=True, kw_only=True)
class RandomStart(Attack):
    """Notes where an attack would start, sample by sample."""

    starts: list = field(default_factory=list)

    def _run(self, search):
        self.starts.extend(search.random(torch.arange(len(search.best))))


def test_random_starts_belong_to_the_video():
    deployed = Deployed(build_recognizer(tsm_config()).eval())

    def starts(videos, seed=0):
        inputs, samples = torch.zeros(len(videos), 4, 3, 32, 32), data_samples(videos)
        with torch.no_grad():
            views = deployed.views(inputs, samples)
        labels, numbers = torch.tensor(videos), torch.tensor(videos)
        attack = RandomStart(eps=0.1)
        batch = VideoBatch(inputs, samples, labels, numbers, views)
        Measurements(deployed, seed).attack(attack, False, batch)
        return dict(zip(videos, attack.starts, strict=True))

    together, apart = starts([2, 4, 5]), {**starts([4, 2]), **starts([5])}
    assert all(torch.equal(together[video], apart[video]) for video in together)
    assert not torch.equal(together[2], together[4])
    assert not torch.equal(together[2], starts([2], seed=1)[2])


def test_views_without_evidence_are_in_no_mean():
    """Of the first video one view has evidence, of the second none."""
    nan = float('nan')
    shares = torch.tensor([[[1.0, 0.0], [nan, nan]], [[nan, nan], [nan, nan]]])
    entropy = _entropy(shares)['entropy']
    assert entropy[0] == 0 and entropy[1].isnan()


def test_scores_that_are_not_finite_twice_have_not_changed():
    """A broken model is not a randomised one."""
    nan, inf = float('nan'), float('inf')
    before, after = torch.tensor([1.0, nan, inf, nan]), torch.tensor([3.0, nan, inf, 1.0])
    change = _change(before, after).tolist()
    assert change[:3] == [2, 0, 0] and change[3] != change[3]
