"""Non-ART on the embedded sample: the paper's protocol in small."""

_base_ = [
    '../_base_/feature_transformer.py',
    '../_base_/yt8m_sample.py',
    '../_base_/adam_gap_plateau.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(width=dict(rgb=128, audio=64), num_classes=28)

# Only 13 epochs of 2,000 videos, so the learning rate is higher than the paper's 2e-4.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=400, val_interval=40)
test_cfg = dict(deepfool=dict(num_videos=200))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=40))
