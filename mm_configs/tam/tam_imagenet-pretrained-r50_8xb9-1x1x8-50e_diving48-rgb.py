"""TAM-R50, Diving48, 8 frames, trained as on Something-Something (TAF, section 4.1)."""

_base_ = [
    '../_base_/tam_r50.py',
    '../_base_/diving48.py',
    '../_base_/sgd_tam_50e.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(cls_head=dict(num_classes=48))

train_dataloader = dict(batch_size=9)
