"""TSM with a ResNet-18 from scratch on real footage played forward, backward or frozen half-way."""

_base_ = [
    '../_base_/tsm_r18.py',
    '../_base_/sgd_27e.py',
    '../_base_/arrow_of_time.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=3, topk=(1,)))

# 12 iterations an epoch over two videos: fewer and gentler steps than OrderedDigits takes.
train_cfg = dict(max_epochs=8, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=5e-5,
        by_epoch=True,
        begin=0,
        end=8,
        convert_to_iter_based=True,
    ),
]
