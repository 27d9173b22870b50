"""TSN on OrderedDigits: blind to the order of frames, so at chance inside every pair of classes."""

_base_ = './tsm_r18_1x1x8_ordered-digits-rgb.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        pretrained=None,
        norm_eval=False,
        strides=(1, 2, 2, 1),
    ),
    cls_head=dict(
        _delete_=True,
        type='TSNHead',
        num_classes=12,
        in_channels=512,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
        average_clips='prob',
    ),
)
