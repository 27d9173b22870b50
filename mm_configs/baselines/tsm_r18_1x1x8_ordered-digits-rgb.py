"""TSM with a ResNet-18 from scratch on OrderedDigits: minutes on a two-core CPU."""

_base_ = ['mmaction::_base_/default_runtime.py', '../_base_/ordered_digits.py']

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(
    type='Recognizer2D',
    backbone=dict(
        type='ResNetTSM',
        depth=18,
        pretrained=None,
        pretrained2d=False,
        norm_eval=False,
        num_segments=8,
        shift_div=8,
        # The last stage keeps its resolution: 3x3 cells, not 2x2, for a frame of 48 pixels.
        strides=(1, 2, 2, 1),
    ),
    cls_head=dict(
        type='TSMHead',
        num_classes=12,
        in_channels=512,
        num_segments=8,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
        is_shift=True,
        average_clips='prob',
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCHW',
    ),
    train_cfg=None,
    test_cfg=None,
)

max_epochs = 18
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True),
    clip_grad=dict(max_norm=20, norm_type=2),
)
# Ends at the learning rate that a fine-tuning run starts from.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        eta_min=5e-4,
        by_epoch=True,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=6, max_keep_ckpts=1),
)
randomness = dict(seed=0)
