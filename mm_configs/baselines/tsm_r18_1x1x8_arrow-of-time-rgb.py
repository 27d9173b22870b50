"""TSM with a ResNet-18 from scratch on real footage played forward, backward or frozen half-way."""

_base_ = [
    '../_base_/tsm_r18.py',
    '../_base_/runtime_18e.py',
    '../_base_/arrow_of_time.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=3, topk=(1,)))
