"""transformers: its video, image and speech classifiers, built from tiny configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .entry import CLASSES, Entry, Losses

TOKENS = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=32
)
CLIP = dict(TOKENS, num_frames=8)
VIDEOMAE = dict(CLIP, patch_size=8, tubelet_size=2)
TIMESFORMER = dict(CLIP, patch_size=8)
VIVIT = dict(CLIP, tubelet_size=[2, 8, 8])
VJEPA2 = dict(
    crop_size=32,
    patch_size=8,
    frames_per_clip=8,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_pooler_layers=1,
    pred_hidden_size=24,
    pred_num_attention_heads=2,
    pred_num_hidden_layers=1,
)
VIDEOPRISM = dict(
    image_size=32,
    num_frames=8,
    tubelet_size=[1, 8, 8],
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    num_spatial_layers=2,
    num_temporal_layers=2,
)
# By name: the stem of its classes, and the options of its configuration.
VIDEOS: dict[str, tuple[str, dict[str, Any]]] = {
    'videomae mean': ('VideoMAE', dict(VIDEOMAE, use_mean_pooling=True)),
    'videomae first token': ('VideoMAE', dict(VIDEOMAE, use_mean_pooling=False)),
    'timesformer divided': ('Timesformer', dict(TIMESFORMER, attention_type='divided_space_time')),
    'timesformer joint': ('Timesformer', dict(TIMESFORMER, attention_type='joint_space_time')),
    'timesformer space only': ('Timesformer', dict(TIMESFORMER, attention_type='space_only')),
    'vivit': ('Vivit', VIVIT),
    'vivit eager': ('Vivit', dict(VIVIT, attn_implementation='eager')),
    'vjepa2': ('VJEPA2', VJEPA2),
    'vjepa2 eager': ('VJEPA2', dict(VJEPA2, attn_implementation='eager')),
    'videoprism': ('VideoPrism', VIDEOPRISM),
}

PATCHES = dict(TOKENS, patch_size=8)
STAGES = dict(depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 40])
WINDOWS = dict(
    image_size=64, patch_size=4, window_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 4]
)
IMAGES: dict[str, dict[str, Any]] = {
    'Beit': PATCHES,
    'Bit': dict(STAGES, embedding_size=16, num_groups=4),
    'ConvNext': STAGES,
    'ConvNextV2': STAGES,
    'Cvt': dict(embed_dim=[16, 24, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    'Data2VecVision': PATCHES,
    'DeiT': PATCHES,
    'Dinov2': PATCHES,
    'Dinov2WithRegisters': PATCHES,
    'EfficientNet': dict(
        image_size=64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640
    ),
    'FocalNet': dict(image_size=64, embed_dim=16, depths=[1, 1, 1, 1]),
    'Hiera': dict(image_size=[64, 64], embed_dim=16, depths=[1, 1, 2, 1]),
    'Levit': dict(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    'MobileNetV1': dict(image_size=64, depth_multiplier=0.5),
    'MobileNetV2': dict(image_size=64, depth_multiplier=0.5),
    'MobileViT': dict(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 40]
    ),
    'MobileViTV2': dict(image_size=64, width_multiplier=0.5),
    'PoolFormer': dict(depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 40]),
    'Pvt': dict(image_size=64, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64]),
    'PvtV2': dict(image_size=64, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64]),
    'RegNet': dict(STAGES, embedding_size=16, groups_width=8),
    'ResNet': dict(STAGES, embedding_size=16),
    'Segformer': dict(depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64]),
    'SwiftFormer': dict(image_size=64, depths=[1, 1, 1, 1], embed_dims=[16, 24, 32, 40]),
    'Swin': WINDOWS,
    'Swinv2': WINDOWS,
    'ViT': PATCHES,
    'ViTMSN': PATCHES,
}

SPEECH = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=[16, 16, 16],
    conv_stride=[5, 4, 4],
    conv_kernel=[10, 8, 4],
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    classifier_proj_size=16,
    # Its masks are drawn from NumPy's random stream: two forwards are not alike.
    apply_spec_augment=False,
)
WAVES = {
    'Data2VecAudio': SPEECH,
    'Hubert': SPEECH,
    'SEW': dict(SPEECH, squeeze_factor=2),
    'UniSpeech': SPEECH,
    'UniSpeechSat': SPEECH,
    'Wav2Vec2': SPEECH,
    'Wav2Vec2Conformer': SPEECH,
    'WavLM': SPEECH,
}


def build(stem: str, task: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    options = dict(options)
    attention = {k: options.pop(k) for k in ('attn_implementation',) if k in options}
    # VideoPrism's clip encoder and text encoder have configurations of their own.
    vision = 'Vision' if stem == 'VideoPrism' else ''
    config = getattr(transformers, f'{stem}{vision}Config')(num_labels=CLASSES, **options)
    return getattr(transformers, f'{stem}For{task}Classification')._from_config(config, **attention)


def losses(model: nn.Module, inputs: Tensor, target: Tensor) -> Losses:
    """Those of the class's own ``forward`` with labels, as ``Trainer`` calls it."""
    if hasattr(model, 'adversarial_loss'):
        return model.adversarial_loss(inputs, target)
    return {'loss': model(inputs, labels=target).loss}


def frames(clips: Tensor) -> Tensor:
    """(B, T, C, H, W)."""
    return clips.transpose(1, 2)


def waves(noise: Tensor) -> Tensor:
    """Sound whose loudness rises, as silence and noise look alike to a norm over time."""
    return noise * torch.linspace(0.1, 1.0, noise.shape[-1])


def entries() -> dict[str, Entry]:
    found = {}
    for name, (stem, options) in VIDEOS.items():
        found[name] = Entry(
            partial(build, stem, 'Video', options),
            (3, 8, 32, 32),
            ('taf', 'advprop', 'aart'),
            feed=frames,
            losses=losses,
        )
    for stem, options in IMAGES.items():
        size = options.get('image_size', 64)
        size = size[0] if isinstance(size, list) else size
        made = partial(build, stem, 'Image', options)
        found[stem.lower()] = Entry(made, (3, size, size), ('advprop',), losses=losses)
    for stem, options in WAVES.items():
        made = partial(build, stem, 'Sequence', options)
        found[stem.lower()] = Entry(made, (4000,), ('advprop',), feed=waves, losses=losses)
    return found
