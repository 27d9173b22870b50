"""What is measured of a video depends on the video, and not on its batch."""

from dataclasses import dataclass, field

import pytest
import torch
from helpers import build_recognizer, data_samples, tsm_config

from adv_plugins.evaluation.attacks import Attack
from adv_plugins.evaluation.deployed import Deployed
from adv_plugins.evaluation.measurements import Measurements, VideoBatch, _change, _entropy
from adv_plugins.evaluation.robustness_plan import PlannedAttack

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


def test_a_recipe_that_starts_at_random_attacks_one_by_one():
    deployed = Deployed(build_recognizer(tsm_config()).eval())
    torch.manual_seed(0)
    inputs, classes = torch.randn(3, 4, 3, 32, 32), [2, 4, 1]
    measurements = Measurements(deployed, 0)

    def moved(rows, kind):
        attack = PlannedAttack.of('a', dict(type=kind), 8 / 255).attack
        x, samples = inputs[rows], data_samples([classes[row] for row in rows])
        with torch.no_grad():
            views = deployed.views(x, samples)
        labels = torch.tensor([classes[row] for row in rows])
        batch = VideoBatch(x, samples, labels, torch.tensor(rows), views)
        return measurements.examples(attack, batch)

    for kind in ('FastTraining', 'CEAugmentation'):
        alone = torch.cat([moved([row], kind) for row in range(3)])
        torch.testing.assert_close(moved([0, 1, 2], kind), alone, rtol=0, atol=1e-4)
        assert torch.equal(moved([2, 0], kind)[:1], moved([2, 1], kind)[:1])


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
