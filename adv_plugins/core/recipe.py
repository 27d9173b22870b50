"""Recipes: what fills the picture of an adversarial step, and the papers' own fillings.

A recipe is threat model (norm, eps, axes, clamp) × solver (steps, step size, start) × objective
× regularizers × weights × norm policy × schedule (begin, end, interval, fraction of the batch).
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, ClassVar

from .attack import GradientAscent
from .checks import check_choice
from .functional import CAM_NORMALIZATIONS, CAM_WEIGHTINGS, NORMS
from .objectives import OBJECTIVES, Objective, TemporalCAM, TrainingLoss
from .regularizers import REGULARIZERS, AttentionFrobenius, Regularizer, check_names


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An adversarial step, composed from parts.

    Args:
        objective (Objective | str | dict): What the attack maximises: an objective, its class
            name, or ``dict(type=name, **options)``.
        eps (float): Radius of the ball around each sample: a fraction of the value range
            (8/255 = eight grey levels) wherever the model's normalisation is known, in units of
            the input otherwise.
        step_size (float, optional): β, the length of an attack step, in the unit of ``eps``.
            Defaults to None: ε for K=1, and 2.5 ε / K for more steps.
        steps (int): K, number of attack steps. Defaults to 1.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'linf'``.
        dims (tuple[int, ...], optional): Axes of the input that one norm runs over: ``(2,)``
            is one ball for each frame of features (B, T, D). Defaults to None: all but the
            batch, one ball for each sample and modality.
        joint (bool): Whether one norm runs over all modalities of a sample together. Defaults to
            False.
        random_start (bool): Whether the attack starts at a random point of the ball. Defaults
            to False: at the clean input.
        clamp (bool): Whether adversarial inputs are clipped to valid pixels. False is the bare
            projection of taf.txt eq. 6. Defaults to True.
        clean_weight (float): Weight of the clean losses. With 0 write ``dual_bn=False`` too, as
            nothing else trains the clean norms, which are the deployed ones. Defaults to 1.0.
        adv_weight (float): Weight of the adversarial losses. Defaults to 1.0.
        regularizers (Sequence[Regularizer | dict | str]): Penalties on the pair of clean and
            adversarial forward, each added with its weight. Defaults to ().
        dual_bn (bool): Whether the adversarial path has batch norms of its own. Defaults to
            True.
        dual_ln (bool): Whether it has LayerNorms of its own too. Defaults to False.
        attack_path (str): Whose norms the attack sees in training: ``'clean'`` (its first
            gradient then comes out of the clean forward) or ``'adversarial'``. Defaults to
            ``'clean'``.
        attack_scale (float): Height and width of the frames that the attack looks at, relative to
            those it perturbs: 0.5 makes each of its steps cost a quarter. Its first gradient then
            has a forward of its own, so that it pays for several steps. Defaults to 1.0.
        attack_dtype (str, optional): ``'bfloat16'`` or ``'float16'``: the forwards that only the
            attack needs run under autocast to it. A gradient at the graph of the clean forward is
            as precise as that, so that one step from there has none. Defaults to None: as the
            trainer's.
        begin (int): First epoch with the adversarial path under an mmengine hook with
            ``by_epoch=True``, first iteration everywhere else. Defaults to 0.
        end (int, optional): First epoch or iteration without it again. Defaults to None: never.
        interval (int): The adversarial path is taken every ``interval`` iterations. Defaults
            to 1.
        fraction (float): Fraction of each batch, drawn at random, that gets an adversarial
            counterpart; two samples at least. Defaults to 1.0.
        budget (float, optional): What the whole run may cost in clean runs, such as 1.25; it
            chooses ``interval`` and ``fraction`` at the first batch, see
            :func:`~adv_plugins.core.cost.within_budget`. Defaults to None: no limit.

    Raises:
        ValueError: An option outside of what is allowed.

    Example:
        >>> Recipe(objective=TemporalCAM(num_frames=4), norm='l2', eps=2.0, step_size=2.0)
    """

    objective: Any
    eps: float
    step_size: float | None = None
    steps: int = 1
    norm: str = 'linf'
    dims: tuple[int, ...] | None = None
    joint: bool = False
    random_start: bool = False
    clamp: bool = True
    clean_weight: float = 1.0
    adv_weight: float = 1.0
    regularizers: Any = ()
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

    modules_option: ClassVar[str] = 'modules'
    """What the regularizers' option ``modules`` is called here, for errors."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'objective', build_objective(self.objective))
        object.__setattr__(self, 'regularizers', build_regularizers(self.regularizers))
        check_choice('norm', self.norm, NORMS)
        check_choice('attack_path', self.attack_path, ('clean', 'adversarial'))
        if self.attack_dtype is not None:
            check_choice('attack_dtype', self.attack_dtype, ('bfloat16', 'float16'))
        for option in ('eps', 'step_size', 'clean_weight', 'adv_weight', 'begin'):
            if getattr(self, option) is not None and not 0 <= getattr(self, option) < math.inf:
                raise ValueError(
                    f'{option}={getattr(self, option)} must be finite and not negative'
                )
        for option in ('steps', 'interval'):
            value = getattr(self, option)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f'{option}={value} must be a whole number, 1 at least')
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f'fraction={self.fraction} must lie in (0, 1]; to switch the adversarial path off '
                'for a while, write begin, end or interval'
            )
        if not 0 < self.attack_scale <= 1:
            raise ValueError(f'attack_scale={self.attack_scale} must lie in (0, 1], e.g. 0.5')
        if self.attack_dtype is not None and self.starts_at_clean and self.steps == 1:
            raise ValueError(
                f'attack_dtype={self.attack_dtype!r} is for forwards that only the attack needs, '
                'and one step from the clean forward needs none; leave it out, or write steps=2 or '
                'more, attack_scale=0.5 or random_start=True'
            )
        if self.budget is not None and not 1 < self.budget < math.inf:
            raise ValueError(
                f'budget={self.budget} must be greater than 1, which is what a clean run costs; '
                'write e.g. budget=1.25'
            )
        if self.budget is not None and (self.interval, self.fraction) != (1, 1):
            raise ValueError(
                f'budget={self.budget} chooses interval and fraction; leave out '
                f'interval={self.interval} and fraction={self.fraction}'
            )
        if self.end is not None and self.end <= self.begin:
            raise ValueError(f'end={self.end} must be greater than begin={self.begin}')
        if self.joint and self.dims is not None:
            raise ValueError(
                f'joint=True is one norm over all that a sample has, dims={self.dims} one over '
                'some axes; write one of them'
            )
        if isinstance(self.dims, int):
            raise ValueError(f'dims={self.dims} must be a tuple of axes; write dims=({self.dims},)')
        if self.dims is not None and not all(axis > 0 for axis in self.dims):
            raise ValueError(
                f'dims={self.dims} must be positive axes; 0 is the batch, and samples do not share '
                'a ball'
            )

    @property
    def solver(self) -> GradientAscent:
        """The attack of this recipe."""
        step_size = self.eps if self.steps == 1 else 2.5 * self.eps / self.steps
        return GradientAscent(
            norm=self.norm,
            eps=self.eps,
            step_size=step_size if self.step_size is None else self.step_size,
            steps=self.steps,
            dims=self.dims,
            joint=self.joint,
            random_start=self.random_start,
            clamp=self.clamp,
        )

    @property
    def starts_at_clean(self) -> bool:
        """Whether the attack's first gradient, in training, comes out of the clean forward."""
        here = self.attack_path == 'clean' and not self.random_start
        return here and self.attack_scale == 1

    def is_active(self, progress: int, iteration: int) -> bool:
        """Whether the adversarial path is taken.

        Args:
            progress (int): Current epoch or iteration, the unit of ``begin`` and ``end``.
            iteration (int): Current iteration, the unit of ``interval``.
        """
        started = self.begin <= progress and (self.end is None or progress < self.end)
        return started and iteration % self.interval == 0


@dataclass(frozen=True, kw_only=True)
class TAF(Recipe):
    """Temporal Video Adversarial Fine-tuning (taf.txt eq. 2-7), for fine-tuning a trained model.

    Takes the options of :class:`Recipe` (``objective`` and the weights apart) with the paper's
    defaults, and

    Args:
        alpha (float): α of eq. 7: weight of the clean losses; the adversarial ones get
            ``1 - alpha``. Defaults to 0.7.
        eps (float): ε. Defaults to 64/255.
        step_size (float): β. Defaults to 32/255.
        num_frames (int, optional): N of eq. 5. Defaults to None: all frames.
        cam_layer (str, optional): Dotted name of the layer whose output is F'. Defaults to
            None: found.
        cam_layout (str, optional): Axes of that output, an einops pattern such as
            ``'b (t h w) c; t=8 h=14'``. Defaults to None: from its shape.
        cam_weighting (str): ``'gap'`` or ``'elementwise'``. Defaults to ``'gap'``.
        cam_normalize (str): ``'minmax'`` or ``'max'``. Defaults to ``'minmax'``.
        second_order (bool): Whether the CAM's channel weights are differentiated. Defaults to
            True.

    Example:
        >>> custom_hooks = [dict(type='TAFHook', alpha=0.7, eps=64 / 255, step_size=32 / 255)]
    """

    objective: Any = field(init=False, repr=False, default=None)
    clean_weight: float = field(init=False, repr=False, default=1.0)
    adv_weight: float = field(init=False, repr=False, default=1.0)
    eps: float = 64 / 255
    step_size: float | None = 32 / 255
    alpha: float = 0.7
    num_frames: int | None = None
    cam_layer: str | None = None
    cam_layout: str | None = None
    cam_weighting: str = CAM_WEIGHTINGS[0]
    cam_normalize: str = CAM_NORMALIZATIONS[0]
    second_order: bool = True

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_choice('cam_weighting', self.cam_weighting, CAM_WEIGHTINGS)
        check_choice('cam_normalize', self.cam_normalize, CAM_NORMALIZATIONS)
        objective = TemporalCAM(
            num_frames=self.num_frames,
            cam_layer=self.cam_layer,
            cam_layout=self.cam_layout,
            weighting=self.cam_weighting,
            normalize=self.cam_normalize,
            second_order=self.second_order,
        )
        object.__setattr__(self, 'objective', objective)
        object.__setattr__(self, 'clean_weight', self.alpha)
        object.__setattr__(self, 'adv_weight', 1 - self.alpha)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class CEAugmentation(Recipe):
    """TAF with the training loss as the objective: the CE-based row of taf.txt table 2a.

    Takes the options of :class:`Recipe` (``objective`` and the weights apart) with the defaults
    of :class:`TAF`, and

    Args:
        alpha (float): Weight of the clean losses; the adversarial ones get ``1 - alpha``.
            Defaults to 0.7.
    """

    objective: Any = field(init=False, repr=False, default_factory=TrainingLoss)
    clean_weight: float = field(init=False, repr=False, default=1.0)
    adv_weight: float = field(init=False, repr=False, default=1.0)
    eps: float = 64 / 255
    step_size: float | None = 32 / 255
    alpha: float = 0.7

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        object.__setattr__(self, 'clean_weight', self.alpha)
        object.__setattr__(self, 'adv_weight', 1 - self.alpha)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class AdvProp(Recipe):
    """Adversarial propagation (Xie et al., CVPR 2020), for training from scratch.

    Takes the options of :class:`Recipe` with that paper's defaults: PGD with ε=4/255, step
    1/255, K=5 on the training loss, through the auxiliary norms (its algorithm 1), and clean
    plus adversarial loss.
    """

    objective: Any = field(default_factory=TrainingLoss)
    eps: float = 4 / 255
    step_size: float | None = 1 / 255
    steps: int = 5
    attack_path: str = 'adversarial'


@dataclass(frozen=True, kw_only=True)
class ART(Recipe):
    """Adversarially robust training of a Transformer on features (a-art.txt eq. 2-4).

    One ℓ2-normalised ascent step on the training loss; clean and adversarial inputs share all
    weights. Takes the options of :class:`Recipe` (``objective`` and the weights apart) with the
    paper's defaults, and

    Args:
        alpha (float): α of eq. 2: weight of the adversarial losses beside the clean ones' 1.
            Defaults to 1.0.
        eps (float): ε, in the units of the features, for each video (all of its valid frames)
            and each modality; see ``dims`` and ``joint``. Defaults to 0.5.

    Example:
        >>> custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
    """

    objective: Any = field(init=False, repr=False, default_factory=TrainingLoss)
    clean_weight: float = field(init=False, repr=False, default=1.0)
    adv_weight: float = field(init=False, repr=False, default=1.0)
    norm: str = 'l2'
    eps: float = 0.5
    alpha: float = 1.0
    clamp: bool = False
    dual_bn: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(
                f'alpha={self.alpha} must be finite and not negative; the paper has alpha=1'
            )
        object.__setattr__(self, 'adv_weight', self.alpha)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class AART(ART):
    """ART with attention-map regularisation (a-art.txt 2.2).

    Takes the options of :class:`ART` (``regularizers`` apart), and

    Args:
        beta (float): β_Fr, the weight of ``mean_i ||A_i - A_i^adv||_F`` of each attention
            module. Defaults to 0.001.
        attention (Sequence[str], optional): Dotted names of the attention modules. Defaults to
            None: all that are found.

    Example:
        >>> custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
    """

    regularizers: Any = field(init=False, repr=False, default=())
    beta: float = 0.001
    attention: Sequence[str] | None = None

    modules_option: ClassVar[str] = 'attention'

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise ValueError(
                f'beta={self.beta} must be finite and not negative; the paper has beta=0.001'
            )
        check_names('attention', self.attention)
        term = AttentionFrobenius(weight=self.beta, modules=self.attention)
        object.__setattr__(self, 'regularizers', (term,))
        super().__post_init__()


RECIPES: dict[str, type[Recipe]] = {
    kind.__name__: kind for kind in (Recipe, TAF, CEAugmentation, AdvProp, ART, AART)
}


def check_alpha(alpha: float) -> None:
    """Raise unless α is a weight between 0 and 1."""
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha={alpha} must lie in [0, 1], the paper has alpha=0.7')


def build_recipe(recipe: Recipe | str | Mapping[str, Any], **options: Any) -> Recipe:
    """A recipe from a name, a config dict or a recipe.

    Args:
        recipe (Recipe | str | Mapping): A recipe, its name in any case (``'taf'``), or
            ``dict(type='TAF', **options)``.
        **options: Options of the recipe; not together with a ready one.

    Raises:
        ValueError: Unknown recipe or option; the message has the near matches.
    """
    built: Recipe = build('recipe', Recipe, RECIPES, recipe, **options)
    return built


def build_objective(objective: Objective | str | Mapping[str, Any]) -> Objective:
    """An objective from an objective, its class name or a config dict."""
    built: Objective = build('objective', Objective, OBJECTIVES, objective)
    return built


def build_regularizers(
    regularizers: Sequence[Regularizer | str | Mapping[str, Any]],
) -> tuple[Regularizer, ...]:
    """Regularizers from regularizers, their class names or config dicts.

    Raises:
        ValueError: Not a list, an unknown regularizer or option, or two of one name, which the
            log could not tell apart.
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
    return built


def build(
    option: str, base: type[Any], kinds: Mapping[str, type[Any]], entry: Any, **options: Any
) -> Any:
    """One of several dataclasses from its name in any case, a config dict, or a ready one.

    Args:
        option (str): What is chosen, for the messages.
        base (type): The class of ready ones; without a ``type`` a dict is of this class, if it is
            one of them.
        kinds (Mapping[str, type]): The classes by name.
        entry (Any): The name, ``dict(type=name, **options)``, or an instance of ``base``.
        **options: Further arguments; not together with a ready one.

    Raises:
        ValueError: An unknown name or argument, with the near matches, or one that is missing.
    """
    if isinstance(entry, base):
        if options:
            given = ', '.join(f'{key}={value!r}' for key, value in options.items())
            raise ValueError(f'{given} beside a ready {option}; write {type(entry).__name__}(...)')
        return entry
    name = entry
    if isinstance(entry, Mapping):
        options = {**entry, **options}
        name = options.pop('type', base.__name__ if base.__name__ in kinds else '')
    folded = {kind.lower(): kind for kind in kinds}
    wanted = str(name).lower().replace('_', '')
    if wanted not in folded:
        near = difflib.get_close_matches(wanted, folded, n=2, cutoff=0.5)
        choices = ' or '.join(repr(folded[match]) for match in near) or ', '.join(map(repr, kinds))
        raise ValueError(f'{option}={name!r} is unknown; write {choices}')
    kind = kinds[folded[wanted]]
    allowed = [entry.name for entry in fields(kind) if entry.init]
    for key in options:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=2, cutoff=0.5) or allowed
            raise ValueError(f'{kind.__name__} has no option {key}=; write {", ".join(near)}')
    required = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    if required:
        raise ValueError(f'{kind.__name__} needs the options {", ".join(required)}')
    return kind(**options)
