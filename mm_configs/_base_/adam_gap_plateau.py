"""MMAction2's runtime and the protocol of A-ART, section 3.1.

Adam with 2e-4; GAP on the validation set every 10,000 iterations. The learning rate is divided by
ten when GAP has not risen for more than 3 validations, and the run stops at the 5th.
"""

_base_ = 'mmaction::_base_/default_runtime.py'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=1_000_000, val_interval=10_000)
val_cfg = dict(type='AdversarialValLoop', attacks=dict(fgm=dict(type='ART', eps=0.5)))
test_cfg = dict(
    type='AdversarialTestLoop',
    # The paper's attack, and an honest stronger one inside the same ball.
    attacks=dict(fgm=dict(type='ART', eps=0.5), pgd=dict(type='ART', eps=0.5, steps=10)),
    attention=True,
    deepfool=dict(num_candidates=10, overshoot=0.02, max_iter=50, num_videos=1000),
)

optim_wrapper = dict(optimizer=dict(type='Adam', lr=2e-4))
# by_epoch: a step of this scheduler is a validation.
param_scheduler = [
    dict(type='ReduceOnPlateauLR', monitor='GAP', rule='greater', factor=0.1, patience=3)
]

log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(
        by_epoch=False, interval=10_000, max_keep_ckpts=2, save_best='GAP', rule='greater'
    ),
    early_stopping=dict(
        type='ResumableEarlyStoppingHook', monitor='GAP', rule='greater', patience=5
    ),
)
randomness = dict(seed=0)
