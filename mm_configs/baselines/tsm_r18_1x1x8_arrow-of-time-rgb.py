"""TSM with a ResNet-18 from scratch on real footage played forward, backward or frozen half-way."""

_base_ = [
    '../_base_/tsm_r18.py',
    '../_base_/sgd_27e.py',
    '../_base_/arrow_of_time.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=3, topk=(1,)))

# 12 iterations an epoch over two videos: fewer and gentler steps than OrderedDigits takes.
clean_epochs = 8
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-4,
        by_epoch=True,
        begin=0,
        end=clean_epochs,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=4))
