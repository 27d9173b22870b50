"""GST-Large-R50, Something-Something V1, 8 frames."""

_base_ = [
    '../_base_/gst_r50.py',
    '../_base_/sthv1.py',
    '../_base_/sgd_gst_70e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(
    backbone=dict(beta=1),
    cls_head=dict(num_classes=174),
)

train_dataloader = dict(batch_size=3)
