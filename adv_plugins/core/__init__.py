"""The core: an adversarial step is a loss. It needs torch and einops only.

In the order in which they are best read:

- ``functional``: the papers' equations as pure functions.
- ``step``: the adversarial step, written as its equation. Its attack is in ``attacker`` (``attack``
  has the threat model and the solver), what goes in is a ``batch``, what comes out a ``record``.
- ``recipe``: everything that defines a step, as data; ``rules`` checks it, ``options`` builds and
  prints its parts. ``objectives`` are what an attack maximises, ``regularizers`` the penalties.
- ``adapter``: what the core asks of a family of models. ``norm`` has the auxiliary norms,
  ``buffers`` holds all other state still, ``capture`` reads feature maps, ``autograd`` takes
  gradients ahead of the trainer's backward, ``recompute`` parts a clean record from its graph.
- ``cam_layer`` finds the layer of the temporal CAM by a ``probe`` of the model; ``axes`` and
  ``response`` confirm how its output is to be read.
- ``conversion``: ``make_adversarial`` and its kin. ``adversary`` is what they attach to a model,
  ``schedule`` its clock, ``cost`` what a step costs and what a budget pays for.
- ``checks``, ``compiling``, ``randomness`` and ``subclass``: small tools.
"""
