"""ART and A-ART in mmengine's Runner: on features, on raw video, resumed, on two processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import data_samples, feature_config, two_ranks

from adv_plugins import AART, ART, make_adversarial

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

CHECKPOINTS = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))


def train(work_dir, iters, **changes):
    from mmengine.runner import Runner

    runner = Runner.from_cfg(
        feature_config(work_dir, train_iters=iters, default_hooks=CHECKPOINTS, **changes)
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('hook', 'recipe'),
    [
        (dict(type='ARTHook', eps=1.0), ART(eps=1.0)),
        (dict(type='AARTHook', beta=0.1, joint=True), AART(beta=0.1, joint=True)),
    ],
)
def test_hook_is_the_recipe(tmp_path, hook, recipe):
    """The runner's weights are those of a loop written by hand."""
    from mmengine.runner import Runner

    runner = train(tmp_path, 3, custom_hooks=[hook])
    plain = Runner.from_cfg(feature_config(tmp_path / 'plain', train_iters=3))
    model = make_adversarial(plain.model, recipe)
    assert list(runner.model.state_dict()) == list(model.state_dict())
    model.init_weights()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = iter(plain.build_dataloader(plain.cfg.train_dataloader, seed=plain.seed))
    for _ in range(3):
        data = model.train().data_preprocessor(next(batches), True)
        losses = model(**data, mode='loss')
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    for (name, a), b in zip(runner.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_resume_is_bit_exact(tmp_path):
    hooks = [dict(type='AARTHook', random_start=True, steps=2)]
    whole = train(tmp_path / 'whole', 4, custom_hooks=hooks)
    train(tmp_path / 'parts', 2, custom_hooks=hooks)
    rest = train(
        tmp_path / 'parts',
        4,
        custom_hooks=hooks,
        resume=True,
        load_from=str(tmp_path / 'parts' / 'iter_2.pth'),
    )
    assert rest.iter == 4
    for (name, a), b in zip(whole.model.named_parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    state = torch.load(tmp_path / 'whole' / 'iter_4.pth', weights_only=True)
    plain = feature_config(tmp_path).model
    from mmengine.registry import MODELS

    MODELS.build(plain).load_state_dict(state['state_dict'], strict=True)


def worker(rank: int, folder: str, hook: dict[str, Any]) -> None:
    """Train on one of two ranks, whose batches have other lengths."""
    from mmengine.model import MMDistributedDataParallel
    from mmengine.runner import Runner

    config = feature_config(f'{folder}/{rank}', train_iters=4, custom_hooks=[hook])
    runner = Runner.from_cfg(config)
    runner.model = MMDistributedDataParallel(runner.model, broadcast_buffers=False)
    runner.train()
    torch.save(runner.model.module.state_dict(), f'{folder}/{rank}.pt')


@pytest.mark.parametrize(
    'hook',
    [dict(type='AARTHook', beta=0.1), dict(type='AARTHook', interval=2, recompute=True)],
    ids=str,
)
def test_ranks_stay_bit_equal(tmp_path, hook):
    two_ranks(worker, str(tmp_path), hook)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_taf_with_the_attention_term_on_a_raw_video_transformer():
    """The paper's named future work: A-ART's regularizer on raw video."""
    import mmaction.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    model = MODELS.build(
        dict(
            type='Recognizer3D',
            backbone=dict(
                type='VisionTransformer',
                img_size=32,
                patch_size=16,
                embed_dims=16,
                depth=2,
                num_heads=2,
                num_frames=4,
            ),
            cls_head=dict(type='TimeSformerHead', num_classes=3, in_channels=16),
            data_preprocessor=dict(
                type='ActionDataPreprocessor', mean=[128] * 3, std=[64] * 3, format_shape='NCTHW'
            ),
        )
    ).train()
    recipe = dict(
        type='TAF',
        cam_layer='backbone.blocks.1',
        cam_layout='b (t h w) c; t=2 h=2',
        dual_bn=False,
        regularizers=[dict(type='AttentionFrobenius', weight=0.5)],
    )
    make_adversarial(model, recipe)
    losses = model(torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1]), mode='loss')
    assert losses['loss_attention_frobenius'] == 0.5 * losses['attention_frobenius'] > 0
    assert 0 < losses['adv_ratio'] < 1
    total, _ = model.parse_losses(losses)
    parts = [value for name, value in losses.items() if 'loss' in name]
    torch.testing.assert_close(total, sum(parts))
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
