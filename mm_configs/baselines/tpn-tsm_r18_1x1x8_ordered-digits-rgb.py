"""TPN on a TSM with a ResNet-18 from scratch on OrderedDigits."""

_base_ = './tsm_r18_1x1x8_ordered-digits-rgb.py'

model = dict(
    # The stock strides: the two levels of the pyramid must be one stride apart.
    backbone=dict(out_indices=(2, 3), strides=(1, 2, 2, 2)),
    neck=dict(
        type='TPN',
        in_channels=(256, 512),
        out_channels=256,
        spatial_modulation_cfg=dict(in_channels=(256, 512), out_channels=512),
        temporal_modulation_cfg=dict(downsample_scales=(8, 8)),
        upsample_cfg=dict(scale_factor=(1, 1, 1)),
        downsample_cfg=dict(downsample_scale=(1, 1, 1)),
        level_fusion_cfg=dict(
            in_channels=(256, 256),
            mid_channels=(256, 256),
            out_channels=512,
            downsample_scales=((1, 1, 1), (1, 1, 1)),
        ),
        aux_head_cfg=dict(out_channels=12, loss_weight=0.5),
    ),
    cls_head=dict(
        _delete_=True,
        type='TPNHead',
        num_classes=12,
        # What the neck's last convolution always has.
        in_channels=2048,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
        average_clips='prob',
    ),
)
