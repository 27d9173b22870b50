"""TSM with a ResNet-18 from scratch, for frames of 48 to 64 pixels."""

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
        # The last stage keeps its resolution: 3x3 cells for 48 pixels and 4x4 for 64, where the
        # stock strides leave 2x2.
        strides=(1, 2, 2, 1),
    ),
    cls_head=dict(
        type='TSMHead',
        # The config that adds a dataset sets num_classes.
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
