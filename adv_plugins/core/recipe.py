"""Recipes: all choices that define an adversarial step.

A recipe is threat model (norm, eps, axes, clamp) × solver (steps, step size, start) × objective
× regularizers × weights × norm policy × schedule (begin, end, interval, fraction of the batch).
The recipes of the papers are in :mod:`adv_plugins.recipes`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import torch
from torch import Tensor

from .attack import GradientAscent
from .objectives import OBJECTIVES, Objective
from .option_values import as_length, as_number
from .options import build, describe
from .radius import RADII, Radius
from .regularizers import REGULARIZERS, Regularizer
from .rules import RULES
from .structure import as_axes
from .threat import ThreatModel

P = ParamSpec('P')


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """An adversarial step, composed from parts.

    Args:
        name (str): The recipe's name in the log. Defaults to ``'Recipe'``.
        objective (Objective | str | dict): What the attack maximises: an objective, its class
            name, or ``dict(type=name, **options)``.
        eps (float): Radius of the ball around each sample: a fraction of the value range
            (8/255 = eight grey levels) if the model's normalisation is known, otherwise in units
            of the input. Also as text, ``'8/255'``, which is what a command line gives; or one
            that changes, ``dict(type='LinearEps', start=0, end=8 / 255, epochs=10)``, see
            :mod:`adv_plugins.recipes.radii`.
        step_size (float, optional): β, the length of an attack step, in the unit of ``eps``.
            Defaults to None: ε for K=1, and 2.5 ε / K for more steps. Where ε changes, it belongs
            to the largest one, and changes along.
        steps (int): K, the number of attack steps. Defaults to 1.
        norm (str): ``'linf'``, ``'l2'``, ``'l1'``, or ``'l21'``: the ℓ2 norms of the frames, added
            up. Defaults to ``'linf'``.
        dims (tuple[int, ...], optional): Axes of the input that one norm runs over: for features
            (B, T, D), ``(2,)`` means one ball for each frame. Defaults to None: all axes but the
            batch, one ball for each sample and modality.
        joint (bool): Whether one norm runs over all modalities of a sample together. Defaults to
            False.
        shared (str | Sequence): Axes along which a perturbation is constant, by letter or number:
            ``'h w'`` shifts the colours of whole frames (flicker), ``'t'`` adds one picture to all
            frames, ``'b'`` finds one perturbation for the batch. Where pixels are clipped to valid
            ones, they differ. Defaults to (): none.
        frames (int | Sequence[int], optional): At most so many frames of each clip are changed,
            those of the largest gradients; or the frames with these numbers, and no others.
            Defaults to None: all.
        region (Sequence[int] | Tensor, optional): Where frames are changed: a box (top, left,
            height, width) in pixels, or a mask that broadcasts to the input, True inside. With
            ``eps=1`` all valid pixels are allowed there: a patch. Defaults to None: everywhere.
        random_start (bool): Whether the attack starts at a random point of the ball. Defaults
            to False: at the clean input.
        clamp (bool): Whether adversarial inputs are clipped to valid pixels. False gives the plain
            projection of TAF, eq. 6. Defaults to True.
        clean_weight (float): Weight of the clean losses. With 0, also write ``dual_bn=False``,
            because nothing else trains the clean norms, which are deployed. There is no clean
            forward then, unless a regularizer, ``fraction`` or an objective other than the training
            loss needs one. Defaults to 1.0.
        adv_weight (float): Weight of the adversarial losses. Defaults to 1.0.
        regularizers (Sequence[Regularizer | dict | str]): Penalties on the pair of clean and
            adversarial forward, each added with its weight. Defaults to ().
        weight_eps (float): With a weight w, relative to its length, the losses are those at
            ``w + weight_eps · ‖w‖ · g / ‖g‖``, where g is the gradient of the total at w and the
            perturbed inputs are those found at w (adversarial weight perturbation, Wu et al., 2020,
            whose code has 0.01 or 0.005). Statistics and all other state are those of w, which the
            trainer updates. Only parameters with several axes move. Of several processes each moves
            them by the gradient of its own batch. Not in fp16. Defaults to 0.0: they stay.
        recompute (bool): Whether a step with regularizers runs the clean forward once more, instead
            of keeping its graph beside the adversarial one: one forward more, one graph less in
            memory. Where the model runs in fp16 the graph is kept. Defaults to False.
        dual_bn (bool): Whether the adversarial path has auxiliary batch norms. Defaults to True.
        dual_ln (bool): Whether it also has auxiliary LayerNorms. Defaults to False.
        attack_path (str): The norms that the attack uses in training: ``'clean'`` (its first
            gradient then comes from the clean forward) or ``'adversarial'``. Defaults to
            ``'clean'``.
        attack_scale (float): Height and width of the frames in the attack's forwards, relative to
            the frames it perturbs: with 0.5 each attack step costs a quarter. The first gradient
            then needs a forward of its own, so this pays off only for several steps. Defaults
            to 1.0.
        attack_dtype (str, optional): ``'bfloat16'`` or ``'float16'``: autocast dtype of the
            forwards that only the attack needs. It does not apply to a gradient from the clean
            forward, so a single step from there cannot use it. Defaults to None: the trainer's
            precision.
        begin (int): The first epoch with the adversarial path under an mmengine hook with
            ``by_epoch=True``, otherwise the first iteration. Defaults to 0.
        end (int, optional): The epoch or iteration at which the adversarial path ends
            (exclusive). Defaults to None: never.
        interval (int): The adversarial path is taken every ``interval`` iterations. Defaults
            to 1.
        fraction (float): Fraction of each batch, drawn at random, that gets an adversarial
            counterpart; at least two samples. Defaults to 1.0.
        budget (float, optional): Maximum cost of the whole run in clean runs, such as 1.25. It
            determines ``interval`` and ``fraction`` at the first batch, see
            :func:`adv_plugins.core.cost.within_budget`. Defaults to None: no limit.
        watch (Callable, optional): ``watch(adversary, batch, target)``, called before an
            adversarial step, returns values to log. Each model has a copy of it. A trainer with
            validation data sets its ``held_out``, if it has that attribute. Defaults to None.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> Recipe(objective=TemporalCAM(num_frames=4), norm='l2', eps=2.0, step_size=2.0)
    """

    name: str = 'Recipe'
    objective: Any
    eps: Any
    step_size: float | None = None
    steps: int = 1
    norm: str = 'linf'
    dims: tuple[int, ...] | None = None
    joint: bool = False
    shared: Any = ()
    frames: Any = None
    region: Any = None
    random_start: bool = False
    clamp: bool = True
    clean_weight: float = 1.0
    adv_weight: float = 1.0
    regularizers: Any = ()
    weight_eps: float = 0.0
    recompute: bool = False
    dual_bn: bool = True
    dual_ln: bool = False
    attack_path: str = 'clean'
    attack_scale: float = 1.0
    attack_dtype: str | None = None
    begin: int = 0
    end: int | None = None
    interval: int = 1
    fraction: float = 1.0
    budget: float | None = None
    watch: Any = None

    __repr__ = describe

    def __str__(self) -> str:
        """As ``repr``, under the name of the recipe: what the log says."""
        return repr(self).replace(f'Recipe(name={self.name!r}, ', f'{self.name}(', 1)

    def __post_init__(self) -> None:
        # The dataclass is frozen, so replace what was given by what it means via vars().
        for length in ('eps', 'step_size'):
            if isinstance(vars(self)[length], str):
                vars(self)[length] = as_length(length, vars(self)[length])
        weights = ('clean_weight', 'adv_weight', 'weight_eps')
        for number in ('fraction', 'budget', 'attack_scale', *weights):
            if isinstance(vars(self)[number], str):
                vars(self)[number] = as_number(number, vars(self)[number])
        if isinstance(self.eps, Mapping):
            vars(self).update(eps=build('eps', Radius, RADII, self.eps))
        vars(self).update(
            objective=build('objective', Objective, OBJECTIVES, self.objective),
            regularizers=build_regularizers(self.regularizers),
        )
        vars(self).update(shared=as_axes(self.shared))
        for rule in RULES:
            rule.check(self)
        threat = self.solver.threat
        vars(self).update(shared=threat.shared, frames=threat.frames, region=threat.region)

    @property
    def largest_eps(self) -> float:
        """ε, or the largest one of the run."""
        largest: float = self.eps.largest if isinstance(self.eps, Radius) else self.eps
        return largest

    @property
    def solver(self) -> GradientAscent:
        """The attack of this recipe, at its largest ε."""
        return self.solver_at(self.largest_eps)

    def solver_at(self, eps: float | Tensor) -> GradientAscent:
        """The attack of this recipe at one ε, or one for each sample."""
        step_size = eps if self.steps == 1 else 2.5 * eps / self.steps
        if self.step_size is not None:
            step_size = self.step_size * (eps / self.largest_eps if self.largest_eps else 1.0)
        options = {n: getattr(self, n) for n in ThreatModel.__dataclass_fields__}
        threat = ThreatModel(**{**options, 'eps': eps})
        return GradientAscent(threat, step_size, self.steps, self.random_start)

    @property
    def starts_at_clean(self) -> bool:
        """Whether the attack's first gradient in training comes from the clean forward."""
        here = self.attack_path == 'clean' and not self.random_start
        return here and self.attack_scale == 1 and self.runs_clean

    @property
    def runs_clean(self) -> bool:
        """Whether a step runs a clean forward, because something reads what it gives or moves."""
        losses = self.clean_weight > 0 or bool(self.regularizers)
        # What chooses labels, or the samples to attack; and clean norms, which are deployed.
        choice = not self.objective.is_training_loss or self.fraction < 1
        return losses or choice or self.dual_bn or self.dual_ln

    @property
    def regularized(self) -> bool:
        """Whether a regularizer differentiates the records."""
        return any(regularizer.weight > 0 for regularizer in self.regularizers)

    def weigh(self, loss: Tensor) -> Tensor:
        """An adversarial loss times its weight.

        Without a weight it may be infinite where a regularizer differentiates the same forward.
        """
        unused = self.adv_weight == 0 and self.regularized
        return torch.zeros_like(loss) if unused else self.adv_weight * loss

    def is_active(self, progress: int, iteration: int) -> bool:
        """Whether the adversarial path is taken.

        Args:
            progress (int): Current epoch or iteration, in the unit of ``begin`` and ``end``.
            iteration (int): Current iteration, to which ``interval`` applies.
        """
        started = self.begin <= progress and (self.end is None or progress < self.end)
        return started and iteration % self.interval == 0


RECIPES: dict[str, Callable[..., Recipe]] = {'Recipe': Recipe}
"""The recipes that a config can name."""


def register_recipe(
    *, base: Callable[..., Recipe] = Recipe, derives: Sequence[str] = ()
) -> Callable[[Callable[P, Recipe]], Callable[P, Recipe]]:
    """Register a function that returns a recipe under the function's name.

    Its ``**options`` stand for the options of ``base``. They become part of its signature, which
    errors and ``help()`` show. The log uses the function's name as the recipe's name.

    Args:
        base (Callable): The recipe to which the function passes its ``**options``. Defaults to
            :class:`Recipe`.
        derives (Sequence[str]): Options of ``base`` that the function sets itself and therefore
            does not accept. Defaults to ().

    Example:
        >>> @register_recipe(derives=('objective', 'clean_weight'))
        ... def OnlyAdversarial(*, eps: float = 8 / 255, **options: Any) -> Recipe:
        ...     return Recipe(objective='TrainingLoss', clean_weight=0, eps=eps, **options)
    """

    def register(function: Callable[P, Recipe]) -> Callable[P, Recipe]:
        own = inspect.signature(function)
        parameters = {n: p for n, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD}
        for name, parameter in inspect.signature(base).parameters.items():
            if name not in derives:
                parameters.setdefault(name, parameter)
        parameters['name'] = parameters['name'].replace(default=function.__name__)
        signature = own.replace(parameters=list(parameters.values()))

        @functools.wraps(function)
        def recipe(*args: P.args, **options: P.kwargs) -> Recipe:
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f'{function.__name__}() {error}') from None
            options.setdefault('name', function.__name__)
            return function(*args, **options)

        recipe.__signature__ = signature  # type: ignore[attr-defined]
        RECIPES[function.__name__] = recipe
        return recipe

    return register


def build_recipe(recipe: Recipe | str | Mapping[str, Any], **options: Any) -> Recipe:
    """Build a recipe from its name or a config dict; a recipe is returned as it is.

    Args:
        recipe (Recipe | str | Mapping): A recipe, its name in any case (``'taf'``), or
            ``dict(type='TAF', **options)``.
        **options: Options of the recipe; not allowed together with a :class:`Recipe`.

    Raises:
        ValueError: A recipe or option is unknown; the message lists similar names.
    """
    built: Recipe = build('recipe', Recipe, RECIPES, recipe, **options)
    return built


def build_regularizers(
    regularizers: Sequence[Regularizer | str | Mapping[str, Any]],
) -> tuple[Regularizer, ...]:
    """Build a list of regularizers; each entry is one, its class name or a config dict.

    Raises:
        ValueError: ``regularizers`` is not a list, a regularizer or option is unknown, or two
            have the same name, which the log could not distinguish; or one has ``loss`` in its
            name, or a name that begins with ``adv_``.
    """
    if regularizers is None or isinstance(regularizers, (Regularizer, str, Mapping)):
        raise ValueError(
            f'regularizers={regularizers!r} must be a list; write regularizers=[{regularizers!r}]'
        )
    built = tuple(build('regularizer', Regularizer, REGULARIZERS, entry) for entry in regularizers)
    names = [entry.name for entry in built]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'regularizers has {name!r} twice; write it once')
        if 'loss' in name:
            raise ValueError(
                f'a regularizer is called {name!r}, but its unweighted value is logged under this '
                "name, and trainers add up every entry with 'loss' in its name; leave 'loss' out "
                'of it: the weighted value is logged as loss_<name>'
            )
        if not name or name.startswith('adv_'):
            raise ValueError(
                f'a regularizer is called {name!r}; give it a name that does not begin with adv_, '
                'as what the step itself logs does'
            )
    return built
