"""The recipes of the papers have the papers' values."""

import pytest

from adv_plugins import (
    AART,
    ART,
    TAF,
    AdvProp,
    AttentionFrobenius,
    CEAugmentation,
    TemporalCAM,
    TrainingLoss,
)


def test_defaults_of_the_papers():
    taf = TAF()
    assert (taf.eps, taf.step_size, taf.steps) == (64 / 255, 32 / 255, 1)
    assert (taf.clean_weight, taf.adv_weight) == (0.7, pytest.approx(0.3))
    assert taf.norm == 'linf' and taf.dual_bn and not taf.random_start
    assert taf.objective == TemporalCAM()
    ce = CEAugmentation()
    assert ce.objective == TrainingLoss() and (ce.eps, ce.step_size) == (taf.eps, taf.step_size)
    assert (ce.clean_weight, ce.adv_weight) == (taf.clean_weight, taf.adv_weight)
    prop = AdvProp()
    assert (prop.eps, prop.step_size, prop.steps) == (4 / 255, 1 / 255, 5)
    assert (prop.clean_weight, prop.adv_weight) == (1, 1) and prop.attack_path == 'adversarial'
    for art in (ART(), AART()):
        assert art.objective == TrainingLoss() and not art.dual_bn and not art.clamp
        assert (art.norm, art.eps, art.solver.step_size, art.steps) == ('l2', 0.5, 0.5, 1)
        assert (art.clean_weight, art.adv_weight, art.joint, art.dims) == (1, 1, False, None)
    assert ART().regularizers == () and AART().regularizers == (AttentionFrobenius(weight=0.001),)


def test_weights_of_art_follow_alpha_and_beta():
    art = AART(alpha=3, beta=0.5, attention=['a'])
    assert (art.clean_weight, art.adv_weight) == (1, 3)
    assert art.regularizers == (AttentionFrobenius(weight=0.5, modules=['a']),)
