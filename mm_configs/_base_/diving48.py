"""Diving48 (V2 annotations) for models of eight frames: as Something-Something V2, other labels."""

_base_ = './sthv2.py'

data = dict(type='Diving48', data_prefix=dict(video='data/diving48/videos'))
train_data = dict(ann_file='data/diving48/diving48_train_list_videos.txt', **data)
val_data = dict(ann_file='data/diving48/diving48_val_list_videos.txt', **data)

train_pipeline = [
    *_base_.train_pipeline[:-3],
    # No class says left or right: a mirrored dive keeps its label.
    dict(type='Flip', flip_ratio=0.5),
    *_base_.train_pipeline[-2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **train_data))
val_dataloader = dict(dataset=val_data)
test_dataloader = val_dataloader
