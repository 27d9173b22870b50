"""The GST authors' training on Something-Something: 70 epochs of SGD, 24 clips a step."""

_base_ = ['mmaction::_base_/default_runtime.py', './finetune_15e.py']

finetune = dict(lr=1e-4)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=70, val_begin=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=3e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, bias_lr_mult=2.0),
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=70, by_epoch=True, milestones=[50, 60], gamma=0.1)
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=24)
