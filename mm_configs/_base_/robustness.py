"""A robustness evaluation to publish: all corruptions and severities, strong attacks, the flags.

In a config of yours:

    _base_ = ['path/to/your_config.py', 'path/to/this_file.py']
    test_cfg = {{_base_.robustness}}

All else is the loop's own default: ``help(adv_plugins.evaluation.RobustnessTestLoop)``. The radius
is for models that were not trained against such attacks; change it with the question.
"""

robustness = dict(type='RobustnessTestLoop', eps=4 / 255, attack_videos=1000)
