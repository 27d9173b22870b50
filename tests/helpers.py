"""Small models, configs and comparisons that the tests share."""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode

import adv_plugins  # noqa: F401 (patches MMAction2 before its first import)
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary

NUM_CLASSES = 6
MEAN = [123.675, 116.28, 103.53]
STD = [58.395, 57.12, 57.375]


def default_tier(choose: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Values of a parameter, of which those that are not chosen wait for ``-m exhaustive``."""
    late = pytest.mark.exhaustive
    return [value if choose(value) else pytest.param(value, marks=late) for value in values]


class Conv3dNet(nn.Module):
    """A tiny plain video classifier over (B, 3, T, H, W), with batch norm and dropout."""

    def __init__(self, num_classes: int = NUM_CLASSES, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(8)
        self.layer4 = nn.Sequential(
            nn.Conv3d(8, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.bn1(self.stem(x)).relu())
        return self.fc(self.dropout(x.mean(dim=(2, 3, 4))))


def looked_at(model: nn.Module, inputs: Any, target: Any) -> nn.Module:
    """A converted model that has found what its recipe reads, as it does at its first batch."""
    get_adversary(model).examine(Batch(inputs), target)
    return model


class ConvCounter(TorchDispatchMode):
    """Counts the forwards and backwards of the convolutions with weights of one shape."""

    def __init__(self, weight_shape):
        super().__init__()
        self.weight_shape = weight_shape
        self.forwards = self.input_only = self.full = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name == 'aten::convolution' and args[1].shape == self.weight_shape:
            self.forwards += 1
        if name == 'aten::convolution_backward' and args[2].shape == self.weight_shape:
            wants_weight = args[-1][1]
            self.full += wants_weight
            self.input_only += not wants_weight
        return func(*args, **(kwargs or {}))


def tsm_config(
    depth: int = 18, num_segments: int = 4, dropout: float = 0.5, **backbone: Any
) -> dict:
    """A small stock TSM recognizer."""
    return dict(
        type='Recognizer2D',
        backbone=dict(
            type='ResNetTSM',
            depth=depth,
            pretrained=None,
            pretrained2d=False,
            norm_eval=False,
            num_segments=num_segments,
            shift_div=8,
            **backbone,
        ),
        cls_head=dict(
            type='TSMHead',
            num_classes=NUM_CLASSES,
            in_channels=512 if depth < 50 else 2048,
            num_segments=num_segments,
            spatial_type='avg',
            dropout_ratio=dropout,
            average_clips='prob',
        ),
        data_preprocessor=dict(
            type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='NCHW'
        ),
    )


def slowonly_config() -> dict:
    """A small stock 3-D recognizer.

    It has no dropout: mmengine's own resume does not restore the random stream.
    """
    return dict(
        type='Recognizer3D',
        backbone=dict(
            type='ResNet3dSlowOnly',
            depth=18,
            pretrained=None,
            base_channels=8,
            conv1_kernel=(1, 7, 7),
            conv1_stride_t=1,
            pool1_stride_t=1,
            inflate=(0, 0, 1, 1),
            norm_eval=False,
            # Blocks that start as the identity would hide half of the layers from the loss.
            zero_init_residual=False,
        ),
        cls_head=dict(
            type='I3DHead',
            num_classes=NUM_CLASSES,
            in_channels=64,
            spatial_type='avg',
            dropout_ratio=0.0,
            average_clips='prob',
        ),
        data_preprocessor=dict(
            type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='NCTHW'
        ),
    )


def build_recognizer(config: dict) -> nn.Module:
    """A stock recognizer in training mode."""
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    import mmaction.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    return MODELS.build(copy.deepcopy(config)).train()


def data_samples(labels: Any) -> list:
    """Data samples as the stock pipelines pack them."""
    from mmaction.structures import ActionDataSample

    return [ActionDataSample().set_gt_label(int(label)) for label in labels]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that must not change behind the caller's back."""
    return {
        'training': [module.training for module in model.modules()],
        'requires_grad': [value.requires_grad for value in model.parameters()],
        'grad': [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        'state': [value.clone() for value in model.state_dict(keep_vars=False).values()],
        'auxiliary': [
            value.detach().clone()
            for name, value in [*model.named_buffers(), *model.named_parameters()]
            if 'adv_' in name
        ],
        'hooks': [
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        ],
        'rng': torch.get_rng_state(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare two snapshots bit for bit."""
    for key, old in before.items():
        new = after[key]
        if isinstance(old, Tensor):
            assert torch.equal(old, new), key
            continue
        assert len(old) == len(new), key
        for a, b in zip(old, new, strict=True):
            same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
            assert same, key


class Clips(torch.utils.data.Dataset):
    """A few fixed clips of random pixels, as the stock pipelines pack them."""

    metainfo: dict[str, Any] = {}

    def __init__(self, format_shape: str = 'NCTHW', size: int = 8) -> None:
        self.format_shape, self.size = format_shape, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        frames = torch.randint(256, (4, 3, 32, 32), generator=generator).float()
        inputs = frames if self.format_shape == 'NCHW' else frames.transpose(0, 1)[None]
        return dict(inputs=inputs, data_samples=data_samples([index % NUM_CLASSES])[0])


def clips_loader(model: dict) -> dict:
    """Batches of four clips in the format of a recognizer, always in the same order."""
    recognizer = model['model'] if model['type'] == 'AdversarialModel' else model
    format_shape = recognizer.get('data_preprocessor', {}).get('format_shape', 'NCTHW')
    return dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='Clips', format_shape=format_shape, _scope_='mmengine'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )


def runner_config(
    work_dir: Any, max_epochs: int = 2, model: dict | None = None, **changes: Any
) -> Any:
    """A training config as users write it, without adversarial hooks.

    The model defaults to :func:`slowonly_config`, which is trained in the third of a TSM's time.
    """
    import mmaction.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import DATASETS

    DATASETS.register_module(module=Clips, force=True)

    model = model or slowonly_config()
    config = dict(
        default_scope='mmaction',
        work_dir=str(work_dir),
        model=model,
        train_dataloader=clips_loader(model),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3)),
        param_scheduler=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)],
        default_hooks=dict(
            runtime_info=dict(type='RuntimeInfoHook'),
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=1),
        ),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=uuid.uuid4().hex,
    )
    return Config({**config, **changes})


class FeatureVideos(torch.utils.data.Dataset):
    """Seven ragged videos of fixed random features with several labels each."""

    metainfo: dict[str, Any] = {'classes': tuple('abcdef')}

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict[str, Any]:
        from mmaction.structures import ActionDataSample

        generator = torch.Generator().manual_seed(index)
        features = {
            name: torch.randn(2 + index % 3, width, generator=generator)
            for name, width in (('rgb', 16), ('audio', 8))
        }
        label = torch.randint(2, (6,), generator=generator).float()
        return dict(inputs=features, data_samples=ActionDataSample().set_gt_label(label))


def feature_config(work_dir: Any, train_iters: int = 0, **changes: Any) -> Any:
    """A config with a small FeatureTransformer, to test or (``train_iters``) to train it."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS

    DATASETS.register_module(module=FeatureVideos, force=True)
    loader = dict(
        batch_size=3,
        num_workers=0,
        dataset=dict(type='FeatureVideos', _scope_='mmengine'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    config = dict(
        default_scope='mmaction',
        work_dir=str(work_dir),
        model=dict(
            type='FeatureTransformer',
            modalities=dict(rgb=16, audio=8),
            num_classes=6,
            width=8,
            num_heads=2,
        ),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=uuid.uuid4().hex,
    )
    if train_iters:
        config |= dict(
            train_dataloader=dict(loader, sampler=dict(type='InfiniteSampler', shuffle=True)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=train_iters, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-2)),
            log_processor=dict(by_epoch=False),
        )
    else:
        config |= dict(
            test_dataloader=loader,
            test_evaluator=dict(type='YT8MMetric'),
            test_cfg=dict(type='AdversarialTestLoop'),
        )
    return Config({**config, **changes})


def two_ranks(function: Callable[..., None], *args: Any) -> None:
    """Call ``function(rank, *args)``, a function of a module, on two ranks of a gloo group."""
    ranks(2, function, *args)


def ranks(count: int, function: Callable[..., None], *args: Any) -> None:
    """Call ``function(rank, *args)``, a function of a module, on the ranks of a gloo group.

    They are forked from a server that has imported MMAction2 once for all calls, and that has
    neither threads nor a graph of a test's: torch allows no backward after a fork with a GPU.
    """
    multiprocessing.set_forkserver_preload(['adv_plugins', 'mmaction.models', 'mmengine.runner'])
    with tempfile.TemporaryDirectory() as folder:
        given = (count, folder, function, args)
        mp.start_processes(_rank, given, nprocs=count, start_method='forkserver')


def _rank(
    rank: int, count: int, folder: str, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=count)
    function(rank, *args)
    dist.barrier()
    dist.destroy_process_group()
