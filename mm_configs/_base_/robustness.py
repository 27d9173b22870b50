"""A robustness evaluation to publish: all corruptions and severities, strong attacks, the flags.

In your own config:

    _base_ = ['path/to/your_config.py', 'path/to/this_file.py']
    test_cfg = {{_base_.robustness}}

Everything else is the loop's default: ``help(adv_plugins.evaluation.RobustnessTestLoop)``. The
radius suits models that were not trained against such attacks; choose it for your own question.
"""

robustness = dict(type='RobustnessTestLoop', eps=4 / 255, attack_videos=1000)
