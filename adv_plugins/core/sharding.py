"""Models sharded by FSDP2 (``torch.distributed.fsdp.fully_shard``): what the step does differently.

Each process holds a shard of every parameter. The hooks of FSDP2 gather the whole parameters of a
module before its forward and its backward and free them afterwards. So a graph's leaves are the
gathered parameters, while ``model.parameters()`` are shards, unless a module is gathered just then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

ORDER = 'make_adversarial(model); fully_shard(block) for each block; fully_shard(model)'


def is_sharded(module: nn.Module) -> bool:
    """Whether a module was given to ``fully_shard``."""
    # By name, because a torch without torch.distributed does not have the class.
    return any(kind.__name__ == 'FSDPModule' for kind in type(module).__mro__)


def check_sharding(model: nn.Module) -> None:
    """Raise a TypeError if a model is sharded in a way that the step cannot follow."""
    parts = list(model.modules())
    if is_sharded(model):
        # Before, FSDP2 failed where two forwards with checkpoints come before one backward.
        if torch.__version__ < '2.13':
            raise TypeError(
                f'the adversarial step under FSDP2 needs torch 2.13 or newer, this is '
                f'{torch.__version__}; wrap the model in DistributedDataParallel'
            )
        return
    if not any(getattr(part, '_is_fsdp_managed_module', False) for part in parts):
        return
    if any(map(is_sharded, parts)):
        raise TypeError(
            f'parts of {type(model).__name__} are sharded, but the converted model itself is not, '
            'so the step cannot keep the rest of its parameters; shard it last: fully_shard(model)'
        )
    raise TypeError(
        'the model is sharded by FSDP1 (FullyShardedDataParallel), which moves the parameters out '
        'of the norms, or only as a part of a module around it; shard it with FSDP2, after '
        f'make_adversarial: {ORDER}; or wrap it in DistributedDataParallel'
    )


def in_forward(model: nn.Module) -> bool:
    """Whether the forward of a sharded model is running."""
    running: str = cast(Any, model)._get_fsdp_state()._training_state.name
    return running == 'FORWARD'


@contextmanager
def gathered(model: nn.Module, as_found: bool = False) -> Iterator[None]:
    """Inside the block, a sharded model's own parameters stay gathered, and nothing is reduced.

    Its own are those that ``fully_shard(model)`` left to it after the blocks. A step may run inside
    the model's forward, which gathers them once, but whose end no backward of the step awaits.
    Gradients that a trainer accumulates are not touched by the backwards of a step.

    Args:
        model (nn.Module): Any model.
        as_found (bool): Whether the parameters are freed afterwards, if they were before. Where no
            backward of a trainer follows, which frees them, they would miss the optimizer's next
            step. Defaults to False.

    Raises:
        TypeError: The model is a part of another one that is sharded, too.
    """
    if not is_sharded(model):
        yield
        return
    root: Any = model
    state = root._get_fsdp_state()
    # The first module to run is the root for FSDP2, and the step may begin with a part.
    state._lazy_init()
    if not state._is_root:
        raise TypeError(
            f'a module around {type(model).__name__} is sharded too, whose parameters the '
            'backwards of a step would free; let the converted model be the last that is sharded'
        )
    every, own = _groups(model.modules()), _groups([model])
    running, free = state._training_state, not any(group.is_unsharded for group in own)
    root.unshard()
    try:
        with _settings(every, reduce_grads=False), _settings(own, reshard_after_backward=False):
            yield
    finally:
        # The backwards of a step end a forward around it, for FSDP2.
        state._training_state = running
        if as_found and free:
            reshard_all(model)


@contextmanager
def staying_gathered(model: nn.Module) -> Iterator[None]:
    """Inside the block, what a backward gathers stays gathered.

    A gradient that is differentiated again needs the parameters a second time, and so does one that
    starts in the middle of the graph, where no hook has gathered them.
    """
    parts = model.modules() if is_sharded(model) else ()
    with _settings(_groups(parts), reshard_after_backward=False):
        yield


@contextmanager
def shards(model: nn.Module) -> Iterator[None]:
    """Inside the block, the parameters are the shards: what is written into others is lost.

    Afterwards the model's own parameters are gathered again, if they were.
    """
    again = any(group.is_unsharded for group in _groups([model]))
    reshard_all(model)
    try:
        yield
    finally:
        if again:
            cast(Any, model).unshard()


def reshard_all(model: nn.Module) -> None:
    """Free what is gathered of a sharded model."""
    for group in _groups(model.modules() if is_sharded(model) else ()):
        # FSDPModule.reshard does nothing inside the model's forward.
        group._to_sharded()


def whole(value: Tensor) -> Tensor:
    """A tensor with the shards of all processes; each of them has to call this."""
    gather = getattr(value, 'full_tensor', None)
    return value if gather is None else cast(Tensor, gather())


def local(value: Tensor) -> Tensor:
    """This process's shard of a tensor."""
    shard = getattr(value, 'to_local', None)
    return value if shard is None else cast(Tensor, shard())


def copy_whole(into: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if hasattr(into, 'placements'):
        from torch.distributed.tensor import distribute_tensor

        # Every process has the whole tensor, so none has to send it.
        value = value.to(into.device, into.dtype)
        mesh: Any = cast(Any, into).device_mesh
        value = distribute_tensor(value, mesh, cast(Any, into).placements, src_data_rank=None)
    into.copy_(value)


def extremes(model: nn.Module, value: int) -> tuple[int, int]:
    """The smallest and the largest value among the processes that share a sharded model.

    They gather together, so what one of them runs, all must.
    """
    smallest, largest = largest_of_all(model, torch.tensor([-value, value])).tolist()
    return -smallest, largest


def largest_of_all(model: nn.Module, values: Tensor) -> Tensor:
    """The largest of each value among the processes that share a sharded model."""
    groups = _groups(model.modules() if is_sharded(model) else ())
    # In one order everywhere.
    for mesh in dict.fromkeys(group.mesh_info.mesh for group in groups):
        values = values.to(mesh.device_type)
        for axis in range(mesh.ndim):
            dist.all_reduce(values, dist.ReduceOp.MAX, group=mesh.get_group(axis))
    return values


def _groups(modules: Iterable[nn.Module]) -> list[Any]:
    """FSDP2's own records of the parameters that it gathers together."""
    groups: dict[int, Any] = {}
    for module in modules:
        if is_sharded(module):
            state = cast(Any, module)._get_fsdp_state()
            groups |= {id(group): group for group in state._fsdp_param_groups}
    return list(groups.values())


@contextmanager
def _settings(groups: Iterable[Any], **settings: bool) -> Iterator[None]:
    # FSDPModule can set them, but does not tell how they were set.
    before = [(group, {name: getattr(group, name) for name in settings}) for group in groups]
    try:
        for group, _ in before:
            _set(group, settings)
        yield
    finally:
        for group, values in before:
            _set(group, values)


def _set(group: Any, values: Mapping[str, bool]) -> None:
    for name, value in values.items():
        setattr(group, name, value)
