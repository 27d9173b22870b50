"""TSM-R50, Something-Something V2, 16 frames."""

_base_ = [
    'mmaction::_base_/models/tsm_r50.py',
    '../_base_/sthv2_16f.py',
    '../_base_/sgd_tsm_50e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(
    backbone=dict(num_segments=16),
    cls_head=dict(num_classes=174, num_segments=16),
)
