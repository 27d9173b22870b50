"""A robustness evaluation to publish: all corruptions and severities, strong attacks, the flags.

In a config of yours:

    _base_ = ['path/to/your_config.py', 'path/to/this_file.py']
    test_cfg = {{_base_.robustness}}

The radius is for models that were not trained against such attacks; change it with the question.
"""

robustness = dict(
    type='RobustnessTestLoop',
    corruptions=[
        'gaussian_noise',
        'impulse_noise',
        'speckle_noise',
        'gaussian_blur',
        'defocus_blur',
        'zoom_blur',
        'snow',
        'brightness',
        'motion_blur',
        'h264',
        'frame_drop',
        'packet_loss',
        'jumble',
        'freeze',
    ],
    severities=[1, 2, 3, 4, 5],
    attacks=dict(
        noise=dict(type='UniformNoise', restarts=10),
        fgsm=dict(type='FGSM'),
        pgd=dict(type='PGD', steps=20, restarts=5),
        apgd_ce=dict(type='APGD', steps=100, loss='ce'),
        apgd_dlr=dict(type='APGD', steps=100, loss='dlr'),
        square=dict(type='Square', queries=5000),
        cam=dict(type='TAF', steps=10, step_size=None),
    ),
    eps=4 / 255,
    curve='pgd',
    curve_eps=[1 / 255, 2 / 255, 8 / 255, 16 / 255],
    deepfool=dict(num_candidates=10, max_iter=50),
    attention=True,
    num_videos=None,
    attack_videos=1000,
)
