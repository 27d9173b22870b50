"""timm: a small model of each file of ``timm.models``, and more where only some have attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from .entry import CLASSES, Entry

# By file: a model that is quick on one CPU thread, the height and width of its images (its last
# stage has at least 2 x 2 places), and what of it is cut. First those with attention maps: none of
# them has as many windows as heads, which would be taken for each other.
ATTENTION: dict[str, tuple[Any, ...]] = {
    'beit': ('beit_base_patch16_384', 64, dict(depth=2)),
    'cait': ('cait_xxs24_384', 64),
    'convit': ('convit_tiny', 64),
    'cpubone': ('cpubone_t0', 64),
    'crossvit': ('crossvit_9_240', 240),
    'csatv2': ('csatv2', 64),
    'davit': ('davit_tiny', 64),
    'deepseek_vit': ('deepseek_vit_412m', 56, dict(depth=2, embed_dim=64, num_heads=4)),
    'deit': ('deit_tiny_distilled_patch16_224', 64),
    'edgenext': ('edgenext_xx_small', 64),
    'efficientformer': ('efficientformer_l1', 224),
    'efficientformer_v2': ('efficientformerv2_s0', 64),
    'efficientvit_msra': ('efficientvit_m1', 64),
    'eva': ('eva02_tiny_patch14_336', 64),
    'gcvit': ('gcvit_xxtiny', 64),
    'gemma4_vit': ('gemma4_vit_167m', 96, dict(depth=2)),
    'hiera': ('hiera_tiny_224', 64),
    'hieradet_sam2': ('sam2_hiera_tiny', 64),
    'iformer': ('iformer_t', 64),
    'levit': ('levit_128', 64),
    'maxxvit': ('test_coatnet', 64),
    'mobilenetv5': ('mobilenetv5_base', 64),
    'mobilevit': ('mobilevitv2_050', 64),
    'mvitv2': ('mvitv2_tiny', 64),
    'naflexvit': ('naflexvit_base_patch16_gap', 64, dict(depth=2)),
    'nest': ('nest_tiny_jx', 64),
    'nextvit': ('nextvit_small', 64),
    'pit': ('pit_ti_distilled_224', 64),
    'pvt_v2': ('pvt_v2_b0', 64),
    'qwen3_vit': ('qwen3_vit_88m', 64),
    'shvit': ('shvit_s1', 64),
    'swin_transformer': ('swin_s3_tiny_224', 64),
    'swin_transformer_v2': ('swinv2_tiny_window8_256', 64),
    'swin_transformer_v2_cr': ('swinv2_cr_tiny_384', 64),
    'tiny_vit': ('tiny_vit_5m_224', 128),
    'tnt': ('tnt_s_patch16_224', 64),
    'twins': ('twins_pcpvt_small', 64),
    'visformer': ('visformer_tiny', 64),
    'vision_transformer': ('test_vit', 64),
    'vision_transformer_hybrid': ('vit_tiny_r_s16_p8_384', 64),
    'vision_transformer_relpos': ('test_vit_relpos', 64),
    'vision_transformer_sam': ('samvit_base_patch16', 64, dict(depth=2, global_attn_indexes=(1,))),
    'vitamin': ('vitamin_small_224', 64),
    'volo': ('volo_d1_384', 64),
    'xcit': ('xcit_nano_12_p16_224', 64),
    # Models of files whose quickest model, below, has no attention.
    'byobnet botnet': ('botnet26t_256', 128),
    'byobnet halonet': ('halonet26t', 256),
    'fastvit sa12': ('fastvit_sa12', 64),
    'metaformer caformer': ('caformer_s18', 64),
}
OTHERS: dict[str, tuple[Any, ...]] = {
    'byoanet': ('eca_botnext26ts_256', 64),
    'byobnet': ('test_byobnet', 64),
    'coat': ('coat_lite_tiny', 64),
    'convmixer': ('convmixer_1024_20_ks9_p14', 64),
    'convnext': ('test_convnext3', 64),
    'cspnet': ('cs3darknet_s', 64),
    'cspnext': ('cspnext_tiny', 64),
    'densenet': ('densenet121', 64),
    'dla': ('dla46x_c', 64),
    'dpn': ('dpn48b', 64),
    'efficientnet': ('test_efficientnet_gn', 64),
    'efficientvim': ('efficientvim_m1_dist', 64),
    'efficientvit_mit': ('efficientvit_b0', 64),
    'fasternet': ('fasternet_t0', 64),
    'fastvit': ('fastvit_t8', 64),
    'focalnet': ('focalnet_tiny_lrf', 64),
    'ghostnet': ('ghostnet_050', 64),
    'hardcorenas': ('hardcorenas_c', 64),
    'hgnet': ('hgnetv2_b0', 64),
    'hrnet': ('hrnet_w18_small', 64),
    'inception_next': ('inception_next_atto', 64),
    'inception_resnet_v2': ('inception_resnet_v2', 160),
    'inception_v3': ('inception_v3', 160),
    'inception_v4': ('inception_v4', 160),
    'lcnetv2': ('lcnetv2_small', 64),
    'lowformer': ('lowformer_e1', 64),
    'mambaout': ('test_mambaout', 64),
    'metaformer': ('poolformerv2_s12', 64),
    'mlp_mixer': ('gmlp_ti16_224', 64),
    'mobilenetv3': ('lcnet_050', 64),
    'nasnet': ('nasnetalarge', 64),
    'nfnet': ('test_nfnet', 64),
    'pnasnet': ('pnasnet5large', 64),
    'rdnet': ('rdnet_tiny', 64),
    'regnet': ('regnety_002', 64),
    'repghost': ('repghostnet_058', 64),
    'repvit': ('repvit_m1', 64),
    'res2net': ('res2net50_48w_2s', 64),
    'resnest': ('resnest14d', 64),
    'resnet': ('test_resnet', 64),
    'resnetv2': ('resnetv2_18d', 64),
    'rexnet': ('rexnetr_100', 64),
    'selecsls': ('selecsls42b', 64),
    'senet': ('legacy_seresnet18', 64),
    'sequencer': ('sequencer2d_s', 64),
    'sknet': ('skresnet18', 64),
    'starnet': ('starnet_s050', 64),
    'swiftformer': ('swiftformer_xs', 64),
    'tresnet': ('tresnet_m', 64),
    'vgg': ('vgg11_bn', 64, dict(mlp_ratio=0.02)),
    'vovnet': ('ese_vovnet19b_slim_dw', 64),
    'xception': ('legacy_xception', 64),
    'xception_aligned': ('xception41', 64),
}


def build(name: str, size: int, options: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, num_classes=CLASSES, img_size=size, **options)
    except TypeError:
        # It takes images of any size.
        return timm.create_model(name, num_classes=CLASSES, **options)


def entries() -> dict[str, Entry]:
    found = {}
    for name, (model, size, *options) in (ATTENTION | OTHERS).items():
        made = partial(build, model, size, *(options or [{}]))
        recipes = ('advprop', 'aart') if name in ATTENTION else ('advprop',)
        found[name] = Entry(made, (3, size, size), recipes)
    return found
