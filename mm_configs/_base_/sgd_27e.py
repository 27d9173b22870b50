"""MMAction2's runtime and 18 + 9 epochs of SGD, for the small datasets that need no download.

The last nine epochs are a small version of the fine-tuning in TAF, section 4.1: they start at the
learning rate that the clean epochs end with, and divide it by ten after two thirds. A baseline
spends them on clean training, so that all runs compared have the same number of steps.
"""

_base_ = 'mmaction::_base_/default_runtime.py'

clean_epochs = 18
max_epochs = 27
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=9)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True),
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=80),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-3,
        by_epoch=True,
        begin=1,
        end=clean_epochs,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', by_epoch=True, begin=clean_epochs, milestones=[6], gamma=0.1),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=9, max_keep_ckpts=2),
)
randomness = dict(seed=0)
