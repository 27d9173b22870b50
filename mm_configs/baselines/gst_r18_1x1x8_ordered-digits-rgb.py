"""GST with a ResNet-18 from scratch on OrderedDigits."""

_base_ = './tsm_r18_1x1x8_ordered-digits-rgb.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNetGST',
        depth=18,
        num_segments=8,
        strides=(1, 2, 2, 1),
    ),
)
