"""Non-ART: the Transformer on YouTube-8M, trained on clean features (A-ART, table 1)."""

_base_ = [
    '../_base_/feature_transformer.py',
    '../_base_/yt8m.py',
    '../_base_/adam_gap_plateau.py',
]

custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)

model = dict(num_classes=317)
