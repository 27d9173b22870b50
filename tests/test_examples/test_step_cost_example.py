"""The benchmark of the step, end to end on models of no size."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from helpers import build_recognizer, data_samples, slowonly_config  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/benchmarks'))

import step_cases  # noqa: E402
import step_cost  # noqa: E402
import step_measures  # noqa: E402

from adv_plugins import TAF, CEAugmentation  # noqa: E402

TINY = dict(tsm=(2, 8, 32), slowonly=(2, 4, 32), videomae=(1, 4, 32), feature=(2, 8))


def narrow(batch, frames, pixels):
    clips = torch.randn(batch, 1, 3, frames, pixels, pixels)
    model, samples = build_recognizer(slowonly_config()), data_samples(range(batch))
    recipes = {'TAF, K=1': TAF(), 'CE, K=1': CEAugmentation()}
    layer = 'backbone.layer1.0.conv2.conv'
    return step_cases.Case('SlowOnly', model, clips, samples, layer, recipes)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setitem(step_cases.SIZES, 'small', TINY)
    monkeypatch.setitem(step_cases.CASES, 'slowonly', narrow)
    arguments = ['--models', 'slowonly', '--size', 'small', '--device', 'cpu', '--repeats', '2']
    step_cost.main([*arguments, '--cpu-time', '--out', str(tmp_path)])
    return json.loads((tmp_path / 'step_cost.json').read_text()), tmp_path / 'step_cost.md'


def test_the_table(results):
    found, page = results
    steps = found['models']['slowonly']['steps']
    works = {name: tuple(row['work'].values()) for name, row in steps.items()}
    assert works['forward'] == (1, 0, 0)
    assert works['forward + input gradient'] == (1, 1, 0)
    assert works['clean step'] == works['inactive recipe'] == (1, 1, 1)
    assert works['TAF, K=1'] == tuple(steps['TAF, K=1']['floor'].values()) == (2, 3, 2)
    assert works['CE, K=1'] == (2, 2, 2)
    # The others start each attack with a forward of its own, some with all gradients.
    assert works['separate attack, K=1'] == (3, 3, 2)
    assert works['`.backward()` attack, K=5'] == (7, 7, 7)
    assert works['separate attack, K=1, concatenated batch'] == (2, 2, 1)
    assert ('torchattacks, K=5' in works) == step_cases.has_torchattacks()
    assert works.get('torchattacks, K=5', (7, 7, 2)) == (7, 7, 2)
    for name, row in steps.items():
        assert len(row['all_seconds']) == 2 and row['seconds'] > 0, name
        first, third = row['quartiles']
        assert first <= row['to_clean'] <= third, name
    assert steps['clean step']['to_clean'] == steps['clean step']['peak_to_clean'] == 1
    assert steps['TAF, K=1']['saved_to_clean'] < 1.15
    assert steps['separate attack, K=1']['saved_to_clean'] > 1.8
    text = page.read_text()
    assert '| TAF, K=1 |' in text and f'torch {torch.__version__}' in text


BUILDERS = {
    **step_cases.CASES,
    'plain tsm': step_cases.plain_tsm,
    'huggingface videomae': step_cases.huggingface_videomae,
}


@pytest.mark.parametrize('name', BUILDERS)
def test_the_models(name):
    """Each is fed what it takes, and the layer that is counted at is there."""
    if 'huggingface' in name:
        pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
    size = TINY[name.split()[-1]]
    case = step_cases.build_case(BUILDERS[name], size, torch.device('cpu'))
    with step_measures.LayerCounter(case.model.get_submodule(case.layer).weight) as counter:
        case.loss(case.model, case.inputs, case.samples).backward()
    assert counter.work == (1, 1, 1)
    assert case.shared_copy().state_dict().keys() == case.model.state_dict().keys()
    assert next(case.shared_copy().parameters()) is next(case.model.parameters())


def test_the_machine_and_the_floor():
    machine = step_measures.describe_machine(torch.device('cpu'))
    assert machine['torch'] == torch.__version__ and machine['cpu']
    # Work that takes 1 s a forward, 2 s a gradient by the data and 4 s one by the weights.
    assert step_measures.Work(2, 3, 2).seconds(1.0, 3.0, 7.0) == 2 + 6 + 8


def test_live_bytes_are_those_of_tensors_made_inside():
    before = torch.zeros(1000)
    with step_measures.LiveBytes() as live:
        one = before + 1
        one.add_(1)
        view = one[:10]
        del one
        two = view + 1
        del view
        torch.zeros(100)
    assert live.peak == 4 * 1010
    del two


def test_saved_bytes_count_a_storage_once_and_no_parameter():
    layer = torch.nn.Linear(10, 10)
    x = torch.randn(5, 10)
    with step_measures.SavedBytes(layer) as saved:
        layer(x).sum().backward()
        layer(layer(x)).sum().backward()
    assert saved.peak == 4 * 50 * 2
