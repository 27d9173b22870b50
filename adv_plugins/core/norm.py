"""Dual norm: auxiliary parameters and statistics for adversarial inputs (TAF, section 3.3).

The statistics of adversarial inputs differ from those of clean ones, so adversarial inputs get
auxiliary norms (Xie et al., CVPR 2020). A converted norm becomes a subclass of its own class and
keeps its parameters and buffers. Its auxiliary entries are parameters and buffers of the same
module (``adv_weight``, ``adv_running_mean``, ...) that replace the clean ones during one call, so
norms with special behaviour (SyncBatchNorm, timm's BatchNormAct2d) keep it on both paths. State
dicts leave the auxiliary entries out.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .autograd import autograd_clock
from .subclass import Swapped, restore_class, swap_class

CLEAN = 'clean'
ADVERSARIAL = 'adversarial'
PREFIX = 'adv_'
_RECORDED = 1024
"""Number of adversarial forwards whose sequence numbers are remembered for recomputation."""


class NormPath:
    """The path that forwards take through the norms; one object is shared by all of a model's."""

    def __init__(self) -> None:
        self.branch = CLEAN
        self.tracking = True
        self._inside = False
        self._recorded: list[tuple[int, int]] = []

    @contextmanager
    def use(self, branch: str, tracking: bool = True) -> Iterator[None]:
        """Use one branch inside the ``with`` block.

        Args:
            branch (str): ``'clean'`` or ``'adversarial'``.
            tracking (bool): Whether running statistics are updated; an outer ``use`` that froze
                them takes precedence. Defaults to True.
        """
        before = self.branch, self.tracking, self._inside
        self.branch, self.tracking, self._inside = branch, tracking and self.tracking, True
        # An attack runs its backwards inside the block. Only forwards that update statistics have
        # their backward later, so only they can be recomputed there.
        recorded = branch == ADVERSARIAL and self.tracking
        start = autograd_clock() if recorded else 0
        try:
            yield
        finally:
            self.branch, self.tracking, self._inside = before
            if recorded:
                self._recorded.append((start, autograd_clock()))
                del self._recorded[:-_RECORDED]

    def now(self) -> tuple[str, bool]:
        """The branch of the running forward, and whether it updates statistics.

        Activation checkpointing recomputes forwards inside the trainer's backward, after the step.
        There, the autograd sequence number of the current node identifies the branch.
        """
        if self._inside or torch._C._current_graph_task_id() == -1:
            return self.branch, self.tracking
        number = torch._C._current_autograd_node()._sequence_nr()
        # They are sorted; find the last one that began before this node.
        before = bisect.bisect(self._recorded, number, key=lambda record: record[0])
        adversarial = before > 0 and number < self._recorded[before - 1][1]
        return ADVERSARIAL if adversarial else CLEAN, self.tracking


class DualNorm(Swapped):
    """Mixed into the class of a converted norm; see the module docstring."""

    _norm_path: NormPath
    _auxiliary: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        branch, tracking = self._norm_path.now()
        if branch == CLEAN and tracking:
            return super().forward(*args, **kwargs)
        parameters, buffers = dict(self._parameters), dict(self._buffers)
        try:
            if branch == ADVERSARIAL:
                for name in self._auxiliary:
                    if name in parameters:
                        self._parameters[name] = parameters[PREFIX + name]
                    else:
                        self._buffers[name] = buffers[PREFIX + name]
            if not tracking:
                for name, buffer in self._buffers.items():
                    if buffer is not None and not name.startswith(PREFIX):
                        self._buffers[name] = buffer.clone()
            output = super().forward(*args, **kwargs)
            if branch == ADVERSARIAL and tracking:
                # Some norms assign a new tensor instead of updating in place.
                for name in buffers.keys() & set(self._auxiliary):
                    buffers[PREFIX + name] = self._buffers[name]
            return output
        finally:
            self._parameters.update(parameters)
            self._buffers.update(buffers)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._auxiliary:
            destination.pop(prefix + PREFIX + name, None)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        missing: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        auxiliary = {prefix + PREFIX + name for name in self._auxiliary}
        missing_keys.extend(key for key in missing if key not in auxiliary)
        for name, clean, twin in list(self.auxiliary_pairs()):
            if twin.is_meta and not clean.is_meta:
                # A model from the meta device got its values by load_state_dict(assign=True).
                setattr(self, PREFIX + name, copy.deepcopy(clean))

    def auxiliary_pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, clean tensor and auxiliary tensor of every entry that has an auxiliary one."""
        for name in self._auxiliary:
            yield name, getattr(self, name), getattr(self, PREFIX + name)


_STATISTICS = ('running_mean', 'running_var', 'moving_mean', 'moving_var', 'moving_variance')


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module has running statistics, even if they are switched off."""
    return any(name in module._buffers for name in _STATISTICS)


def _scales_batch_norms(module: nn.Module) -> bool:
    """Whether a module has the affine parameters of its children, like MMAction2's SubBatchNorm3D.

    Its children are batch norms without any, and all it has are vectors of their length.
    """
    norms = [child for child in module.children() if is_batch_norm(child)]
    lengths = {
        value.shape for norm in norms for value in norm._buffers.values() if value is not None
    }
    own = [value for value in module._parameters.values() if value is not None]
    bare = not any(list(norm.parameters()) for norm in norms)
    return bool(norms and own) and bare and all(v.ndim == 1 and v.shape in lengths for v in own)


def plain_batch_norms(model: nn.Module) -> list[str]:
    """Names of the trainable batch norms that were not converted, and so serve both paths."""
    return [
        name
        for name, part in model.named_modules()
        if is_batch_norm(part)
        and not isinstance(part, DualNorm)
        and any(value.requires_grad for value in part.parameters())
    ]


def convert_norms(
    model: nn.Module, path: NormPath, dual_bn: bool, dual_ln: bool = False
) -> list[DualNorm]:
    """Convert every norm with running statistics in place, and optionally every LayerNorm.

    Args:
        model (nn.Module): The model; norms that are already converted are left unchanged.
        path (NormPath): The path that the norms follow.
        dual_bn (bool): Whether batch norms get auxiliary entries. Without them both paths share all
            entries, and a converted norm can only freeze its statistics.
        dual_ln (bool): Whether LayerNorms get auxiliary entries. Defaults to False.

    Returns:
        list[DualNorm]: The norms of the model, in the order of ``model.modules()``.
    """
    plan = []
    for module in model.modules():
        layer_norm = dual_ln and isinstance(module, nn.LayerNorm)
        kept = isinstance(module, (DualNorm, torch.jit.ScriptModule))
        if not kept and (layer_norm or is_batch_norm(module) or _scales_batch_norms(module)):
            twins = _twins(module) if layer_norm or dual_bn else {}
            check_twins(module, twins)
            plan.append((module, twins))
    for module, twins in plan:
        swap_class(module, DualNorm, 'Dual')
        module.__dict__['_norm_path'] = path
        module.__dict__['_auxiliary'] = tuple(twins)
        for name, value in twins.items():
            if isinstance(value, nn.Parameter):
                module.register_parameter(PREFIX + name, value)
            else:
                module.register_buffer(PREFIX + name, value)
    return dual_norms(model)


def _twins(norm: nn.Module) -> dict[str, Tensor]:
    """A copy of each parameter and buffer of a norm, by its name."""
    twins: dict[str, Tensor] = {}
    for name, value in {**norm._parameters, **norm._buffers}.items():
        if isinstance(value, nn.Parameter):
            twins[name] = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        elif value is not None:
            twins[name] = value.detach().clone()
    return twins


def check_twins(norm: nn.Module, twins: Collection[str]) -> None:
    """Check that what a norm computes with is what has auxiliary twins.

    Args:
        norm (nn.Module): The norm.
        twins (Collection[str]): Names of its entries that have an auxiliary one.

    Raises:
        ValueError: It computes one from other parameters (weight norm, pruning), before its
            ``forward``. The adversarial path would then use the clean one.
    """
    computed = list(getattr(norm, 'parametrizations', ()))
    for name, value in vars(norm).items():
        if isinstance(value, Tensor) and any(n.startswith(f'{name}_') for n in norm._parameters):
            computed.append(name)
    if computed and twins:
        raise ValueError(
            f'the {computed[0]} of {type(norm).__name__} is computed from other parameters (a '
            'parametrization, weight norm, pruning), so it cannot have an auxiliary one; make it a '
            'parameter again before make_adversarial (torch.nn.utils.parametrize.'
            'remove_parametrizations, remove_weight_norm, prune.remove), or write dual_bn=False, '
            'dual_ln=False'
        )


def revert_norms(model: nn.Module) -> None:
    """Undo :func:`convert_norms`, even if it was interrupted."""
    for module in dual_norms(model):
        for name in module.__dict__.pop('_auxiliary', ()):
            module._parameters.pop(PREFIX + name, None)
            module._buffers.pop(PREFIX + name, None)
        module.__dict__.pop('_norm_path', None)
        restore_class(module)


def dual_norms(model: nn.Module) -> list[DualNorm]:
    """The converted norms of a model."""
    return [module for module in model.modules() if isinstance(module, DualNorm)]


def shared_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters in the parts of converted batch norms, which have no twins."""
    names = {id(value): name for name, value in model.named_parameters()}
    return [
        names[id(value)]
        for module in dual_norms(model)
        if is_batch_norm(module)
        for part in module.modules()
        if not isinstance(part, DualNorm)
        for value in part._parameters.values()
        if value is not None
    ]


def auxiliary_parameters(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Pairs of a clean parameter and its auxiliary one."""
    for module in dual_norms(model):
        for _, clean, auxiliary in module.auxiliary_pairs():
            if isinstance(clean, nn.Parameter) and isinstance(auxiliary, nn.Parameter):
                yield clean, auxiliary


@torch.no_grad()
def copy_clean_to_auxiliary(model: nn.Module) -> None:
    """Copy every clean entry to its auxiliary one."""
    for module in dual_norms(model):
        for _, clean, auxiliary in module.auxiliary_pairs():
            auxiliary.copy_(clean)


def mirror_requires_grad(model: nn.Module) -> None:
    """Freeze or unfreeze auxiliary parameters like their clean ones (partial_bn, ...)."""
    for clean, auxiliary in auxiliary_parameters(model):
        auxiliary.requires_grad_(clean.requires_grad)
