"""Graph networks over skeletons: where the CAM is, what its axes mean, and what ε is."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NUM_CLASSES, build_recognizer, data_samples
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

import mmaction
from mmengine.config import Config
from mmengine.registry import MODELS

from adv_plugins import TAF, AdvProp, CEAugmentation, make_adversarial, remove_adversarial
from adv_plugins.adapters.cam_layers import feature_map, find_cam_layer
from adv_plugins.adapters.mmaction import RecognizerAdapter
from adv_plugins.core.capture import capture_output, to_frames

CONFIGS = Path(mmaction.__file__).parent / '.mim/configs/skeleton'
FAMILIES = {
    '2s-agcn': ('2s-agcn/2s-agcn_8xb16-joint-u100-80e_ntu60-xsub-keypoint-2d', 17),
    'stgcn': ('stgcn/stgcn_8xb16-joint-u100-80e_ntu60-xsub-keypoint-3d', 25),
    'stgcn++': ('stgcnpp/stgcnpp_8xb16-bone-u100-80e_ntu60-xsub-keypoint-2d', 17),
}
RECIPES = {
    'TAF': TAF(eps=0.1, step_size=0.1),
    'CEAugmentation': CEAugmentation(eps=0.1, step_size=0.1),
    'AdvProp': AdvProp(eps=0.1, step_size=0.05, steps=2),
}
SMALL = dict(
    type='STGCN',
    graph_cfg=dict(layout='coco', mode='stgcn_spatial'),
    base_channels=8,
    num_stages=4,
    inflate_stages=[3],
    down_stages=[3],
)
pytestmark = pytest.mark.filterwarnings('ignore:.*units of the input')


class OtherNames(nn.Module):
    """A graph network with the names of CTR-GCN: its stages are called ``net``."""

    def __init__(self) -> None:
        super().__init__()
        stock = MODELS.build(SMALL)
        self.data_bn = nn.BatchNorm1d(2 * 3 * 17)
        self.net = stock.gcn

    def forward(self, x: Tensor) -> Tensor:
        n, m, t, v, c = x.shape
        x = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for stage in self.net:
            x = stage(x)
        return x.view(n, m, *x.shape[1:])


class NoList(OtherNames):
    """A graph network with the names of MS-G3D: each stage is a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tcn3 = self.net.pop(3)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        maps = self.tcn3(x.flatten(0, 1))
        return maps.view(*x.shape[:2], *maps.shape[1:])


def config(backbone: dict[str, Any]) -> dict[str, Any]:
    head = dict(type='GCNHead', num_classes=NUM_CLASSES, in_channels=16)
    return dict(type='RecognizerGCN', backbone=backbone, cls_head=head)


def recognizer(backbone: dict[str, Any]) -> nn.Module:
    for module in (OtherNames, NoList):
        MODELS.register_module(module=module, force=True)
    return build_recognizer(config(backbone))


def stock(family: str) -> tuple[nn.Module, Tensor, list]:
    """A stock graph network and a batch for it: clips of two persons."""
    path, joints = FAMILIES[family]
    model = Config.fromfile(CONFIGS / f'{path}.py').model
    model.backbone.base_channels = 16
    model.cls_head.update(num_classes=NUM_CLASSES, in_channels=64)
    return build_recognizer(model), torch.randn(2, 1, 2, 16, joints, 3), data_samples([1, 4])


@pytest.mark.parametrize('family', FAMILIES)
def test_stock_graph_networks(family):
    plain, clips, samples = stock(family)
    assert find_cam_layer(plain) == 'backbone.gcn.9'
    before = copy.deepcopy(plain.state_dict())
    plain.parse_losses(plain(clips, samples, mode='loss'))[0].backward()
    reached = {name for name, value in plain.named_parameters() if value.grad is not None}
    after = copy.deepcopy(plain.state_dict())
    for recipe in RECIPES.values():
        plain.load_state_dict(before)
        model = make_adversarial(plain, recipe)
        model.zero_grad()
        losses = model(clips, samples, mode='loss')
        assert all(value.isfinite().all() for value in losses.values())
        assert not losses['adv_unmoved'] and losses['adv_loss_cls'] > 0
        model.parse_losses(losses)[0].backward()
        names = {name for name, value in model.named_parameters() if value.grad is not None}
        assert reached == {name for name in names if '.adv_' not in name}
        moved = model.perturb(clips, samples) - clips
        torch.testing.assert_close(moved.abs().amax(dim=(1, 2, 3, 4, 5)), torch.full((2,), 0.1))
        state = remove_adversarial(model).state_dict()
        assert all(torch.equal(state[n], after[n]) for n in state if 'running' in n)
    stock(family)[0].load_state_dict(state, strict=True)


BACKBONES = {
    'STGCN': (SMALL, 'backbone.gcn.3'),
    'OtherNames': (dict(type='OtherNames'), 'backbone.net.3'),
    'NoList': (dict(type='NoList'), 'backbone.tcn3'),
}


def frames(model: nn.Module, clips: Tensor, layer: str) -> Tensor:
    """The map at a layer as (B, T, C, persons, joints)."""
    with capture_output(model.get_submodule(layer)) as outputs, torch.no_grad():
        model(clips)
    output, layout = feature_map(model, layer, outputs[-1], clips)
    return to_frames(output, len(clips), layer, layout)


@pytest.mark.parametrize('whole', [False, True], ids=['stage', 'backbone'])
@pytest.mark.parametrize(
    ('name', 'persons'),
    [('STGCN', 1), ('STGCN', 2), ('STGCN', 3), ('OtherNames', 2), ('NoList', 2)],
)
def test_maps_have_frames_persons_and_joints(name, persons, whole):
    backbone, layer = BACKBONES[name]
    model = recognizer(backbone).eval()
    assert find_cam_layer(model) == layer
    layer = 'backbone' if whole else layer
    clips = torch.randn(2, 1, persons, 16, 17, 3)
    before = frames(model, clips, layer)
    assert before.shape == (2, 8, 16, persons, 17)
    moved = clips.clone()
    moved[1, 0, persons - 1, 15] += 1
    change = (frames(model, moved, layer) - before).abs().sum(dim=(2, 4))
    sample, time, person = change.nonzero(as_tuple=True)
    assert set(sample.tolist()) == {1} and set(person.tolist()) == {persons - 1}
    assert change[1, :, persons - 1].argmax() == 7


def test_axes_of_a_clip():
    model = recognizer(SMALL)
    adapter = RecognizerAdapter(model)
    assert list(adapter.clip_axes(torch.randn(2, 1, 3, 16, 17, 3), '')) == [(3, 2, 4)]


@pytest.mark.parametrize('persons', [1, 2, 3])
def test_eps_is_in_units_of_the_joints(persons):
    """Also of three persons, which once were taken for the colours of a pixel."""
    model = make_adversarial(recognizer(SMALL), 'ceaugmentation', eps=0.1, step_size=0.1)
    clips, samples = torch.randn(2, 1, persons, 16, 17, 3), data_samples([1, 4])
    with pytest.warns(UserWarning, match='units of the input.*no pixels: choose eps by this ratio'):
        moved = model.perturb(clips, samples) - clips
    torch.testing.assert_close(moved.abs().amax(), torch.tensor(0.1))


def test_several_clips_are_told():
    """Their scores are averaged in a test; a graph network's loss takes one clip of each video."""
    model = make_adversarial(recognizer(SMALL), 'taf')
    with pytest.raises(ValueError, match='4 scores for 2 videos.*one clip'):
        model(torch.randn(2, 2, 1, 16, 17, 3), data_samples([1, 4]), mode='loss')


def test_hook_trains_on_the_stock_pipeline(train, tmp_path):
    draw = np.random.default_rng(0)
    videos = [
        dict(
            frame_dir=str(video),
            label=video,
            total_frames=20,
            img_shape=(60, 80),
            keypoint=draw.uniform(10, 50, (persons, 20, 17, 2)).astype(np.float32),
            keypoint_score=draw.uniform(0.5, 1, (persons, 20, 17)).astype(np.float32),
        )
        for video, persons in enumerate((1, 2, 1, 2))
    ]
    file = tmp_path / 'skeletons.pkl'
    file.write_bytes(pickle.dumps(videos))
    pipeline = Config.fromfile(CONFIGS / f'{FAMILIES["stgcn++"][0]}.py').train_pipeline
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type='PoseDataset', ann_file=str(file), pipeline=pipeline),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    runner = train(
        model=config(SMALL),
        train_dataloader=loader,
        max_epochs=1,
        custom_hooks=[dict(type='TAFHook', eps=0.1, step_size=0.1)],
    )
    logged = runner.message_hub.log_scalars
    assert np.isfinite(logged['train/adv_loss_cls'].data[0]).all()
    assert logged['train/adv_unmoved'].current() == 0
