"""Converting a model in place and back (``make_adversarial`` and its companions)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from .adapter import adapter_class
from .adversary import Adversary, check_inference
from .batch import Inputs
from .norm import (
    PREFIX,
    DualNorm,
    NormPath,
    convert_norms,
    dual_norms,
    is_batch_norm,
    revert_norms,
    shared_parameters,
)
from .recipe import Recipe, build_recipe
from .sharding import ORDER, copy_whole, is_sharded, shards, whole
from .subclass import Swapped, restore_class, swap_class

Model = TypeVar('Model', bound=nn.Module)

_STATE = '_adversary'
_SCHEDULE = 'adversary.'


class AdversarialModule(Swapped):
    """What :func:`make_adversarial` adds to the class of a model."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The plain forward; a training loop that calls nothing else is told so."""
        note_call(self, 'model.adversarial_loss(inputs, target)')
        return super().__call__(*args, **kwargs)

    def adversarial_loss(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        """The losses of one training iteration under the recipe.

        Args:
            inputs (Tensor | Mapping | list | tuple): A batch as the model's own training forward
                takes it: one tensor, or several. A dict is passed by keywords where these are
                arguments of ``forward``, and a list or a tuple as positional arguments where
                ``forward`` requires several; otherwise each is one argument (SlowFast's
                ``[slow, fast]``). Every floating-point tensor in it is perturbed. In a dict, that
                is where its ``<name>_mask`` is True or 1 (valid), or everywhere without a mask; a
                mask itself is not perturbed.
            target (Any): Its labels, shape (B,) or (B, num_classes); data samples for a
                recognizer.

        Returns:
            dict[str, Tensor]: Scalars. For a plain classifier ``'loss'`` is the total to call
            ``backward()`` on and ``'clean_loss'`` and ``'adv_loss'`` are its weighted parts; an
            iteration without the adversarial path has only ``'loss'``. A recognizer returns its
            own weighted losses, and those of the adversarial path with the prefix ``adv_``.
            ``'adv_nonfinite'`` counts the samples left unperturbed because their attack gradient
            was not finite, ``'adv_unmoved'`` all samples left unperturbed, for any reason.
            ``'adv_eps'`` is ε. ``'adv_ratio'`` (``'adv_ratio_<name>'``) is the mean of
            ``||R|| / ||X||`` in the units of the model's input. A regularizer appears weighted as
            ``'loss_<name>'`` and unweighted as ``'<name>'``.
        """
        if not get_adversary(self).schedule.rehearsed and not is_sharded(self):
            _warn_past_ddp()
        return get_adversary(self).losses(inputs, target)

    def perturb(self, inputs: Inputs, target: Any) -> Inputs:
        """Compute the adversarial inputs of the recipe; leaves the model unchanged.

        In eval mode the attack is on the deployed (clean) path, at the largest ε of a recipe whose
        ε changes; in training mode it is on the path that the recipe attacks, with batch
        statistics, at the ε of the next iteration. It uses the random stream of that iteration, so
        a second call returns the same inputs.

        Args:
            inputs (Tensor | Mapping | list | tuple): A batch, as for :meth:`adversarial_loss`.
            target (Any): Its labels, or its data samples for a recognizer.

        Returns:
            Tensor | Mapping | list | tuple: As ``inputs``; its tensors are detached, and of the
            same shape, dtype and space.
        """
        return get_adversary(self).perturb(inputs, target)


def make_adversarial(
    model: Model,
    recipe: Recipe | str | Mapping[str, Any] = 'advprop',
    *,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    mean: Any = None,
    std: Any = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Model:
    """Give a model the adversarial step of a recipe, in place.

    The model remains the same object with the same ``state_dict`` keys and the same outputs. Its
    class becomes a subclass with the methods ``adversarial_loss(inputs, target)`` and
    ``perturb(inputs, target)``. An MMAction2 recognizer also returns the adversarial losses for
    ``mode='loss'`` in training mode. Convert after any SyncBatchNorm conversion, and before the
    optimizer, DistributedDataParallel and averaged copies (``AveragedModel``) are built, and before
    ``fully_shard``. For a plain classifier DistributedDataParallel has to wrap a module whose
    ``forward`` calls ``adversarial_loss``; a sharded one needs no wrapper.

    Args:
        model (nn.Module): Any classifier, or an MMAction2 recognizer.
        recipe (Recipe | str | Mapping): A recipe, its name (``'taf'``), or a config dict with
            its ``type``. Defaults to ``'advprop'``.
        loss_fn (Callable, optional): ``loss_fn(output, target)`` of a plain classifier, a mean
            over the batch. It gets what the model returns as it is: a tensor, or a tuple, a dict or
            an object with auxiliary scores in it, e.g. ``lambda output, target:
            F.cross_entropy(output.logits, target) + 0.3 * F.cross_entropy(output.aux_logits,
            target)``. PyTorch's own losses (``nn.CrossEntropyLoss(label_smoothing=0.1)``) get the
            class scores: the tensor, or ``logits``, or the only tensor that may be scores. Where
            several parts want to be trained, there is no default, and the error has the line to
            write. Labels, predictions and the CAM are always of the class scores; under a
            ``loss_fn`` they are ``logits``, or else the first tensor (B, C). A Hugging Face
            classifier trains with its own loss, or ``loss_fn(logits, labels)``. A module may have
            parameters of its own. Defaults to None: cross-entropy; of a single score a sample, or
            with several labels a sample, write ``nn.BCEWithLogitsLoss()``.
        mean (float | Sequence | Tensor, optional): The mean in the normalisation
            ``(pixel - mean) / std`` of a plain classifier's inputs: one number, one per channel,
            or a tensor that broadcasts to the input. The channels are the axis of this length;
            where several have it (three frames), the one that the model's first convolution takes
            for them. For several inputs it applies to every modality. Defaults to None: 0.
        std (float | Sequence | Tensor, optional): Like ``mean``. Defaults to None: 1.
        value_range (tuple[float, float], optional): Smallest and largest pixel value before
            that normalisation. Defaults to None: (0, 1) if ``mean`` or ``std`` is given;
            otherwise unknown, and ``eps`` and ``step_size`` are in units of the input.
        **options: Options of the recipe, e.g. ``eps=6/255``.

    Returns:
        nn.Module: ``model``.

    Raises:
        ValueError: An unknown recipe, option or layer.
        TypeError: The model cannot be converted (wrapped, compiled, or converted already).

    Example:
        >>> model = make_adversarial(resnet18(), 'advprop', mean=0.5, std=0.5)
        >>> losses = model.adversarial_loss(images, labels)
        >>> losses['loss'].backward()
    """
    _check_convertible(model)
    check_inference(model)
    kind = adapter_class(model)
    recipe = build_recipe(recipe, **options)
    adapter = kind(model, loss_fn=loss_fn, mean=mean, std=std, value_range=value_range)
    path = NormPath()
    try:
        with torch.inference_mode(False):
            norms = convert_norms(model, path, recipe.dual_bn, recipe.dual_ln)
        model.__dict__[_STATE] = Adversary(adapter, recipe, path)
        _warn_if_nothing_to_double(model, recipe, norms)
        swap_class(model, kind.mixin, 'Adversarial')
    except BaseException:
        model.__dict__.pop(_STATE, None)
        revert_norms(model)
        raise
    return model


def _warn_if_nothing_to_double(
    model: nn.Module, recipe: Recipe, norms: Sequence[nn.Module]
) -> None:
    layer_norms = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    if recipe.dual_bn and not norms:
        advice = '; dual_ln=True gives it auxiliary LayerNorms' if layer_norms else ''
        warnings.warn(
            f'{type(model).__name__} has no batch normalisation: dual_bn has nothing to convert, '
            f'and both paths share all weights{advice}',
            stacklevel=3,
        )
    shared = shared_parameters(model) if recipe.dual_bn else []
    if shared:
        warnings.warn(
            f'both paths share {shared[0]}, because the norm keeps it in a part of its own: only '
            'half of this norm gets an auxiliary twin. dual_bn=False lets both share all of it',
            stacklevel=3,
        )
    if recipe.dual_ln and not layer_norms:
        warnings.warn(
            f'{type(model).__name__} has no LayerNorm: dual_ln has nothing to convert', stacklevel=3
        )


def remove_adversarial(model: Model) -> Model:
    """Make a converted model plain again, in place, and drop its auxiliary norms and schedule.

    Args:
        model (nn.Module): A model from :func:`make_adversarial`.

    Returns:
        nn.Module: ``model``, of its former class.
    """
    get_adversary(model)
    if is_sharded(model):
        raise TypeError(
            f'{type(model).__name__} is sharded, and FSDP2 keeps the auxiliary parameters in the '
            'groups that it gathers together; its state dict is that of the plain model: load it '
            'into one (torch.distributed.checkpoint.state_dict.get_model_state_dict)'
        )
    revert_norms(model)
    del model.__dict__[_STATE]
    restore_class(model)
    return model


def adversarial_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the adversarial path, which ``model.state_dict()`` leaves out.

    Args:
        model (nn.Module): A model from :func:`make_adversarial`.

    Returns:
        dict[str, Tensor]: The auxiliary parameters and statistics under their names in the
        model (``backbone.bn1.adv_weight``), and the state of the schedule and of the private
        random stream under ``adversary.*``.
    """
    adversary = get_adversary(model)
    with shards(model):
        state = {name: whole(value.detach()) for name, value in _auxiliary(model).items()}
    bookkeeping = adversary.schedule.state_dict()
    return state | {_SCHEDULE + name: value for name, value in bookkeeping.items()}


@torch.no_grad()
def load_adversarial_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore a state from :func:`adversarial_state_dict`.

    Args:
        model (nn.Module): A model from :func:`make_adversarial` with the same norms.
        state (Mapping[str, Tensor]): The state.

    Raises:
        ValueError: The state is damaged, or of another model; then nothing is loaded.
    """
    adversary = get_adversary(model)
    auxiliary, bookkeeping = _auxiliary(model), adversary.schedule.state_dict()
    expected = auxiliary | {_SCHEDULE + name: value for name, value in bookkeeping.items()}
    given = dict(state) if isinstance(state, Mapping) else {}
    wrong = sorted(map(str, expected.keys() ^ given.keys()))
    wrong += [
        name
        for name, value in expected.items()
        if name in given
        and not (
            isinstance(given[name], Tensor)
            and given[name].shape == value.shape
            and given[name].is_floating_point() == value.is_floating_point()
        )
    ]
    if wrong:
        raise ValueError(
            f'the adversarial state does not fit the model; missing, unexpected or of another '
            f'shape: {", ".join(wrong[:5])}{" ..." if len(wrong) > 5 else ""}'
        )
    adversary.check_again()
    adversary.schedule.load_state_dict({name: given[_SCHEDULE + name] for name in bookkeeping})
    with shards(model):
        for name, value in _auxiliary(model).items():
            copy_whole(value, given[name])


def is_adversarial(model: nn.Module) -> bool:
    """Whether a model was converted by :func:`make_adversarial`."""
    return _STATE in model.__dict__


def get_adversary(model: nn.Module) -> Adversary:
    """The :class:`adv_plugins.core.adversary.Adversary` of a converted model.

    Raises:
        TypeError: The model was not converted.
    """
    if not is_adversarial(model):
        raise TypeError(
            f'{type(model).__name__} is not adversarial; call make_adversarial(model) first'
        )
    adversary: Adversary = model.__dict__[_STATE]
    return adversary


def note_call(model: nn.Module, instead: str) -> None:
    """Note a call of a converted model's own methods, where ``instead`` takes the step."""
    if not torch.compiler.is_compiling() and is_adversarial(model):
        get_adversary(model).passed_by(instead)


def _auxiliary(model: nn.Module) -> dict[str, Tensor]:
    # PyTorch's checkpoint_wrapper, too, leaves itself out of the names in a state dict.
    names = {
        id(module): name.replace('_checkpoint_wrapped_module.', '')
        for name, module in model.named_modules()
    }
    return {
        f'{names[id(module)]}.{PREFIX}{name}'.lstrip('.'): value
        for module in dual_norms(model)
        for name, _, value in module.auxiliary_pairs()
    }


# By name, because not every torch version or installation has them.
_WRAPPERS = (
    'DataParallel',
    'DistributedDataParallel',
    'FullyShardedDataParallel',
    'FSDPModule',
    'DeepSpeedEngine',
    'MMDeepSpeedEngineWrapper',
)


def _check_convertible(model: nn.Module) -> None:
    for module in model.modules():
        if is_adversarial(module) or isinstance(module, DualNorm):
            raise TypeError(
                f'{type(module).__name__} is adversarial already; call remove_adversarial first '
                'to change its recipe, or convert the whole model once'
            )
        compiled = getattr(module, '_compiled_call_impl', None) is not None
        if compiled or hasattr(module, '_orig_mod'):
            raise TypeError(
                f'{type(module).__name__} was compiled before make_adversarial; convert first: '
                'torch.compile(make_adversarial(model))'
            )
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and (module is model or any(map(is_batch_norm, module.modules()))):
            raise TypeError(
                f'the {module.original_name} of the model was scripted or traced, which fixes what '
                'its norms do; convert the plain model, and script a plain copy of it later'
            )
        entries = (*module._parameters.values(), *module._buffers.values())
        if any(value is not None and is_lazy(value) for value in entries):
            raise ValueError(
                f'{type(module).__name__} is lazy: its parameters do not exist yet; run one '
                'forward first, model(inputs), then call make_adversarial'
            )
        names = {kind.__name__ for kind in type(module).__mro__}
        if not names.isdisjoint(_WRAPPERS):
            raise TypeError(
                f'the model is wrapped in {type(module).__name__}, which would not see the '
                'adversarial parameters; convert first, then wrap in DistributedDataParallel, or '
                f'shard with FSDP2: {ORDER}'
            )


def _warn_past_ddp() -> None:
    """Warn outside DistributedDataParallel's forward: only there does it average gradients."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes > 1 and getattr(DistributedDataParallel, '_active_ddp_module', None) is None:
        warnings.warn(
            f'adversarial_loss was not called by the forward of DistributedDataParallel: the '
            f'gradients are not averaged over the {processes} processes. Wrap a module whose '
            'forward returns model.adversarial_loss(inputs, target), and call the wrapper; or '
            f'shard the model: {ORDER}',
            stacklevel=3,
        )
