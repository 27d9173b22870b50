"""The check of a GPU, end to end on the CPU: it finds what is right, and what is planted."""

import contextlib
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers import Conv3dNet, default_tier

from adv_plugins import TAF, CEAugmentation
from adv_plugins.core import step as core_step
from adv_plugins.core import threat

BENCHMARKS = Path(__file__).resolve().parents[2] / 'examples/benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import gpu_check  # noqa: E402
import gpu_checks  # noqa: E402
import step_cases  # noqa: E402
from gpu_checks import CHECKS, Finding, LeftOut  # noqa: E402

CPU = torch.device('cpu')
SOME = ('A-ART, float32 against float64', 'resumed after two of four steps', 'channels last')
HERE = [name for name in CHECKS if name != 'FSDP2']
LAST = 'adversarial weight 0 against the plain model'


def check(name, deadline=math.inf):
    return gpu_check.run_check(name, CHECKS[name], CPU, deadline)


@pytest.mark.exhaustive
def test_the_check_of_fsdp2_passes():
    """In a process of its own: after fully_shard torch refuses a backward in forked processes."""
    code = 'import torch, gpu_check as g; device = torch.device("cpu"); '
    code += 'print(g.run_check("FSDP2", g.CHECKS["FSDP2"], device, float("inf")).row)'
    run = subprocess.run([sys.executable, '-c', code], cwd=BENCHMARKS, capture_output=True)
    assert b'| FSDP2 | ok |' in run.stdout, run


@pytest.mark.parametrize('name', default_tier(lambda name: name in SOME, HERE))
def test_the_checks_pass(name):
    found = check(name)
    for_gpus = any(told in found.text for told in ('GPUs only', 'no cuDNN'))
    assert found.outcome == ('left out' if for_gpus else 'ok'), found.row
    assert found.findings or for_gpus


def _of_other_weight(net, recipe, device, dtype=torch.float32, build=gpu_checks.build):
    other = recipe if dtype is torch.float32 else CEAugmentation(alpha=0.699)
    return build(net, other, device, dtype)


def _contiguous(run, perturbed=gpu_checks.Run.perturbed):
    return perturbed(run).contiguous()


def _nothing(*_):
    pass


def _no_stream(*_):
    return contextlib.nullcontext()


def _larger(delta, *_, **__):
    return 2 * delta


@pytest.mark.parametrize(
    ('name', 'module', 'attribute', 'planted', 'seen'),
    [
        ('CE, K=1, float32 against float64', gpu_checks, 'build', _of_other_weight, 'losses'),
        ('inputs and net in bfloat16', threat, 'project', _larger, 'size / ε, linf'),
        (SOME[1], gpu_checks, 'load_adversarial_state_dict', _nothing, 'tensors that differ'),
        (SOME[2], gpu_checks.Run, 'perturbed', _contiguous, 'format lost'),
        (LAST, core_step, 'private_random', _no_stream, 'generators that differ'),
    ],
)
def test_a_fault_is_found(name, module, attribute, planted, seen, monkeypatch):
    monkeypatch.setattr(module, attribute, planted)
    found = check(name)
    assert found.outcome == 'failed' and not found.text
    assert seen in [what for what, figure, limit in found.findings if figure > limit]


def test_distances():
    right = {'a': torch.tensor([3.0, 4.0]), 'tiny': torch.tensor([1e-9])}
    assert gpu_checks.distance(right, right) == 0
    moved = {'a': torch.tensor([3.0, 4.5]), 'tiny': torch.tensor([2e-9])}
    assert gpu_checks.distance(moved, right) == pytest.approx(0.1)
    assert gpu_checks.distance({'a': right['a']}, right) == math.inf
    assert math.isnan(gpu_checks.distance({**right, 'a': right['a'] * math.nan}, right))


def planted(kind):
    def run(device):
        yield Finding('first', 0.5, 1)
        if kind is LeftOut:
            raise LeftOut('no such thing')
        if kind is OSError:
            raise OSError('two\nlines | here')
        yield Finding('second', math.nan, 1)

    return run


def narrow(batch, frames, pixels):
    if batch > 1:
        raise torch.OutOfMemoryError('too large')
    clips, labels = torch.rand(2, 3, 4, 8, 8), list(torch.tensor([0, 1]))
    recipes = {'TAF, K=1': TAF(), 'CE, K=1': CEAugmentation(), 'broken': TAF(cam_layer='fc')}
    options = dict(mean=0.5, std=0.25)
    return step_cases.Case(
        'Small', Conv3dNet().train(), clips, labels, 'layer4.0', recipes,
        step_cases.classifier_loss, options,
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu_check, 'MODELS', ('tsm',))
    monkeypatch.setattr(gpu_check, 'ROUNDS', 2)
    monkeypatch.setitem(step_cases.SIZES, 'small', dict(tsm=(4, 4, 8)))
    monkeypatch.setitem(step_cases.CASES, 'tsm', narrow)
    monkeypatch.setattr(gpu_check, 'CHECKS', {})


def test_the_whole(small, tmp_path, monkeypatch, capsys):
    checks = {
        'good': CHECKS['TAF, K=1, float32 against float64'],
        'raises': planted(OSError),
        'left': planted(LeftOut),
        'no number': planted(None),
    }
    monkeypatch.setattr(gpu_check, 'CHECKS', checks)
    file = tmp_path / 'new' / 'found.json'
    assert gpu_check.main(['--device', 'cpu', '--out', str(file)]) == 1
    results, page = json.loads(file.read_text()), capsys.readouterr().out
    outcomes = {each['name']: each['outcome'] for each in results['checks']}
    assert outcomes == dict(good='ok', raises='failed', left='left out', **{'no number': 'failed'})
    assert '| raises | failed | first 0.5 (1) | OSError: two lines \\| here |' in page
    assert '| left | left out | first 0.5 (1) | no such thing |' in page
    assert 'Checks: 1 ok, 2 failed, 1 left out.' in page
    assert f'torch {torch.__version__}' in page and '--device cpu' in page

    model = results['models']['tsm']
    assert model['notes'][:2] == [f'a batch of {n} did not fit into the memory' for n in (4, 2)]
    assert model['size'] == 'batch 1, frames 4, pixels 8'
    assert "cam_layer='fc'" in model['failed']['broken'] and 'Failed: broken: ' in page
    works = {name: tuple(row['work'].values()) for name, row in model['steps'].items()}
    assert works['clean step'] == works['inactive recipe'] == (1, 1, 1)
    assert works['TAF, K=1'] == tuple(model['steps']['TAF, K=1']['floor'].values()) == (2, 3, 2)
    assert works['CE, K=1'] == (2, 2, 2) and works['`.backward()` attack, K=5'] == (7, 7, 7)
    assert all(len(row['all_seconds']) == 2 for row in model['steps'].values())
    assert '| TAF, K=1 |' in page


def test_when_the_time_is_up(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, 'CHECKS', {'late': planted(None)})
    assert gpu_check.main(['--device', 'cpu', '--minutes', '0', '--out', str(tmp_path / 'x')]) == 0
    page = capsys.readouterr().out
    assert '| late | left out |  | the time is up |' in page
    assert 'the time was up before: inactive recipe; TAF, K=1; ' in page
    assert '| clean step |' in page and '| TAF, K=1 |' not in page


@pytest.mark.parametrize(
    ('error', 'status', 'told'),
    [
        (ModuleNotFoundError('no transformers'), 0, 'tsm is left out: no transformers'),
        (RuntimeError('no weights'), 1, 'Failed: tsm: RuntimeError: no weights'),
    ],
)
def test_a_model_that_cannot_be_built(error, status, told, small, tmp_path, monkeypatch, capsys):
    def build(*_):
        raise error

    monkeypatch.setitem(step_cases.CASES, 'tsm', build)
    arguments = ['--device', 'cpu', '--out', str(tmp_path / 'found.json')]
    assert gpu_check.main(arguments) == status
    assert told in capsys.readouterr().out


def test_without_mmaction2(monkeypatch):
    """The nets are built without it, and the page says so."""
    monkeypatch.setattr(gpu_check, 'find_spec', lambda name: None)
    assert any('plain PyTorch' in told for told in gpu_check.left_out())
    monkeypatch.setattr(step_cases.importlib.util, 'find_spec', lambda name: None)
    case = step_cases.build_case(step_cases.CASES['tsm'], (1, 8, 32), CPU)
    assert case.title == 'TSM-R50 in plain PyTorch'
    with warnings.catch_warnings():
        # The CAM layer is found where it is looked for.
        warnings.simplefilter('error')
        step_cases.adversarial_step(case, case.recipes['TAF, K=1'])()
    assert case.model.layer1[0].conv2.weight.grad.abs().sum() > 0


def test_a_check_that_is_late_is_not_begun():
    assert check(SOME[0], deadline=time.monotonic() - 1).text == 'the time is up'
