"""What fine-tuning configs take from their clean ones: 15 epochs (TAF, section 4.1).

Every schedule adds ``finetune.lr``, the learning rate that its clean training ends with.
"""

finetune = dict(
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=15, val_begin=1, val_interval=1),
    param_scheduler=[
        dict(type='MultiStepLR', begin=0, end=15, by_epoch=True, milestones=[10], gamma=0.1)
    ],
)
