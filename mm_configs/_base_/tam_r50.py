"""A ResNet-50 with temporal aggregation modules (Fan et al., NeurIPS 2019)."""

model = dict(
    type='Recognizer2D',
    backbone=dict(type='ResNetTAM', pretrained='torchvision://resnet50', depth=50, num_segments=8),
    cls_head=dict(
        type='TSMHead',
        # The config that adds a dataset sets num_classes.
        in_channels=2048,
        num_segments=8,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
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
