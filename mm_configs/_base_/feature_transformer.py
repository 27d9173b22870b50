"""The Transformer of A-ART (section 3.1): a layer of 8-head attention for each of rgb and audio."""

model = dict(
    type='FeatureTransformer',
    modalities=dict(rgb=1024, audio=128),
    width=dict(rgb=512, audio=128),
    depth=1,
    num_heads=8,
    # The config that adds a dataset says num_classes.
    data_preprocessor=dict(type='FeaturePreprocessor'),
)
