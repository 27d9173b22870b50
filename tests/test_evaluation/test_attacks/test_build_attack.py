"""Attacks from configs, and their options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attack_cases import BOTH_NORMS

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import (
    ATTACKS,
    FGSM,
    PGD,
    Square,
    UniformNoise,
    attack_class,
    build_attack,
)


def test_attacks_are_built_from_configs() -> None:
    assert build_attack(dict(type='PGD', eps=0.1, steps=3)) == PGD(eps=0.1, steps=3)
    assert build_attack('uniform_noise', eps=0.1) == UniformNoise(eps=0.1)
    attack = FGSM(eps=0.2)
    assert build_attack(attack) is attack
    simple = ['UniformNoise', 'FGSM', 'PGD', 'APGD', 'APGDTargeted', 'DeepFoolTargeted', 'Square']
    assert list(ATTACKS) == [*simple, 'StandardEnsemble', 'Universal']
    for attack in BOTH_NORMS:
        assert build_attack(dict(vars(attack), type=type(attack).__name__)) == attack
    with pytest.raises(AttributeError):
        attack.eps = 3


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='PDG', eps=0.1), "attack='PDG' is unknown; write 'PGD'"),
        (dict(eps=0.1), "attack='' is unknown; write 'UniformNoise', 'FGSM', 'PGD'"),
        (dict(type='PGD', eps=0.1, step=3), 'PGD has no option step=; write steps'),
        (dict(type='PGD'), 'PGD needs the options eps'),
        (dict(type='FGSM', eps=-0.1), r'eps=-0.1 must be finite .* 8/255'),
        (dict(type='FGSM', eps=math.inf), 'eps=inf must be finite'),
        (dict(type='FGSM', eps=math.nan), 'eps=nan must be finite'),
        (dict(type='FGSM', eps=0.1, norm='l3'), "norm='l3' is unknown; write norm='linf' or"),
        (dict(type='PGD', eps=0.1, steps=0), 'steps=0 must be an integer, at least 1'),
        (dict(type='PGD', eps=0.1, steps=2.5), 'steps=2.5 must be an integer'),
        (dict(type='PGD', eps=0.1, step_size=-1), 'step_size=-1 must be finite'),
        (dict(type='PGD', eps=0.1, loss='kl'), "loss='kl' is unknown; write loss='ce' or"),
        (dict(type='APGD', eps=0.1, restarts=0), 'restarts=0 must be'),
        (dict(type='APGDTargeted', eps=0.1, targets=0), 'targets=0 must be'),
        (dict(type='DeepFoolTargeted', eps=0.1, targets=0), 'targets=0 must be'),
        (dict(type='DeepFoolTargeted', eps=0.1, overshoot=-1), 'overshoot=-1 must not be negative'),
        (dict(type='StandardEnsemble', eps=0.1, steps=0), 'steps=0 must be'),
        (dict(type='StandardEnsemble', eps=0.1, queries=-1), 'queries=-1 must be'),
        (dict(type='StandardEnsemble', eps=0.1, seconds=0), 'seconds=0 must be positive; write'),
        (dict(type='Universal', eps=0.1), 'Universal needs the options file'),
        (dict(type='UniformNoise', eps=0.1, restarts=0), 'restarts=0 must be'),
        (dict(type='Square', eps=0.1, queries=0), 'queries=0 must be'),
        (dict(type='Square', eps=0.1, p_init=1.5), r'p_init=1.5 must lie in \(0, 1\]'),
        (dict(type='Square', eps=0.1, norm='l2'), "write norm='linf', or take"),
    ],
)
def test_bad_options_are_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_attack(config)


def test_a_ready_attack_takes_no_options() -> None:
    with pytest.raises(
        ValueError, match=r'steps=3 together with a ready attack; write PGD\(\.\.\.\)'
    ):
        build_attack(PGD(eps=0.1), steps=3)


class Mine(UniformNoise):
    """An attack of the user's own."""


def test_an_attack_may_be_a_class_or_a_path() -> None:
    for kind in (PGD, 'PGD', 'p_g_d', 'adv_plugins.evaluation.attacks.gradient.PGD'):
        assert attack_class(kind) is PGD
        assert build_attack(dict(type=kind, eps=0.1)) == build_attack(kind, eps=0.1) == PGD(eps=0.1)
    assert attack_class(f'{__name__}.Mine') is Mine and type(build_attack(Mine, eps=0.1)) is Mine
    for kind in ('TAF', 'mine', None, '', dict, 3):
        assert attack_class(kind) is None


def test_numbers_may_be_text() -> None:
    text = dict(type='PGD', eps='8/255', steps='3', step_size='2/255', restarts='2')
    assert build_attack(text) == PGD(eps=8 / 255, steps=3, step_size=2 / 255, restarts=2)
    square = build_attack(dict(type='Square', eps='1/255', queries='9', p_init='0.5'))
    assert square == Square(eps=1 / 255, queries=9, p_init=0.5)
    for eps in ('eight', '8/0', True, None, [0.1]):
        with pytest.raises(ValueError, match='eps=.* 8/255'):
            build_attack(dict(type='FGSM', eps=eps))


def test_grey_levels_are_told_where_the_range_is_known() -> None:
    """In the units of the input every radius may be meant."""
    x, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)

    def logits(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4]

    pixels = InputSpace.from_normalization(0.5, 0.25, (0.0, 1.0))
    with pytest.raises(ValueError, match="eps=8 is 8 times .*eps='8/255'"):
        FGSM(eps=8)(logits, x, labels, pixels)
    FGSM(eps=8)(logits, x, labels)
    FGSM(eps=8, norm='l2')(logits, x, labels, pixels)
