"""TPN (TSM-R50), Something-Something V1, 8 frames."""

_base_ = [
    'mmaction::_base_/models/tpn_tsm_r50.py',
    '../_base_/sthv1.py',
    '../_base_/sgd_tpn_150e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

# fcn_test would keep the classifier of the first validation (mmaction2#831); it is meant for
# several crops.
model = dict(
    neck=dict(aux_head_cfg=dict(out_channels=174)),
    cls_head=dict(num_classes=174),
    test_cfg=None,
)

# The authors' augmentation: any crop, and colours.
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomResizedCrop'),
    *_base_.train_pipeline[4:-2],
    dict(type='ColorJitter'),
    *_base_.train_pipeline[-2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
