"""Something-Something V2 for models of sixteen frames."""

_base_ = './sthv2.py'

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=16),
    *_base_.train_pipeline[2:],
]
val_pipeline = [
    _base_.val_pipeline[0],
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=16, test_mode=True),
    *_base_.val_pipeline[2:],
]
test_pipeline = val_pipeline

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
