"""The TAM authors' training: 50 epochs of SGD along a cosine, 72 clips a step."""

_base_ = ['mmaction::_base_/default_runtime.py', './finetune_15e.py']

# The cosine ends at 0, which would fine-tune nothing: this is 0.01 / 100, where the schedules of
# TSM, GST and TPN end. The paper does not give its value.
finetune = dict(lr=1e-4)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_begin=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=0, end=50, T_max=50)
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=72)
