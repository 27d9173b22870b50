"""OrderedDigits: dataset, pipelines, data loaders and evaluators. Nothing is downloaded."""

dataset_type = 'OrderedDigits'
# A mirrored clip moves and turns the other way, so its label changes.
flip_label_map = {0: 1, 1: 0, 8: 9, 9: 8}

train_pipeline = [
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8),
    dict(type='ArrayDecode'),
    # One crop for all frames of a clip, wide enough to keep the motion in view.
    dict(type='RandomResizedCrop', area_range=(0.7, 1.0), aspect_ratio_range=(0.85, 1.18)),
    dict(type='Resize', scale=(48, 48), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5, flip_label_map=flip_label_map),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='ArrayDecode'),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = val_pipeline

# Rendering takes a millisecond per clip: worker processes would cost more than they save.
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, split='val', pipeline=val_pipeline, test_mode=True),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
