"""The small TSMs on clean, corrupted and attacked OrderedDigits.

mim test mmaction2 THIS_FILE --checkpoint \
    work_dirs/taf-tsm_r18_1x1x8_ordered-digits-rgb/epoch_27.pth
"""

_base_ = [
    '../baselines/tsm_r18_1x1x8_ordered-digits-rgb.py',
    '../_base_/robustness_quick.py',
]

test_cfg = {{_base_.robustness}}
