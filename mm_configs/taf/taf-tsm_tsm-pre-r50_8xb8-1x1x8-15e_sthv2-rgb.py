"""TAF, TSM-R50, Something-Something V2, 8 frames: 15 epochs (section 4.1, table 1)."""

_base_ = '../tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv2-rgb.py'

custom_hooks = [dict(type='TAFHook')]

# What training the clean config leaves; for another checkpoint: --cfg-options load_from=PATH
load_from = 'work_dirs/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv2-rgb/epoch_50.pth'
model = dict(backbone=dict(pretrained=None, pretrained2d=False))

optim_wrapper = dict(optimizer=dict(lr=_base_.finetune.lr))
param_scheduler = _base_.finetune.param_scheduler
train_cfg = _base_.finetune.train_cfg
