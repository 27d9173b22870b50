"""YouTube-8M, frame level, as downloaded: TFRecord shards under data/yt8m/2/frame.

Validation and test are the paper's (A-ART, section 3.1): 64,000 videos of the official validation
split, and the rest of it. The paper's list of 317 classes is not public; this is an analogue with
as many nodes (24 verticals and 293 entities), so results on it do not reproduce table 1.
"""

data_root = 'data/yt8m/2/frame'
label_space = dict(type='hierarchy', num_classes=317)

pipeline = [
    dict(
        type='PackActionInputs',
        collect_keys=('rgb', 'audio'),
        meta_keys=('video_id', 'num_frames'),
    )
]
# Bytes stay bytes up to the device: the data preprocessor pads and dequantises.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='packed_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='YT8MFrameDataset',
        data_root=data_root,
        ann_file='train/train*.tfrecord',
        label_space=label_space,
        max_frames=300,
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='packed_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='YT8MFrameDataset',
        data_root=data_root,
        ann_file='validate/validate*.tfrecord',
        label_space=label_space,
        max_frames=300,
        indices=64_000,
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='packed_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='YT8MFrameDataset',
        data_root=data_root,
        ann_file='validate/validate*.tfrecord',
        label_space=label_space,
        max_frames=300,
        skip=64_000,
        pipeline=pipeline,
        test_mode=True,
    ),
)

val_evaluator = dict(type='YT8MMetric')
test_evaluator = dict(
    type='YT8MMetric', partitions=5, verticals=['Finance', 'Arts & Entertainment']
)
