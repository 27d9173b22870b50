"""Non-ART on Arts & Entertainment, the largest vertical of YouTube-8M (A-ART, table 2)."""

_base_ = 'transformer_1xb64_yt8m-317.py'

# Videos without a label of the vertical are left out.
dataset = dict(label_space='Arts & Entertainment', empty_labels='drop')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)

model = dict(num_classes=525)
test_evaluator = dict(verticals=None)
