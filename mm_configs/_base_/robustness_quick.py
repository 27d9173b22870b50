"""A robustness evaluation in minutes: the same cells with fewer videos, severities and steps.

Meant for a first look and for small models; for results to publish use ``robustness.py``.
"""

robustness = dict(
    type='RobustnessTestLoop',
    severities=[1, 3, 5],
    attacks=dict(
        noise=dict(type='UniformNoise', restarts=10),
        fgsm=dict(type='FGSM'),
        pgd=dict(type='PGD', steps=10),
        apgd_ce=dict(type='APGD', steps=15, loss='ce'),
        apgd_dlr=dict(type='APGD', steps=15, loss='dlr'),
        square=dict(type='Square', queries=50),
        cam=dict(type='TAF', steps=5, step_size=None),
    ),
    eps=4 / 255,
    curve='pgd',
    curve_eps=[1 / 255, 8 / 255],
    deepfool=dict(num_candidates=5, max_iter=20),
    num_videos=240,
    attack_videos=48,
)
