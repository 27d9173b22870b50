"""GradCAM of every frame of a clip, and the attention that each frame receives.

A measurement, not a training loss: these maps show the evidence for a class (the gradient of its
score, then a ReLU), as MMAction2's own tool does, whereas the temporal CAM loss takes no ReLU and,
by default, the gradient of a cross-entropy (TAF, eq. 2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..cam.equations import temporal_cam
from ..cam.layer import cam_layer_of
from ..core.adapter import adapter_class
from ..core.autograd import gradients
from ..core.batch import Batch
from ..core.capture import capture_output, last_output, to_frames


def gradcam(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    labels: Tensor,
    cam_layer: str | None = None,
    cam_layout: str | None = None,
) -> Tensor:
    """Evidence for a class, frame by frame. The model stays as it is.

    Args:
        model (nn.Module): A recognizer or a plain classifier, in eval mode.
        inputs (Tensor): A batch as the model's forward takes it, normalised.
        target (Any): Its data samples or labels, as the model's loss takes them.
        labels (Tensor): The class to look for in each clip, shape (B,).
        cam_layer (str, optional): Dotted name of the layer to look at. Defaults to None: found.
        cam_layout (str, optional): Axes of its output, see
            :func:`adv_plugins.core.capture.to_frames`. Defaults to None: from its shape.

    Returns:
        Tensor: Maps, shape (B, T, H, W), not negative.

    Raises:
        ValueError: The model is in training mode, or the layer is unknown or has no time axis.
    """
    if model.training:
        raise ValueError('gradcam needs a model in eval mode; call model.eval() first')
    adapter = adapter_class(model)(model)
    with torch.inference_mode(False), torch.enable_grad():
        # Even where all parameters are frozen, the graph needs a leaf that requires a gradient.
        batch = Batch(inputs).clone().leaves()
        layer = cam_layer_of(adapter, batch, target, cam_layer, cam_layout)
        with capture_output(model.get_submodule(layer.name)) as outputs:
            record = adapter.forward(batch, target)
        score = record.logits.gather(1, labels.to(inputs.device)[:, None]).sum()
        features = layer.pick(last_output(outputs, layer.name))
        (gradient,) = gradients(score, [features])
    if gradient is None:
        raise ValueError(f'the logits do not depend on the output of cam_layer={layer.name!r}')
    features, gradient = (
        to_frames(x, len(inputs), layer.name, layer.layout) for x in (features, gradient)
    )
    return temporal_cam(features, gradient).relu().detach()


def frame_attention(maps: Tensor) -> Tensor:
    """The share of the evidence that each frame holds.

    Args:
        maps (Tensor): Maps of :func:`gradcam`, shape (B, T, H, W).

    Returns:
        Tensor: Shares, shape (B, T), summing to 1; NaN where a clip has no evidence at all, or
        evidence that is not finite.
    """
    sums = maps.sum(dim=(2, 3))
    # Divided by the largest first: a sum of very small shares may not be representable.
    sums = sums / sums.amax(dim=1, keepdim=True)
    return sums / sums.sum(dim=1, keepdim=True)


def attention_entropy(attention: Tensor) -> Tensor:
    """How evenly the attention is spread over the frames of a clip.

    Args:
        attention (Tensor): Shares of :func:`frame_attention`, shape (B, T).

    Returns:
        Tensor: Entropy over log T, shape (B,): 1 where all frames count alike, 0 where one
        frame decides, NaN where the shares are NaN or there is a single frame.
    """
    entropy = -torch.special.xlogy(attention, attention).sum(dim=1)
    return entropy / torch.log(torch.tensor(float(attention.shape[1])))
