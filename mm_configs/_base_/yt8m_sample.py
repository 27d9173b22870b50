"""The embedded sample in YouTube-8M's own format, written on first use. Nothing is downloaded."""

pipeline = [
    dict(
        type='PackActionInputs',
        collect_keys=('rgb', 'audio'),
        meta_keys=('video_id', 'num_frames'),
    )
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='YT8MSample', split='train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='YT8MSample', split='validate', pipeline=pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='YT8MSample', split='test', pipeline=pipeline, test_mode=True),
)

val_evaluator = dict(type='YT8MMetric')
test_evaluator = dict(type='YT8MMetric', partitions=5)
