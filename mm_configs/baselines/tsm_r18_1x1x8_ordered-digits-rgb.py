"""TSM with a ResNet-18 from scratch on OrderedDigits: minutes on a two-core CPU."""

_base_ = [
    '../_base_/tsm_r18.py',
    '../_base_/sgd_27e.py',
    '../_base_/ordered_digits.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=12))
