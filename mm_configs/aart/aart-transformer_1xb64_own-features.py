"""A-ART on frame features of your own: a .npy file (frames, width) per video and modality."""

_base_ = 'mmaction::_base_/default_runtime.py'
custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

modalities = dict(clip=768, sound=128)  # any names, with the widths of their features
num_classes = 400
epochs = 20
# Several labels a video: write True, and dict(type='YT8MMetric').
multi_class = False
val_evaluator = test_evaluator = dict(type='AccMetric')

dataset = dict(
    type='FeatureDataset',
    data_root='data/own',
    data_prefix=dict(clip='features/clip', sound='features/sound'),  # features/clip/NAME.npy
    modalities=modalities,
    num_classes=num_classes,
    multi_class=multi_class,
    pipeline=[dict(type='PackActionInputs', collect_keys=list(modalities))],
)
loader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='packed_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
train_dataloader = dict(
    loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(dataset, ann_file='train.txt'),  # a line per video: NAME LABEL [LABEL ...]
)
val_dataloader = dict(loader, dataset=dict(dataset, ann_file='val.txt', test_mode=True))
test_dataloader = dict(loader, dataset=dict(dataset, ann_file='test.txt', test_mode=True))

model = dict(
    type='FeatureTransformer',
    modalities=modalities,
    num_classes=num_classes,
    multi_class=multi_class,
)
# eps is in units of the features. The log has its size relative to them: adv_ratio_clip.
custom_hooks = [dict(type='AARTHook', eps=0.5)]

optim_wrapper = dict(optimizer=dict(type='Adam', lr=2e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=epochs)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='AdversarialTestLoop', attacks=dict(fgm=dict(type='ART', eps=0.5)))
