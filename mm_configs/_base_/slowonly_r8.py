"""A SlowOnly of eight layers from scratch, for frames of 32 pixels: three stages of one block."""

model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='ResNet3dSlowOnly',
        depth=18,
        pretrained=None,
        pretrained2d=False,
        lateral=False,
        norm_eval=False,
        zero_init_residual=False,
        base_channels=8,
        num_stages=3,
        stage_blocks=(1, 1, 1),
        out_indices=(2,),
        spatial_strides=(1, 2, 2),
        temporal_strides=(1, 1, 1),
        dilations=(1, 1, 1),
        # As in SlowOnly, the late convolutions see time; with one stage of three, the last ones.
        inflate=(0, 0, 1),
        # The stem leaves 16x16 cells of 32 pixels, where the stock pooling would leave 8x8.
        conv1_kernel=(1, 3, 3),
        with_pool1=False,
    ),
    cls_head=dict(
        type='I3DHead',
        # The config that adds a dataset sets num_classes.
        in_channels=32,
        spatial_type='avg',
        dropout_ratio=0.5,
        init_std=0.001,
        average_clips='prob',
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW',
    ),
    train_cfg=None,
    test_cfg=None,
)
