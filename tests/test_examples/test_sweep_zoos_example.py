"""The sweep over the zoos: a sample of its cases, what its checks catch, and how it is kept."""

import contextlib
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import Conv3dNet, default_tier
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import sweep_zoos  # noqa: E402
from sweep_zoos import Case  # noqa: E402
from zoos import checks  # noqa: E402
from zoos.entry import CLASSES, Entry  # noqa: E402

from adv_plugins.attention import AttentionMap  # noqa: E402

SAMPLE = {
    Case('timm', 'convnext', 'advprop'),
    Case('timm', 'levit', 'aart'),
    Case('timm', 'nest', 'aart'),
    Case('torchvision', 'squeezenet1_1', 'advprop'),
    Case('torchvision', 'swin3d', 'taf'),
    Case('transformers', 'videomae mean', 'taf'),
    Case('transformers', 'vivit', 'aart'),
    Case('transformers', 'poolformer', 'advprop'),
    Case('pytorchvideo', 'mvit', 'taf'),
    Case('mmaction2', 'stgcn', 'advprop'),
}
CASES = sweep_zoos.cases(sweep_zoos.installed(), '', sweep_zoos.RECIPES)


@pytest.mark.parametrize('case', default_tier(SAMPLE.__contains__, CASES), ids=' '.join)
@pytest.mark.filterwarnings('ignore')
def test_case(case):
    verdict, said = sweep_zoos.judge(case)
    if verdict == 'not judged':
        pytest.skip(said)
    assert verdict == 'passed' or verdict == 'clear error' and case not in SAMPLE, said


def test_the_sample_has_cases_of_every_recipe_and_zoo():
    assert {case for case in SAMPLE if case.zoo in sweep_zoos.installed()} <= set(CASES)
    assert {case.zoo for case in SAMPLE} == set(sweep_zoos.ZOOS)
    assert {case.recipe for case in SAMPLE} == set(sweep_zoos.RECIPES)


class Frozen(Conv3dNet):
    """The second sample of a batch does not reach the class scores."""

    def forward(self, x):
        keep = torch.ones(len(x), 1, 1, 1, 1)
        keep[1:] = 0
        return super().forward(x * keep)


class ChannelsLast(nn.Module):
    """Maps (B, T, H, W, C) from the layer ``norm``."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).movedim(1, -1)).relu().mean((1, 2, 3)))


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError(f'no weights for {tuple(x.shape)}; say which with loss_fn')


def tiny(build, *recipes, **options):
    return Entry(build, (3, 8, 16, 16), recipes, options=options)


def judged(monkeypatch, recipe, entry):
    monkeypatch.setattr(sweep_zoos, 'entries', lambda zoo: {'tiny': entry})
    return sweep_zoos.judge(Case('timm', 'tiny', recipe))


def test_a_right_model_passes(monkeypatch):
    assert judged(monkeypatch, 'advprop', tiny(Conv3dNet))[0] == 'passed'
    verdict, said = judged(monkeypatch, 'taf', tiny(Conv3dNet))
    assert verdict == 'passed' and said == "F' 8 x 16 x 16 at layer4"
    named = tiny(ChannelsLast, cam_layer='norm', cam_layout='b t h w c')
    assert judged(monkeypatch, 'taf', named) == ('passed', "F' 4 x 4 x 4 at norm")


@pytest.mark.parametrize('axes', [(1, 3), (1, 4), (3, 4)])
def test_swapped_axes_are_wrong(monkeypatch, axes):
    plain = checks.feature_map
    monkeypatch.setattr(checks, 'feature_map', lambda *given: plain(*given).transpose(*axes))
    with pytest.raises(checks.Wrong, match='a change along'):
        checks.taf(tiny(Conv3dNet))


def test_swapped_clips_are_wrong(monkeypatch):
    plain = checks.feature_map
    monkeypatch.setattr(checks, 'feature_map', lambda *given: plain(*given).flip(0))
    with pytest.raises(checks.Wrong, match="another clip's map moves"):
        checks.taf(tiny(Conv3dNet))


def test_a_sample_that_does_not_move_is_wrong(monkeypatch):
    for recipe in ('advprop', 'taf'):
        verdict, said = judged(monkeypatch, recipe, tiny(Frozen))
        assert verdict == 'wrong' and said.startswith('1 samples of the batch')


def test_another_clean_loss_is_wrong(monkeypatch):
    entry = tiny(
        Conv3dNet, loss_fn=lambda scores, target: 2 * nn.functional.nll_loss(scores, target)
    )
    verdict, said = judged(monkeypatch, 'advprop', entry)
    assert verdict == 'wrong' and 'the clean loss is' in said


def test_a_plain_model_that_fails_is_not_judged(monkeypatch):
    assert judged(monkeypatch, 'advprop', tiny(Broken))[0] == 'not judged'


@pytest.mark.parametrize(
    'error, verdict',
    [
        (ValueError("the layer is not known; name it with cam_layer='norm'"), 'clear error'),
        (TypeError('two scores; write loss_fn=lambda output, target: ...'), 'clear error'),
        (ValueError('shapes (2, 3) and (4, 5) do not match'), 'wrong'),
        (RuntimeError('write second_order=False'), 'wrong'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'not judged'),
        (MemoryError(), 'not judged'),
    ],
)
def test_an_error_is_clear_if_it_says_what_to_write(monkeypatch, error, verdict):
    def fail(entry):
        raise error

    monkeypatch.setitem(checks.CHECKS, 'advprop', fail)
    assert judged(monkeypatch, 'advprop', tiny(Conv3dNet))[0] == verdict


class Attention(nn.Module):
    """Four heads that attend within each of two windows."""

    num_heads = 4

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), 2, -1, 3, 4, 2).permute(3, 0, 1, 4, 2, 5)
        self.scores = (q @ k.transpose(-2, -1)).softmax(-1)
        return (self.scores @ v).transpose(2, 3).reshape(x.shape)


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, 8, 4, 4), Attention()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.attention(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    'read, error',
    [
        (lambda scores: scores.mean(2).flatten(0, 1), None),
        (lambda scores: scores.mean(1).flatten(0, 1), '4 heads are not averaged'),
        (lambda scores: scores.mean(2).transpose(0, 1).flatten(0, 1), "another's maps"),
        (lambda scores: 2 * scores.mean(2).flatten(0, 1), 'do not sum to 1'),
        (lambda scores: scores.mean(2).mean(0, keepdim=True).expand(2, -1, -1, -1), "another's"),
    ],
)
def test_maps_that_are_read_along_a_wrong_axis_are_wrong(monkeypatch, read, error):
    @contextlib.contextmanager
    def capture(model):
        found = []
        yield found
        weights = read(model.attention.scores)
        found.append(AttentionMap('attention', weights.flatten(0, -3)))

    monkeypatch.setattr(checks, 'capture_attention', capture)
    entry = Entry(Windows, (3, 32, 32), ('aart',))
    if error is None:
        assert checks.aart(entry).startswith('1 maps')
    else:
        with pytest.raises(checks.Wrong, match=error):
            checks.aart(entry)


def test_finished_cases_are_kept_and_the_table_counts(tmp_path, monkeypatch, capsys):
    entry, tried = tiny(Conv3dNet, 'advprop', 'taf'), []
    verdicts = {'a': 'passed', 'b': 'wrong', 'c': 'clear error'}

    def apart(case, seconds):
        tried.append(case.model)
        said = f'what was {verdicts[case.model]}'
        return {**case._asdict(), 'verdict': verdicts[case.model], 'said': said, 'seconds': 1.0}

    monkeypatch.setattr(sweep_zoos, 'entries', lambda zoo: dict.fromkeys('abc', entry))
    monkeypatch.setattr(sweep_zoos, 'judge_apart', apart)
    out = tmp_path / 'new/sweep.jsonl'
    arguments = ['--zoos', 'torchvision', '--recipes', 'advprop', '--out', str(out)]
    sweep_zoos.main([*arguments, '--models', 'a'])
    assert json.loads(out.read_text())['verdict'] == 'passed' and tried == ['a']
    # What an interrupted run has left of a line is dropped, and its case is tried again.
    out.write_text(out.read_text() + out.read_text()[:20])
    capsys.readouterr()
    sweep_zoos.main(arguments)
    assert tried == ['a', 'b', 'c']
    assert [json.loads(line)['model'] for line in out.read_text().splitlines()] == ['a', 'b', 'c']
    printed = capsys.readouterr().out
    assert '| torchvision | advprop | 3 | 1 | 1 | 1 | 0 |' in printed and '| taf |' not in printed
    assert '- wrong: torchvision b advprop: what was wrong' in printed
    sweep_zoos.main(arguments)
    assert tried == ['a', 'b', 'c']
    sweep_zoos.main([*arguments, '--list', '--models', 'b'])
    assert capsys.readouterr().out.endswith('\ntorchvision b advprop\n')


@pytest.mark.exhaustive
def test_a_process_of_its_own(tmp_path):
    case = Case('torchvision', 'squeezenet1_1', 'advprop')
    result = sweep_zoos.judge_apart(case, 120)
    assert result['verdict'] == 'passed' and result['said'].startswith('loss')
    result = sweep_zoos.judge_apart(case, 0.1)
    assert result['verdict'] == 'not judged' and 'did not end in 0.1 s' in result['said']
