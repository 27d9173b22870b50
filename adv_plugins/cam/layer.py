"""The CAM layer: found by one probing forward, its axes confirmed by changing corners of the clip.

The temporal CAM (TAF, eq. 2) needs the last output that still has time and place, that all the
class scores know of the clip passes through, and that weights follow: neither a branch (the inside
of a residual block, the keys of an attention) nor the class scores of every place. In the autograd
graph it is the last cut between the clip and the class scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..core.adapter import Adapter
from ..core.autograd import gradients, graph_nodes, leaves_of, nodes_behind
from ..core.batch import Batch
from ..core.capture import find_module, last_output, tensors_of
from ..core.norm import NormPath
from ..core.probe import Calls, Probe, probing, without_zeros
from ..core.sharding import extremes
from .axes import CORNERS, ClipAxes, alike, change_corners, readings
from .response import Candidate, Response, settle

_AT_ONCE = 12
"""So many outputs are looked at together, from the last one back."""


@dataclass(frozen=True)
class CamLayer:
    """Where F' of the temporal CAM is read, and how.

    Args:
        name (str): Dotted name of the layer.
        entry (int): Which of the tensors in its output is the map.
        layout (str, optional): The axes of the map as an einops pattern, see
            :func:`adv_plugins.core.capture.to_frames`; None for those of a convolution.
        grid (tuple[int, int, int]): T, H, W of the map.
        fused (frozenset[str]): What follows in fused kernels, which have no second derivative:
            ``'attention'``, ``'recurrent'`` layers.
    """

    name: str
    entry: int
    layout: str | None
    grid: tuple[int, int, int]
    fused: frozenset[str]

    def pick(self, output: Any) -> Tensor:
        """The map in the output of the layer."""
        return tensors_of(output)[self.entry]

    def __str__(self) -> str:
        entry = f' (tensor {self.entry} of its output)' if self.entry else ''
        axes = f', read as {self.layout!r}' if self.layout else ''
        return f'CAM layer: {self.name}{entry}{axes}, T×H×W = {"×".join(map(str, self.grid))}'


class _Confirmed(NamedTuple):
    """A layer that may be the CAM layer.

    Args:
        layer (CamLayer): The layer.
        stem (bool): Whether it is the first one with weights.
        certain (bool): Whether all its axes are confirmed, not only its time.
    """

    layer: CamLayer
    stem: bool
    certain: bool


_FOUND: WeakKeyDictionary[nn.Module, dict[Any, CamLayer]] = WeakKeyDictionary()


def cam_layer_of(
    adapter: Adapter,
    batch: Batch,
    target: Any,
    name: str | None = None,
    layout: str | None = None,
    path: NormPath | None = None,
) -> CamLayer:
    """The CAM layer of a model, which is looked at once for each shape of its inputs.

    Args:
        adapter (Adapter): The model; it is left unchanged.
        batch (Batch): A batch of its inputs.
        target (Any): Its labels or data samples.
        name (str, optional): Dotted name of the layer. Defaults to None: the one that the adapter
            knows, else found.
        layout (str, optional): The axes of its output. Defaults to None: those that the adapter
            knows if the clip confirms them, else found.
        path (NormPath, optional): The path of the model's norms. Defaults to None: the model is
            not converted, or in eval mode.

    Returns:
        CamLayer: The layer.

    Raises:
        ValueError: No layer has time and place, or the axes of the named one cannot be told.
    """
    known = _FOUND.setdefault(adapter.model, {})
    sizes = tuple((key, value.shape[1:]) for key, value in batch.values.items())
    # A single sample does not tell where the batch is, and fused kernels depend on the mode.
    state = batch.size > 1, adapter.model.training
    asked = (name, layout, tuple((key, len(size)) for key, size in sizes), *state)
    before = known.get(asked, known.get((*asked, sizes)))
    # Where one process of a sharded model has to look, all of them take part.
    looks = extremes(adapter.model, before is None)[1]
    if before is not None and not looks:
        return before
    with probing(adapter, batch, target, NormPath() if path is None else path) as probe:
        found = _named_or_found(adapter, _Search(probe), name, layout)
    # A layout without sizes holds for inputs of any size.
    known[(*asked, sizes) if ';' in (found.layout or '') else asked] = found
    return found


def forget_cam_layers(model: nn.Module) -> None:
    """Look anew at a model, whose layers may have been replaced."""
    _FOUND.pop(model, None)


def _named_or_found(
    adapter: Adapter, search: _Search, name: str | None, layout: str | None
) -> CamLayer:
    """The layer that the user names, that the adapter knows, or that is found, in this order."""
    usual = '' if name else adapter.find_cam_layer()
    if not name and not usual:
        if layout is not None:
            raise ValueError(f'cam_layout={layout!r} is that of a layer: write its cam_layer, too')
        return search.search()
    try:
        return search.confirm(name or usual, layout)
    except ValueError as error:
        try:
            found = search.search()
        except (ValueError, RuntimeError):
            raise error from None
        if name or layout is not None:
            right = '' if found.name == name else f'; cam_layer={found.name!r} is right'
            raise ValueError(f'{error}{right}') from error
        warnings.warn(f'{error}. Instead, this is taken: {found}', stacklevel=2)
        return found


class _Search:
    """Finds the CAM layer in the outputs of a model's modules."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.model, self.batch = probe.adapter.model, probe.batch
        self.clip = ''
        self.clip_axes: Sequence[ClipAxes] = ()
        for name, values in self.batch.values.items():
            axes = probe.adapter.clip_axes(values, name)
            if axes and not self.clip_axes:
                self.clip, self.clip_axes = name, axes
        if self.clip_axes:
            clips = alike(self.batch.values[self.clip].detach(), {*chain(*self.clip_axes)})
            self.batch = self.batch.replace({**self.batch.values, self.clip: clips}).leaves()

    def confirm(self, name: str, layout: str | None) -> CamLayer:
        """The layer of that name, read as the clip confirms.

        Raises:
            ValueError: There is no such layer, or no reading of its output is right.
        """
        find_module(self.model, name, 'cam_layer')
        calls, scores = self.probe.forward(self.batch, {name})
        output = last_output([output for _, output in calls], name)
        features, assumed = self.probe.adapter.feature_map(name, output, self.batch, layout)
        tensors = [Candidate(name, *pair) for pair in enumerate(tensors_of(output))]
        # Of several pathways, the one with the most channels comes first.
        candidates = [c for c in tensors if c.features is features] or sorted(
            tensors, key=lambda candidate: -candidate.features.shape[1:2].numel()
        )
        if len(calls) > 1 and self.clip_axes and not self._is_cut(candidates, scores):
            raise ValueError(
                f'cam_layer={name!r} is called {len(calls)} times in a forward, for different '
                'parts of the clip, but one map is read; name a layer that sees all of it'
            )
        for candidate in candidates:
            candidate.note_fused(scores)
        del calls, output, scores, tensors
        if not candidates:
            raise ValueError(
                f'cam_layer={name!r} returns a {type(features).__name__}, not one tensor of '
                'floating-point numbers; name another layer with cam_layer'
            )
        del features
        return _cam_layer(*settle(self._responses(candidates), assumed, layout is not None))

    def search(self) -> CamLayer:
        """The last cut between the clip and the class scores that has time and place.

        Raises:
            ValueError: There is none.
        """
        model = type(self.model).__name__
        if not self.clip_axes:
            shapes = ', '.join(str(tuple(value.shape)) for value in self.batch.values.values())
            raise ValueError(
                f'the CAM layer of {model} is not known, and the inputs {shapes} have no axes of '
                "time, height and width to find it by; name it, e.g. cam_layer='layer4', "
                "cam_layout='b (t h w) c; h=14 w=14'. Without frames there is no attention to move "
                "between them: write 'advprop' or 'ceaugmentation'"
            )
        with without_zeros(self.model):
            cuts = self._confirmed(self._cuts)
            mixed, found = None, next(cuts, None)
            while found is not None and not found.certain:
                mixed, found = mixed or found, next(cuts, None)
            if mixed is not None and (found is None or found.stem):
                found = mixed
            if found is not None and not found.stem:
                return found.layer
            # Where only the stem is common to all paths, the later maps are those of branches.
            later = [each.layer.name for each in self._confirmed(self._branches) if each.certain]
        branches = dict.fromkeys(name for name in later if not found or name != found.layer.name)
        if found is not None and not branches:
            return found.layer
        advice = 'name the last stage with cam_layer, and its axes with cam_layout'
        if branches:
            written = [f'cam_layer={name!r}' for name in branches]
            advice = f'choose a branch: write {" or ".join(written)}'
        raise ValueError(
            f'no layer of {model} has several frames and places and lies on every path from the '
            f'clip to the class scores; {advice}. Without time there is no attention to move '
            "between frames: write 'advprop' or 'ceaugmentation'"
        )

    def _responses(self, candidates: Sequence[Candidate]) -> Iterator[Response]:
        """All candidates as the corners change them, for each way to take the axes of the clip."""
        size = self.batch.size
        if not self.clip_axes:
            yield from (Response(candidate, size) for candidate in candidates)
            return
        clips = self.batch.values[self.clip].detach()
        for axes in self.clip_axes:
            changed: list[list[Tensor]] = [[] for _ in candidates]
            for first in range(0, len(CORNERS), size):
                moved = change_corners(clips, axes, first)
                batch = self.batch.replace({**self.batch.values, self.clip: moved})
                with torch.no_grad():
                    calls, _ = self.probe.forward(
                        batch, {candidate.name for candidate in candidates}
                    )
                outputs = dict(calls)
                for candidate, seen in zip(candidates, changed, strict=True):
                    seen.append(tensors_of(outputs[candidate.name])[candidate.entry])
            clip = [clips.shape[axis] for axis in axes]
            for candidate, seen in zip(candidates, changed, strict=True):
                yield Response(candidate, size, clip, torch.stack(seen))

    def _cuts(self, calls: Calls, scores: Tensor) -> Iterator[Candidate]:
        """The tensors that all the scores know of the clip passes through, the last one first."""
        for group in self._weighted(calls, scores):
            cuts = [each for each in group if self._is_cut([each], scores)]
            if not cuts and len(group) > 1 and self._is_cut(group, scores):
                cuts = group
            yield from cuts

    def _is_cut(self, group: Sequence[Candidate], scores: Tensor) -> bool:
        behind = leaves_of(nodes_behind(scores, [each.features for each in group]))
        return all(leaf is not self.batch.values[self.clip] for leaf in behind)

    def _branches(self, calls: Calls, scores: Tensor) -> Iterator[Candidate]:
        """The last tensors of each branch that leads from the clip to the scores."""
        upstream: set[Any] = set()
        reached = set(graph_nodes(scores))
        for group in self._weighted(calls, scores):
            for each in group:
                node = each.features.grad_fn
                if node in reached and node not in upstream:
                    upstream.update(graph_nodes(each.features))
                    yield each

    def _weighted(self, calls: Calls, scores: Tensor) -> Iterator[list[Candidate]]:
        """The maps in each module's last output that weights made and follow, the last one first.

        Of modules that return the same tensor it is the outermost one.
        """
        names: set[str] = set()
        seen: set[tuple[Any, int]] = set()
        for name, output in reversed(calls):
            module = self.model.get_submodule(name)
            if name in names or next(module.parameters(), None) is None:
                continue
            names.add(name)
            group = [
                Candidate(name, number, tensor)
                for number, tensor in enumerate(tensors_of(output))
                if (tensor.grad_fn, tensor.output_nr) not in seen and self._may_be_map(tensor)
            ]
            seen.update((each.features.grad_fn, each.features.output_nr) for each in group)
            group = [each for each in group if not _are_scores(each.features, scores)]
            if group:
                yield sorted(group, key=lambda each: -each.features.shape[1])

    def _may_be_map(self, tensor: Tensor) -> bool:
        clips = self.batch.values[self.clip]
        sizes = ([clips.shape[axis] for axis in axes] for axes in self.clip_axes)
        return tensor.grad_fn is not None and any(
            next(readings(tensor.shape, self.batch.size, size), None) for size in sizes
        )

    def _confirmed(
        self, kind: Callable[[Calls, Tensor], Iterator[Candidate]]
    ) -> Iterator[_Confirmed]:
        """The candidates of a kind with a reading that the clip confirms and the scores need."""
        calls, scores = self.probe.forward(self.batch, None)
        if not isinstance(scores, Tensor) or not scores.requires_grad:
            raise ValueError(
                f'{type(self.model).__name__} gives no class scores that depend on the inputs, so '
                'there is no CAM: does it detach them, or run without gradients? '
                "'ceaugmentation' and 'advprop' need only its loss"
            )
        candidates = kind(calls, scores)
        while some := list(islice(candidates, _AT_ONCE)):
            self._differentiate(some, scores)
            for response in self._responses(some):
                certain = response.best()[1] or response.usual()
                layout = certain or response.by_time()
                if layout is not None and response.reaches(layout):
                    layer, stem = _cam_layer(response, layout), response.candidate.stem
                    yield _Confirmed(layer, stem, certain is not None)

    def _differentiate(self, candidates: Sequence[Candidate], scores: Tensor) -> None:
        """Note how the class scores depend on candidates."""
        signs = torch.randn(scores.shape, device=scores.device)
        features = [candidate.features for candidate in candidates]
        slopes = gradients((scores.float() * signs).sum(), features, retain_graph=True)
        for candidate, slope in zip(candidates, slopes, strict=True):
            candidate.slope = slope
            before = {*leaves_of(graph_nodes(candidate.features))} - {*self.batch.values.values()}
            candidate.stem = sum(leaf.ndim > 1 for leaf in before) < 2
            candidate.note_fused(scores)


def _cam_layer(response: Response, layout: str | None) -> CamLayer:
    which = response.candidate
    return CamLayer(which.name, which.entry, layout, response.grid(layout), which.fused)


def _are_scores(features: Tensor, scores: Tensor) -> bool:
    """Whether a map holds the class scores of every place: only pooling follows."""
    follows = leaves_of(nodes_behind(scores, [features]))
    return not follows and scores.shape[-1] in features.shape
