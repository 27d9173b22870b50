"""TSM-R50, Something-Something V2, 8 frames."""

_base_ = [
    'mmaction::_base_/models/tsm_r50.py',
    '../_base_/sthv2.py',
    '../_base_/sgd_tsm_50e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=174))
