"""TAF, CEAugmentation and AdvProp on every recognition family of MMAction2, at a small size."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from helpers import data_samples, default_tier
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config

from adv_plugins import AdvProp, CEAugmentation, make_adversarial, remove_adversarial
from adv_plugins.adapters import cam_layers
from adv_plugins.adapters.cam_layers import find_cam_layer
from adv_plugins.core.conversion import get_adversary
from adv_plugins.recipes import TAF

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'examples'))

from zoos.mmaction_families import CONFIGS, FAMILIES, build, losses_of  # noqa: E402

PAGE = Path(__file__).resolve().parents[1] / 'adv_plugins/adapters/README.md'
RECIPES = {
    'TAF': TAF(eps=8 / 255, step_size=8 / 255),
    'CEAugmentation': CEAugmentation(eps=8 / 255, step_size=8 / 255),
    'AdvProp': AdvProp(steps=1, step_size=4 / 255),
}


# TAF asks for more than the others: a layer, its axes, and a second derivative of the head. They
# follow on one family of each kind, and late on the rest but C3D, whose forwards take seconds.
KINDS = ('tsm', 'slowonly', 'videomaev2', 'omnisource')
# Of these dear ones the default tests look at the layer alone; each has a cheaper relative.
DEAR = (
    'c3d',
    'csn',
    'r2plus1d',
    'timesformer joint',
    'timesformer space only',
    'tpn slowonly',
    'uniformerv2 large',
)
CASES = default_tier(
    lambda case: case[0] not in DEAR if case[1:] == ('TAF',) else case[0] in KINDS,
    [
        *((name, 'TAF') for name in FAMILIES),
        *((name, 'CEAugmentation', 'AdvProp') for name in FAMILIES if name != 'c3d'),
    ],
)


@pytest.mark.parametrize('name', FAMILIES)
def test_the_page_of_models_names_the_layer_of_every_family(name):
    config = Config.fromfile(CONFIGS / f'{FAMILIES[name].config}.py')
    known = cam_layers.FAMILIES.get(config.model.backbone.type)
    # In a list -1 is the last entry, whatever its number.
    layer = FAMILIES[name].layer if known is None else known[0]
    (row,) = [line for line in PAGE.read_text().splitlines() if f'`backbone.{layer}`' in line]
    said = row.lower().replace('+', 'plus')
    for sign in '() ':
        said = said.replace(sign, '')
    assert name.split()[0] in said


def batch(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, list]:
    """A batch as it leaves the model's own data preprocessor."""
    clips = list(torch.randint(256, shape, dtype=torch.uint8))
    data = dict(inputs=clips, data_samples=data_samples([1, 4]))
    data = model.data_preprocessor(data, training=True)
    return data['inputs'], data['data_samples']


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('name', DEAR)
def test_layer_of_a_dear_family(name):
    assert find_cam_layer(build(FAMILIES[name])) == f'backbone.{FAMILIES[name].layer}'


@pytest.mark.parametrize('case', CASES, ids='-'.join)
@pytest.mark.filterwarnings('ignore:.*has no batch normalisation')
def test_family(case):
    name, *recipes = case
    family = FAMILIES[name]
    if family.needs and importlib.util.find_spec(family.needs) is None:
        pytest.skip(f'needs {family.needs}')
    plain = build(family)
    assert find_cam_layer(plain) == f'backbone.{family.layer}'
    inputs, samples = batch(plain, family.shape)
    before = copy.deepcopy(plain.state_dict())

    torch.manual_seed(1)
    total(losses_of(plain, inputs, samples)).backward()
    reached = {n for n, value in plain.named_parameters() if value.grad is not None}
    after = copy.deepcopy(plain.state_dict())

    for recipe in map(RECIPES.get, recipes):
        plain.load_state_dict(before)
        model = make_adversarial(plain, recipe)
        model.zero_grad()
        torch.manual_seed(1)
        losses = losses_of(model, inputs, samples)
        assert any(key.startswith('adv_loss') for key in losses)
        assert all(value.isfinite().all() for value in losses.values())
        total(losses).backward()
        assert reached == {n for n, value in model.named_parameters() if value.grad is not None} - {
            n for n, _ in model.named_parameters() if '.adv_' in n
        }

        state = model.state_dict()
        statistics = [n for n in state if n.endswith(('running_mean', 'running_var', 'tracked'))]
        assert all(torch.equal(state[n], after[n]) for n in statistics), 'clean statistics moved'
        adversary = get_adversary(model)
        means = [b for n, b in model.named_buffers() if n.endswith('adv_running_mean')]
        assert bool(means) == bool(statistics) and (not means or any(b.any() for b in means))

        moved = model.perturb(inputs, samples) - inputs
        std = model.data_preprocessor.std.min()
        assert 0 < moved.abs().max() <= recipe.eps * 255 / std * (1 + 1e-5)
        assert moved.flatten(1).any(dim=1).all(), 'every clip is attacked'
        assert adversary.schedule.adversarial_steps >= 1

        torch.optim.SGD(model.parameters(), lr=0.01).step()
        state = remove_adversarial(model).state_dict()
        changed = [n for n in reached if not torch.equal(state[n], before[n])]
        assert len(changed) > 0.9 * len(reached)
        build(family).load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    'name',
    default_tier(
        ['swin', 'uniformer'].__contains__,
        ['mvit', 'swin', 'timesformer joint', 'uniformer', 'videomaev2'],
    ),
)
def test_dual_layer_norms(name):
    """Every LayerNorm has entries for the adversarial path, which that path alone trains."""
    plain = build(FAMILIES[name])
    keys = list(plain.state_dict())
    norms = [n for n, module in plain.named_modules() if isinstance(module, nn.LayerNorm)]
    batch_norms = any('running_mean' in key for key in keys)
    recipe = TAF(eps=8 / 255, step_size=8 / 255, dual_ln=True, dual_bn=batch_norms)
    model = make_adversarial(plain, recipe)
    assert list(model.state_dict()) == keys
    parameters = dict(model.named_parameters())
    for clean_weight in (True, False):
        model.zero_grad()
        losses = losses_of(model, *batch(model, FAMILIES[name].shape))
        wanted = [k for k in losses if 'loss' in k and k.startswith('adv_') != clean_weight]
        sum(losses[key] for key in wanted).backward()
        for norm in norms:
            clean, adv = (parameters[f'{norm}.{prefix}weight'].grad for prefix in ('', 'adv_'))
            mine, other = (clean, adv) if clean_weight else (adv, clean)
            assert mine.any() and (other is None or not other.any()), norm
    remove_adversarial(model)
    assert list(model.state_dict()) == keys
