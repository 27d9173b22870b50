"""TAF, GST-R50, Something-Something V1, 8 frames: 15 epochs (section 4.1, table 1)."""

_base_ = '../gst/gst_imagenet-pretrained-r50_8xb3-1x1x8-70e_sthv1-rgb.py'

custom_hooks = [dict(type='TAFHook')]

# What training the clean config leaves; for another checkpoint: --cfg-options load_from=PATH
load_from = 'work_dirs/gst_imagenet-pretrained-r50_8xb3-1x1x8-70e_sthv1-rgb/epoch_70.pth'
model = dict(backbone=dict(pretrained=None))

optim_wrapper = dict(optimizer=dict(lr=_base_.finetune.lr))
param_scheduler = _base_.finetune.param_scheduler
train_cfg = _base_.finetune.train_cfg
