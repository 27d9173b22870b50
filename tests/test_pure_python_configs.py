"""mmengine's pure-Python configs, which import what they name and write it as dotted names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import runner_config, slowonly_config

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config
from mmengine.runner import Runner

from adv_plugins import AdvProp, Recipe, TemporalCAM, TrainingLoss
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.recipe import build_recipe
from adv_plugins.evaluation import PGD, build_attack
from adv_plugins.hooks import TAFHook

IMPORTS = """
from adv_plugins import AdvProp, AttentionFrobenius, Recipe, TemporalCAM, TrainingLoss, recipes
from adv_plugins.datasets import VideoCorruption
from adv_plugins.evaluation import PGD, AdversarialTestLoop
from adv_plugins.hooks import AdversarialHook, TAFHook
from adv_plugins.models import AdversarialModel
"""


def config_file(folder: Path, text: str) -> str:
    (folder / 'config.py').write_text(IMPORTS + text)
    return str(folder / 'config.py')


def reloaded(config: Config, folder: Path) -> Config:
    """What mmengine wrote into the work dir, read again."""
    config.dump(str(folder / 'dumped.py'))
    return Config.fromfile(str(folder / 'dumped.py'))


def test_parts_are_named_by_themselves_and_in_the_dumped_copy_by_dotted_names(tmp_path):
    config = Config.fromfile(
        config_file(
            tmp_path,
            """
taf = dict(type=recipes.TAF, alpha=0.5)
own = dict(
    type=Recipe, eps=0.1, objective=TrainingLoss, regularizers=[AttentionFrobenius, ])
nested = dict(type='recipe', eps=0.1, objective=dict(type=TemporalCAM, num_frames=2))
bare = AdvProp
attack = dict(type=PGD, eps=0.1)
step = dict(type=VideoCorruption, corruption='fog', severity=2)
""",
        )
    )
    for each in (config, reloaded(config, tmp_path)):
        assert build_recipe(each.taf).clean_weight == 0.5
        own = build_recipe(each.own)
        assert own.objective == TrainingLoss() and len(own.regularizers) == 1
        expected = Recipe(eps=0.1, objective=TemporalCAM(num_frames=2))
        assert build_recipe(each.nested) == expected
        assert build_recipe(each.bare) == AdvProp()
        assert build_attack(each.attack) == PGD(eps=0.1)
    assert 'adv_plugins.recipes.TAF' in (tmp_path / 'dumped.py').read_text()


@pytest.mark.parametrize('entry', ['hook', 'model'])
def test_a_run_and_its_resumption_from_the_dumped_copy(tmp_path, entry):
    hook = 'dict(type=TAFHook, alpha=0.5)'
    model = repr(slowonly_config())
    if entry == 'model':
        model = f'dict(type=AdversarialModel, model={model}, recipe=dict(type=recipes.TAF))'
        hook = 'dict(type=AdversarialHook)'
    written = Config.fromfile(config_file(tmp_path, f'model = {model}\ncustom_hooks = [{hook}]\n'))
    plain = runner_config(tmp_path / 'run', max_epochs=1, log_level='ERROR')
    config = Config({**plain, 'model': written.model, 'custom_hooks': written.custom_hooks})
    Runner.from_cfg(config).train()
    (dumped,) = (tmp_path / 'run').glob('*.py')
    again = Config.fromfile(str(dumped))
    again.train_cfg.max_epochs = 2
    again.resume = True
    again.experiment_name += 'again'
    runner = Runner.from_cfg(again)
    if entry == 'hook':
        assert any(type(each) is TAFHook for each in runner.hooks)
    runner.train()
    assert runner.iter == 4
    assert get_adversary(runner.model).schedule.adversarial_steps == 2
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=True)
    assert 'adversarial' in saved and saved['meta']['iter'] == 4


def test_the_line_that_imports_the_package(tmp_path):
    """mmengine turns an import into a stand-in, and reads no custom_imports beside one."""
    hook = "from mmengine.hooks import EMAHook\ncustom_hooks = [dict(type='TAFHook')]\n"
    works, lazy = tmp_path / 'works.py', tmp_path / 'lazy.py'
    works.write_text(hook + "__import__('adv_plugins')\n")
    lazy.write_text(hook + "import adv_plugins\ncustom_imports = dict(imports=['adv_plugins'])\n")
    code = f"""
import sys
from mmengine.config import Config
Config.fromfile({str(lazy)!r})
assert 'adv_plugins' not in sys.modules
config = Config.fromfile({str(works)!r})
assert 'adv_plugins' in sys.modules
from mmengine.registry import HOOKS
assert HOOKS.build(config.custom_hooks[0]).recipe.name == 'TAF'
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
