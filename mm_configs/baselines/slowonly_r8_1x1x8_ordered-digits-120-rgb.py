"""A small SlowOnly that overfits 120 clips of OrderedDigits: a minute on one CPU core."""

_base_ = [
    '../_base_/slowonly_r8.py',
    '../_base_/sgd_27e.py',
    '../_base_/ordered_digits.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=12))

clean_epochs = 80
max_epochs = 98
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=5e-3,
        by_epoch=True,
        end=clean_epochs,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', by_epoch=True, begin=clean_epochs, milestones=[12], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=clean_epochs, max_keep_ckpts=2))

train_pipeline = [
    dict(type='SampleFrames', clip_len=8, frame_interval=1, num_clips=1),
    dict(type='ArrayDecode'),
    dict(type='RandomResizedCrop', area_range=(0.7, 1.0), aspect_ratio_range=(0.85, 1.18)),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5, flip_label_map={{_base_.flip_label_map}}),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='SampleFrames', clip_len=8, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='ArrayDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = val_pipeline

train_dataloader = dict(dataset=dict(clips_per_class=10, size=32, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(clips_per_class=100, size=32, pipeline=val_pipeline))
test_dataloader = val_dataloader
