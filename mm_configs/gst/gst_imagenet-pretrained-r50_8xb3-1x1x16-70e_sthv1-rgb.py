"""GST-R50, Something-Something V1, 16 frames."""

_base_ = [
    '../_base_/gst_r50.py',
    '../_base_/sthv1_16f.py',
    '../_base_/sgd_gst_70e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(
    backbone=dict(num_segments=16),
    cls_head=dict(num_classes=174, num_segments=16),
)

train_dataloader = dict(batch_size=3)
