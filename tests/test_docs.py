"""The pages say what is true: links, lengths, files, options and blocks of code."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import Conv3dNet

import adv_plugins
from adv_plugins.core import adapter, recipe

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'mm_configs'
README = ROOT / 'README.md'
PAGES = sorted(
    page
    for folder in ('.github', 'adv_plugins', 'examples', 'mm_configs')
    for page in (ROOT / folder).rglob('*.md')
) + [README]
"""All pages; what runs leave in other folders is none of them."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    fenced: list[str] | None = None
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith('```') and fenced is None:
            language, begin, fenced = line[3:], number, []
        elif line.startswith('```'):
            yield Block(page, begin, language, '\n'.join(fenced))
            fenced = None
        elif fenced is not None:
            fenced.append(line)
    assert fenced is None, f'{page} ends within a block'


BLOCKS = [block for page in PAGES for block in blocks(page)]
BASH = [block for block in BLOCKS if block.language == 'bash']
PYTHON = [block for block in BLOCKS if block.language == 'python']


def is_config(block: Block) -> bool:
    """Whether a block is an mmengine config: it assigns values, and calls nothing but ``dict``."""
    tree = ast.parse(re.sub(r'\{\{.*?\}\}', '0', block.text))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return all(isinstance(node, ast.Assign) for node in tree.body) and all(
        isinstance(call.func, ast.Name) and call.func.id == 'dict' for call in calls
    )


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are not in a block, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        inside ^= line.startswith('```')
        if not inside and not line.startswith('```'):
            yield number, line


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = [line.lstrip('# ') for _, line in prose(page) if line.startswith('#')]
    return {re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-') for text in headings}


def expand(name: str) -> list[str]:
    """What a shell makes of the braces in a name."""
    parts = re.split(r'\{([^{}]*)\}', name)
    choices = [part.split(',') if k % 2 else [part] for k, part in enumerate(parts)]
    return [''.join(choice) for choice in itertools.product(*choices)]


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block, as lists of words."""
    for line in block.text.replace('\\\n', ' ').splitlines():
        for words in re.split(r'&&|;|\|', line):
            try:
                yield shlex.split(words, comments=True)
            except ValueError:
                # A quotation that holds one of the signs above.
                yield shlex.split(line, comments=True)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for number, line in prose(page):
        for target in re.findall(r'\]\(([^)]+)\)', line):
            if re.match(r'https?://', target):
                continue
            name, _, anchor = target.partition('#')
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f'{page}:{number}: {target}'
            assert not anchor or anchor in anchors(file), f'{page}:{number}: {target}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_are_short(page: Path) -> None:
    long = [
        f'{page}:{number}'
        for number, line in prose(page)
        if len(line) > 160 and line[0] not in '|!'
    ]
    assert not long


def test_the_front_page_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 250


def test_every_page_can_be_reached_from_the_front() -> None:
    found, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        if page in found or page.suffix != '.md':
            continue
        found.add(page)
        links = re.findall(r'\]\(([^)#]+)', page.read_text())
        waiting += [(page.parent / link).resolve() for link in links if '://' not in link]
    assert found == set(PAGES)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    names = re.findall(r'`([\w{},/.+-]+\.py)`', page.read_text())
    own = {'my_tsm.py', 'my_features.py'}  # The reader writes them.
    for name in itertools.chain.from_iterable(map(expand, set(names) - own)):
        folders = (ROOT, page.parent, CONFIGS, ROOT / 'adv_plugins')
        assert any((folder / name).exists() for folder in folders), name


@pytest.mark.parametrize('block', BASH, ids=str)
def test_commands_name_scripts_configs_and_options_that_exist(block: Block) -> None:
    for words in commands(block):
        for word in words:
            if word.startswith(('mm_configs/', 'examples/')):
                assert any(ROOT.glob(word)), word
        scripts = [word for word in words if word.startswith('examples/')]
        if scripts and 'python' in ' '.join(words):
            source = (ROOT / scripts[0]).read_text()
            for option in (word for word in words if word.startswith('--')):
                assert f"'{option}'" in source, f'{scripts[0]} {option}'


@pytest.mark.parametrize('block', [b for b in BASH if 'adv-plugins ' in b.text], ids=str)
def test_our_commands_are_understood(block: Block) -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    for words in commands(block):
        if words[:1] == ['adv-plugins']:
            parser = argparse.ArgumentParser()
            module = words[1].replace('-', '_')
            import_module(f'adv_plugins.commands.{module}').add_arguments(parser)
            parser.parse_args(words[2:])


def test_the_shell_can_read_every_block() -> None:
    for block in BASH:
        checked = subprocess.run(
            ['bash', '-n'], input=block.text, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, f'{block}: {checked.stderr}'


@pytest.mark.parametrize('block', [b for b in PYTHON if is_config(b)], ids=str)
def test_configs_can_be_read_and_their_parts_built(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from mmaction.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, VISUALIZERS
    from mmaction.utils import register_all_modules
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    Path('your_config.py').write_text("test_cfg = dict(type='TestLoop')\n")
    Path('path/to').mkdir(parents=True)
    Path('path/to/mm_configs').symlink_to(CONFIGS)
    Path('block.py').write_text(block.text)
    config = Config.fromfile('block.py')

    register_all_modules()
    for hook in config.get('custom_hooks', ()):
        HOOKS.build(hook)
    if 'model' in config:
        MODELS.build(config.model)
    for stage in ('train', 'val', 'test'):
        dataset = config.get(f'{stage}_dataloader', {}).get('dataset')
        assert dataset is None or DATASETS.get(dataset.type)
        loop = config.get(f'{stage}_cfg') or {}
        assert 'type' not in loop or LOOPS.get(loop['type'])
        metrics = config.get(f'{stage}_evaluator') or []
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            METRICS.build(metric)
        if stage == 'train' and 'pipeline.6.flip_ratio' in block.page.read_text() and dataset:
            assert dataset.pipeline[6].type == 'Flip'
    if 'visualizer' in config:
        assert VISUALIZERS.get(config.visualizer.type)


def test_the_config_for_own_features_is_the_file_that_is_tested() -> None:
    (printed,) = [block.text for block in PYTHON if "type='FeatureDataset'" in block.text]
    file = CONFIGS / 'aart/aart-transformer_1xb64_own-features.py'
    assert file.read_text().endswith(f'\n\n{printed}\n')


def given(tmp_path: Path) -> dict[str, Any]:
    """The names that blocks of code take for granted."""
    clips, labels = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    return dict(
        model=Conv3dNet(),
        images=clips,
        clips=clips,
        labels=labels,
        frames=np.zeros((4, 32, 32, 3), np.uint8),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        torch=torch,
        make_adversarial=adv_plugins.make_adversarial,
    )


def given_to_plain(names: dict[str, Any], tmp_path: Path) -> None:
    """A loop with mixed precision."""
    names['scaler'] = torch.amp.GradScaler('cpu')
    names['optimizer'] = torch.optim.SGD(names['model'].parameters(), lr=0.1)


def given_to_timm(names: dict[str, Any], tmp_path: Path) -> None:
    """timm's parts."""
    timm = pytest.importorskip('timm', reason='needs adv_plugins[trainers]')
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, NativeScaler

    names.update(timm=timm, create_optimizer_v2=create_optimizer_v2, ModelEmaV3=ModelEmaV3)
    names.update(scaler=NativeScaler(device='cpu'), images=torch.rand(4, 3, 32, 32))


def given_to_huggingface(names: dict[str, Any], tmp_path: Path) -> None:
    """A tiny VideoMAE in place of one from a hub."""
    transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=4,
    )  # fmt: skip
    model = transformers.VideoMAEForVideoClassification(config)
    video = {'pixel_values': torch.rand(4, 3, 32, 32), 'labels': 1}
    names.update(
        VideoMAEForVideoClassification=SimpleNamespace(from_pretrained=lambda name: model),
        name='tiny',
        processor=SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3),
        Trainer=transformers.Trainer,
        arguments=transformers.TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True
        ),
        clips=[video] * 4,
    )


def given_to_lightning(names: dict[str, Any], tmp_path: Path) -> None:
    """A module whose training step is the one of the block."""
    lightning = pytest.importorskip('lightning.pytorch', reason='needs adv_plugins[trainers]')

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Conv3dNet()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return names['training_step'](self, batch, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trainer(**options: Any) -> Any:
        return lightning.Trainer(
            max_steps=1, accelerator='cpu', logger=False, enable_checkpointing=False,
            enable_progress_bar=False, **options,
        )  # fmt: skip

    samples = torch.utils.data.TensorDataset(names['clips'], names['labels'])
    loader = torch.utils.data.DataLoader(samples, batch_size=4)
    names.update(Trainer=trainer, module=Module(), loader=loader)


def given_to_googlenet(names: dict[str, Any], tmp_path: Path) -> None:
    """A model with auxiliary heads."""
    torchvision = pytest.importorskip('torchvision', reason='needs adv_plugins[mmaction]')
    names['googlenet'] = torchvision.models.GoogLeNet(num_classes=5, init_weights=False)


def given_to_fsdp2(names: dict[str, Any], tmp_path: Path) -> None:
    """A model of blocks, and a stand-in for what shards it.

    After the real one torch refuses every backward in a forked process, as later tests have them.
    """
    model = Conv3dNet()
    model.blocks = model.layer4
    names.update(model=model, fully_shard=lambda module: module)


GIVEN = {
    'fully_shard': given_to_fsdp2,
    'googlenet': given_to_googlenet,
    'VideoMAEForVideoClassification': given_to_huggingface,
    'AdversarialCallback': given_to_lightning,
    'create_optimizer_v2': given_to_timm,
    'scaler.scale': given_to_plain,
}
"""What else a block takes for granted, by a word in it."""


@pytest.mark.parametrize('block', [b for b in PYTHON if not is_config(b)], ids=str)
@pytest.mark.filterwarnings('ignore:.*CUDA is not available')
def test_blocks_of_code_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Some blocks register parts of their own.
    monkeypatch.setattr(recipe, 'RECIPES', dict(recipe.RECIPES))
    monkeypatch.setattr(adapter, 'ADAPTERS', list(adapter.ADAPTERS))
    names = given(tmp_path)
    for word, add in GIVEN.items():
        if word in block.text:
            add(names, tmp_path)
    exec(compile(block.text, str(block), 'exec'), names)
