"""A second device, as a GPU is one, for tests without a GPU: it computes on the CPU.

PyTorch takes its tensors for those of a device of its own, and an operation on tensors of both
raises an error, as on a GPU. A process keeps the device once it has it, so this is a script: it
takes the steps of ``gpu_check.py`` there, and attacks as an evaluation does.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'examples/benchmarks'))

from gpu_checks import MEAN, STD, STEPS, Run, build  # noqa: E402

from adv_plugins.core.threat import InputSpace  # noqa: E402
from adv_plugins.evaluation import (  # noqa: E402
    APGD,
    FGSM,
    PGD,
    Square,
    UniformNoise,
    deepfool,
    gradcam,
)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend('second', _Module())
DEVICE = torch.device('second:0')
BETWEEN_DEVICES = ('_to_copy', 'copy_', '_local_scalar_dense')


class There(torch.Tensor):
    """A tensor of the second device; ``here`` holds its values."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        there = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        there.here = here
        return there

    # PyTorch does not expect a subclass in them.
    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        ours = any(isinstance(value, There) for value in tensors)
        name = func.overloadpacket.__name__
        # A GPU takes numbers from the CPU, and indices into its own tensors.
        foreign = [v for v in tensors if not isinstance(v, There) and v.ndim]
        indexed = 'index' in name and isinstance(args[0], There)
        if ours and foreign and not indexed and name not in BETWEEN_DEVICES:
            raise RuntimeError(f'{func} found tensors on {DEVICE} and on the CPU')
        stays = ours and name != '_local_scalar_dense'
        if kwargs.get('device') is not None:
            stays = torch.device(kwargs['device']).type == DEVICE.type
            kwargs['device'] = torch.device('cpu')
        if name == 'copy_':
            stays = isinstance(args[0], There)
        here = pytree.tree_map(lambda v: v.here if isinstance(v, There) else v, (args, kwargs))
        output = func(*here[0], **here[1])
        if not stays:
            return output
        if name == '_to_copy' and not ours:
            # On the same device nothing may be copied.
            output = output.clone()
        output = pytree.tree_map(lambda v: There(v) if isinstance(v, torch.Tensor) else v, output)
        return return_and_correct_aliasing(func, args, kwargs, output) if ours else output


class Factories(TorchDispatchMode):
    """What makes new tensors on the second device is given none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return There.__torch_dispatch__(func, types, args, kwargs)


# torch.as_tensor and the like reach the device past all Python.
LIBRARY = torch.library.Library('aten', 'IMPL', 'PrivateUse1')


@torch.library.impl(LIBRARY, 'empty_strided')
def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    return There(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl(LIBRARY, '_copy_from')
def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> torch.Tensor:
    values, place = (v.here if isinstance(v, There) else v for v in (source, target))
    place.copy_(values)
    return target


def main() -> None:
    warnings.simplefilter('ignore')
    with Factories():
        try:
            torch.ones(2, device=DEVICE) + torch.ones(2)
        except RuntimeError as error:
            print(error)
        for name, (net, recipe) in STEPS.items():
            if 'LSTM' in name:
                # Its kernels are the CPU's or CUDA's.
                continue
            run = build(net, recipe, DEVICE)
            losses = run.step()
            losses['loss'].backward()
            moved = {'training': run.perturbed(), 'eval': run.model.eval() and run.perturbed()}
            grads = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
            found = losses | moved | grads
            strays = [key for key, value in found.items() if value.device != DEVICE]
            print(f'{name}: {len(found)} tensors, of which elsewhere: {strays}')
        evaluate(run)


def evaluate(run: Run) -> None:
    """Attack the net of a run as an evaluation does."""
    space = InputSpace.from_normalization(torch.tensor(MEAN), torch.tensor(STD), (0, 1))
    for kind in (FGSM, PGD, APGD, Square, UniformNoise):
        moved = kind(eps=0.1)(lambda x, index: run.model(x), run.clips, run.labels, space)
        print(f'{kind.__name__}: {moved.device}')
    print(f'DeepFool: {deepfool(run.model, run.clips).perturbation.device}')
    print(f'GradCAM: {gradcam(run.model, run.clips, run.labels, run.labels).device}')


if __name__ == '__main__':
    main()
