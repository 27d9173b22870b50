"""The plan: what clearly means something is taken so, all else is told before there is a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins import TAF
from adv_plugins.core.recipe import Recipe
from adv_plugins.core.structure import Mask
from adv_plugins.evaluation.attacks import PGD, Square, UniformNoise, UniversalPerturbation
from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.measurements import Measurements
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.robustness_plan import ATTACKS, CURVE, DEEPFOOL, Condition, Plan

DEFAULTS: dict[str, Any] = dict(
    corruptions=('snow', 'jumble'),
    severities=(1, 3),
    attacks=ATTACKS,
    eps=4 / 255,
    curve='pgd',
    curve_eps=CURVE,
    deepfool=DEEPFOOL,
    attention=False,
    num_videos=10,
    attack_videos=2,
    seed=0,
    fp16=False,
)


def conditions(total: int = 20, **options: Any) -> dict[str, Condition]:
    plan = Plan(**{**DEFAULTS, **options})
    # Nothing of the model is asked before the first video.
    made = plan.conditions(Measurements(None, plan.seed), total)
    return {condition.cell.key: condition for condition in made}


def cell(key: str, **options: Any) -> Cell:
    return conditions(**options)[key].cell


def test_the_cells_of_a_plan() -> None:
    made = conditions()
    assert list(made) == [
        'clean',
        *(f'corruption/{name}/{severity}' for name in ('snow', 'jumble') for severity in (1, 3)),
        *(f'attack/{name}' for name in ATTACKS),
        *(f'curve/pgd/{grey}/255' for grey in (1, 2, 8, 16)),
        'deepfool',
        'sanity',
    ]
    assert made['clean'].cell.videos == made['corruption/snow/3'].cell.videos
    assert made['clean'].cell.videos == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert made['attack/pgd'].cell.videos == made['sanity'].cell.videos == [5, 15]


def test_cells_are_as_earlier_versions_wrote_them() -> None:
    """Or else what was evaluated with them would be evaluated again."""
    made = conditions(fp16=True, attacks={'pgd': dict(type='PGD', steps=2), 'n': 'UniformNoise'})
    eps = {'eps': 4 / 255}
    rest = {'seed': 0, 'norm': 'linf', 'fp16': True}
    assert made['attack/pgd'].cell.options == {**eps, 'type': 'PGD', 'steps': 2, **rest}
    assert made['attack/n'].cell.options == {**eps, 'type': 'UniformNoise', **rest}
    assert made['attack/pgd'].cell.level == 4 / 255
    curve = {'type': 'PGD', 'steps': 2, 'eps': 1 / 255}
    assert made['curve/pgd/1/255'].cell.options == {**curve, **rest}
    assert made['corruption/snow/3'].cell.options == {'seed': 0, 'fp16': True}
    assert made['deepfool'].cell.options == {'num_candidates': 10, 'max_iter': 50, 'fp16': True}
    assert made['clean'].cell.options == made['sanity'].cell.options == {'fp16': True}
    ready = conditions(attacks={'pgd': PGD(eps=4 / 255)})['attack/pgd'].cell.options
    assert set(ready) == {
        'type', 'eps', 'norm', 'steps', 'step_size', 'restarts', 'loss', 'seed',
    }  # fmt: skip


def test_a_structure_is_a_threat_model_of_its_own(tmp_path: Path) -> None:
    """Its worst case must not be taken for that of the whole ball."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :2] = True
    chosen = dict(
        pgd=dict(type='PGD', steps=2),
        flicker=dict(type='PGD', steps=2, shared='h w', frames=2),
        patch=PGD(eps=1, region=mask),
        taf=dict(type='TAF', frames=[0, 1]),
    )
    made = conditions(attacks=chosen)
    norms = {key: each.cell.threat for key, each in made.items() if 'attack/' in key}
    assert norms == {
        'attack/pgd': 'linf',
        'attack/flicker': 'linf, shared=h w, frames=2',
        'attack/patch': f'linf, region={Mask(mask)}',
        'attack/taf': 'linf, frames=(0, 1)',
    }
    results = Robustness('m', 'c', 'p', 'w', 'd', ['a', 'b'])
    for condition in made.values():
        condition.cell.videos = []
        results.cells[condition.cell.key] = condition.cell
    results.save(tmp_path / 'r.json')
    cells = json.loads((tmp_path / 'r.json').read_text())['cells']
    kept = next(each['options'] for each in cells if each['name'] == 'patch')
    assert kept['region'] == mask.tolist()
    again = {name: value for name, value in kept.items() if name not in ('seed', 'threat')}
    assert conditions(attacks={'patch': again})['attack/patch'].cell.threat == norms['attack/patch']


def test_two_classes_refuse_what_compares_three() -> None:
    chosen = dict(
        dlr=dict(type='APGD', loss='dlr'),
        pgd=dict(type='PGD', loss='dlr'),
        ce=dict(type='APGD'),
        targeted=dict(type='APGDTargeted', loss='dlr'),
        taf=dict(type='TAF'),
    )
    made = conditions(attacks=chosen, curve='pgd', curve_eps=(1 / 255,))
    refused = {key for key, each in made.items() if each.refusal(2)}
    assert refused == {'attack/dlr', 'attack/pgd', 'curve/pgd/1/255'}
    assert not any(each.refusal(3) for each in made.values())


@pytest.mark.parametrize(
    ('attack', 'message'),
    [
        (
            dict(type='TAF', eps=dict(type='LinearEps', start=0, end=1, epochs=2)),
            r"attacks\['a'\]: eps=LinearEps.* one radius; write eps=8 / 255",
        ),
        (dict(type='TAF', shared='b'), r"attacks\['a'\]: shared=.* dict\(type='Universal'"),
        (dict(type='PGD', shared='b h w'), r"attacks\['a'\]: shared=.*type='Universal'"),
        (dict(type='PGD', frames=0), r"attacks\['a'\]: frames=0 must be how many"),
    ],
)
def test_what_cannot_be_measured_video_by_video_is_told(attack: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditions(attacks={'a': attack})


def test_a_file_that_is_written_anew_is_another_attack(tmp_path: Path) -> None:
    file = str(tmp_path / 'universal.pt')
    attacks = dict(uni=dict(type='Universal', file=file))
    made = []
    for number in (1, 2):
        UniversalPerturbation(torch.full((1, 3), 0.001 * number), 4 / 255, 'linf').save(file)
        made.append(cell('attack/uni', attacks=attacks))
    assert made[0].options['file'] == made[1].options['file'] == file
    assert made[0].condition != made[1].condition
    with pytest.raises(ValueError, match="attacks.'uni'.: eps=.* is not the ball .* write eps="):
        cell('attack/uni', attacks=attacks, eps=8 / 255)


def test_what_a_command_line_gives_is_taken_as_it_is_meant() -> None:
    text: dict[str, Any] = dict(
        corruptions='snow, jumble',
        severities='3',
        eps='4/255',
        curve_eps='[1/255, 8/255]',
        num_videos='10',
        attack_videos='2',
        seed='3',
        deepfool=dict(max_iter='5', overshoot='0.1'),
        attacks=dict(pgd=dict(type='pgd', steps='5', step_size='1/255', eps='2/255')),
    )
    numbers: dict[str, Any] = dict(
        severities=[3.0],
        curve_eps=(1 / 255, 8 / 255),
        seed=3,
        deepfool=dict(max_iter=5, overshoot=0.1),
        attacks=dict(pgd=dict(type=PGD, steps=5, step_size=1 / 255, eps=2 / 255)),
    )
    given, meant = (conditions(**options) for options in (text, numbers))
    assert list(given) == list(meant)
    for key in given:
        if 'pgd' not in key:
            assert given[key].cell == meant[key].cell, key
    options = given['attack/pgd'].cell.options
    assert options['eps'] == 2 / 255 and options['step_size'] == 1 / 255
    assert given['attack/pgd'].measure.args[0] == PGD(eps=2 / 255, steps=5, step_size=1 / 255)
    assert given['deepfool'].measure.args[0]['max_iter'] == 5
    assert list(conditions(severities=2, curve_eps=0.5, corruptions=['snow']))[1] == (
        'corruption/snow/2'
    )


class Mine(UniformNoise):
    """An attack of the user's own."""


@pytest.mark.parametrize(
    ('entry', 'kind', 'name'),
    [
        ('square', Square, 'square'),
        (Square, Square, 'Square'),
        (Square(eps=4 / 255, queries=7), Square, 'Square'),
        (dict(type=Square, queries=7), Square, 'Square'),
        (dict(type=Mine), Mine, f'{__name__}.Mine'),
        (dict(type=TAF), Recipe, 'TAF'),
        (TAF, Recipe, 'TAF'),
        (dict(type='ce_augmentation'), Recipe, 'ce_augmentation'),
    ],
)
def test_attacks_may_be_given_in_any_way(entry: Any, kind: type, name: str) -> None:
    made = conditions(attacks={'a': entry}, curve=None)['attack/a']
    assert type(made.measure.args[0]) is kind and made.cell.options['type'] == name
    assert made.measure.args[0].eps == made.cell.level == 4 / 255
    json.dumps(made.cell.options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(corruptions=['snw']), "'snw' is no corruption: write 'snow'"),
        (dict(corruptions=['snow/3']), 'is no corruption'),
        (dict(corruptions=['../snow']), 'is no corruption'),
        (dict(corruptions=['']), 'is no corruption'),
        (dict(corruptions=[3]), 'is no corruption'),
        (dict(corruptions=['snow'], severities=[]), ''),
        (dict(attention='no'), "attention='no' must be True or False"),
        (dict(fp16='False'), "fp16='False' must be"),
        (dict(corruptions=['snow', 'snow']), "corruptions has 'snow' twice"),
        (dict(severities=[0]), 'severities=0'),
        (dict(severities=[6]), 'severity=6 must be an integer from 1 to 5'),
        (dict(severities=[2.5]), 'severities=2.5'),
        (dict(severities=[True]), 'severities=True'),
        (dict(severities=['high']), "severities='high'"),
        (dict(severities=[3, '3']), 'severities has 3 twice'),
        (dict(eps=8), r"eps=8 is 8 times .* eps='8/255'"),
        (dict(eps='8'), 'eps=8 is 8 times'),
        (dict(eps=-0.1), 'eps=-0.1'),
        (dict(eps='four'), "eps='four'"),
        (dict(eps=float('nan')), 'eps=nan'),
        (dict(eps=True), 'eps=True'),
        (dict(eps=None), 'eps=None'),
        (dict(attacks=dict(a=dict(type='PGD', eps=2))), r"attacks\['a'\]: eps=2 is 2 times"),
        (dict(attacks=dict(a=dict(type='TAF', eps=4))), r"attacks\['a'\]: eps=4 is 4 times"),
        (dict(attacks=dict(a=dict(type='PGD', step_size='x'))), r"\['a'\]: step_size='x'"),
        (dict(attacks=dict(a=dict(type='PGDD'))), r"attacks\['a'\]: .*write 'PGD'"),
        (dict(attacks=dict(a=dict(type='PGD', step=3))), r"\['a'\]: .*no option step=.*steps"),
        (dict(attacks=dict(a=dict(type='PGD', steps=0))), r"\['a'\]: steps=0"),
        (dict(attacks=dict(a=dict(type='PGD', norm='l3'))), "norm='l3'"),
        (dict(attacks=dict(a=dict(type='TAF', step=3))), r"\['a'\]: .*no option step="),
        (dict(attacks=dict(a=dict(steps=3))), r"attacks\['a'\]"),
        (dict(attacks=dict(a=None)), r"attacks\['a'\]=None is no attack"),
        (dict(attacks={'a/b': 'PGD'}), "attacks has the name 'a/b'"),
        (dict(attacks={'': 'PGD'}), "attacks has the name ''"),
        (dict(attacks={1: 'PGD'}), 'attacks has the name 1'),
        (dict(attacks=['PGD']), 'attacks=.* must have names'),
        (dict(curve='pgdd'), "curve='pgdd' is none of the attacks; write curve='pgd'"),
        (dict(attacks={}, curve='apgd'), "curve='apgd' is none of the attacks; write curve=None"),
        (dict(curve_eps=[1 / 255, 8]), "curve_eps of 'pgd': eps=8 is 8 times"),
        (dict(curve_eps=['x']), "curve_eps='x'"),
        (dict(curve_eps=[1 / 255, '1/255']), 'curve_eps has .* twice'),
        (dict(deepfool=dict(maxiter=3)), 'deepfool has no option maxiter=; write max_iter'),
        (dict(deepfool=dict(max_iter=0)), 'max_iter'),
        (dict(deepfool=dict(max_iter='many')), "max_iter='many'"),
        (dict(deepfool=dict(overshoot=float('nan'))), 'overshoot=nan'),
        (dict(deepfool=True), 'deepfool=True must be a dict'),
        (dict(num_videos=0), 'num_videos=0'),
        (dict(attack_videos=-1), 'attack_videos=-1'),
        (dict(num_videos='ten'), "num_videos='ten'"),
        (dict(num_videos=True), 'num_videos=True'),
        (dict(seed=-1), 'seed=-1'),
        (dict(seed='x'), "seed='x'"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    if not message:
        assert not [key for key in conditions(**options) if 'corruption' in key]
        return
    with pytest.raises(ValueError, match=message):
        Plan(**{**DEFAULTS, **options})


def test_costs_are_those_of_the_attacks() -> None:
    made = conditions()
    assert made['attack/noise'].cost == 2 + 11
    assert made['attack/fgsm'].cost == 2 + 3
    assert made['attack/pgd'].cost == made['curve/pgd/8/255'].cost == 2 + 5 * (20 * 3 + 1)
    assert made['attack/square'].cost == 2 + 5001
    assert made['attack/cam'].cost == 2 + 31
    assert made['deepfool'].cost == 1 + 50 * 21


def test_a_plan_in_a_line() -> None:
    line = Plan(**DEFAULTS).describe()
    assert line == (
        'clean; 2 corruptions × 2 severities; 7 attacks at eps 4/255 (noise, fgsm, pgd, apgd_ce, '
        'apgd_dlr, square, cam); pgd at eps 1/255, 2/255, 8/255, 16/255; DeepFool; probes for the '
        'sanity flags'
    )


def test_other_attacks_without_a_curve_are_no_error():
    """The default curve is that of an attack that a choice of one's own need not have."""
    made = conditions(attacks=dict(fgsm=dict(type='FGSM')), curve='pgd')
    assert 'attack/fgsm' in made and not any(key.startswith('curve') for key in made)
