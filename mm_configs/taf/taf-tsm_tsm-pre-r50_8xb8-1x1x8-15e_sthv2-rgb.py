"""TAF on Something-Something V2 as in the paper: 15 epochs from a trained TSM-R50 (taf.txt 4.1).

Set ``load_from`` to the checkpoint of the stock config this one inherits from. The learning rate
is the one that its training ends with (0.02, divided by 10 at epochs 25 and 45, for 8 x 16 clips),
scaled to 8 x 8 clips, and divided by 10 after 10 epochs. One clip and one centre crop are tested.
"""

_base_ = 'mmaction::recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb.py'

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)
custom_hooks = [dict(type='TAFHook', alpha=0.7, eps=64 / 255, step_size=32 / 255, steps=1)]

load_from = None  # CHECKPOINT of the trained TSM
model = dict(backbone=dict(pretrained=None, pretrained2d=False))

train_dataloader = dict(batch_size=8)
val_dataloader = dict(batch_size=8)
test_dataloader = dict(dataset=dict(pipeline={{_base_.val_pipeline}}))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=15, val_begin=1, val_interval=1)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=15, by_epoch=True, milestones=[10], gamma=0.1)
]
optim_wrapper = dict(optimizer=dict(lr=0.0001))
auto_scale_lr = dict(enable=False, base_batch_size=64)
