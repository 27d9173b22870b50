"""What the study on TAF measures on a net."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins import make_adversarial
from adv_plugins.core.threat import InputSpace
from adv_plugins.datasets.corruptions import CORRUPTION_GROUPS, PAPER_CORRUPTIONS
from adv_plugins.evaluation import attention_entropy, build_attack, frame_attention, gradcam

from .arms import ARMS
from .clips import Clips
from .nets import CAM_LAYER, CAM_LAYOUT

VIDEO_CORRUPTIONS = CORRUPTION_GROUPS['video']
SEVERITY = 3
PGD_EPS = (2, 4)
"""In grey levels."""
PIXELS = InputSpace(low=0.0, high=1.0)
BATCH = 24


def damaged(val: Clips) -> dict[str, Clips]:
    """240 validation clips, or all if there are fewer, under every corruption, by name."""
    part = val.about(240)
    names = (*PAPER_CORRUPTIONS, *VIDEO_CORRUPTIONS)
    return {name: part.corrupted(name, SEVERITY) for name in names}


def measure(
    net: nn.Module, train: Clips, val: Clips, corrupted: Mapping[str, Clips]
) -> dict[str, float]:
    """Accuracies of a trained net on clean and corrupted clips, in percent, and its loss.

    Args:
        net (nn.Module): A plain net; it is left in eval mode.
        train (Clips): The training clips, which are not augmented here.
        val (Clips): The validation clips.
        corrupted (Mapping[str, Clips]): From :func:`damaged`.
    """
    net.eval()
    logits = scores(net, val)
    found = {
        'train': top1(net, train),
        'val': accuracy(logits, val.labels),
        'ce': F.cross_entropy(logits, val.labels).item(),
    }
    accuracies = {name: top1(net, clips) for name, clips in corrupted.items()}
    for group, names in (('paper', PAPER_CORRUPTIONS), ('video', VIDEO_CORRUPTIONS)):
        found[f'{group}_corruptions'] = sum(accuracies[n] for n in names) / len(names)
    found.update(accuracies)
    return rounded(found)


def measure_attacked(net: nn.Module, val: Clips) -> dict[str, float]:
    """Accuracy under PGD in percent, and attention, on 120 clips or on all if there are fewer."""
    net.eval()
    part = val.about(120)
    found = {f'pgd{eps}': under_pgd(net, part, eps / 255) for eps in PGD_EPS}
    return rounded({**attention_under_attack(net, part), **found})


def rounded(found: dict[str, float]) -> dict[str, float]:
    """Numbers as a file of results keeps them."""
    return {name: round(value, 4) for name, value in found.items()}


@torch.no_grad()
def scores(net: nn.Module, clips: Clips) -> Tensor:
    """The class scores of the clips."""
    return torch.cat([net(x) for x in clips.inputs().split(BATCH)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    return 100 * (logits.argmax(dim=1) == labels).float().mean().item()


def top1(net: nn.Module, clips: Clips) -> float:
    """Top-1 accuracy on clips, in percent."""
    return accuracy(scores(net, clips), clips.labels)


def under_pgd(net: nn.Module, clips: Clips, eps: float) -> float:
    """Top-1 accuracy in percent under ten steps of PGD."""
    attack = dict(type='PGD', eps=eps, steps=10)
    return 100 * resisting(net, clips, torch.arange(len(clips)), attack).float().mean().item()


def resisting(net: nn.Module, clips: Clips, chosen: Tensor, attack: Mapping[str, Any]) -> Tensor:
    """Which of the chosen clips the net gets right under an attack.

    Args:
        net (nn.Module): A plain net in eval mode.
        clips (Clips): The clips; the position of one is the seed of its random numbers.
        chosen (Tensor): Positions of clips, (n,), at least one.
        attack (Mapping): Name and options of the attack.

    Returns:
        Tensor: Boolean, (n,).
    """
    built, inputs = build_attack(attack), clips.inputs()
    right = []
    for rows in chosen.split(BATCH):
        x, y = inputs[rows], clips.labels[rows]
        attacked = built(lambda some, index: net(some), x, y, PIXELS, seed=rows)
        with torch.no_grad():
            right.append(net(attacked).argmax(dim=1) == y)
    return torch.cat(right)


def attention_under_attack(net: nn.Module, clips: Clips) -> dict[str, float]:
    """How the evidence is spread over the frames, and how an attack moves it.

    It is the evidence for the class that the net predicts on the clean clip, on the attacked clip
    too. ``entropy`` is 1 where all frames count alike; ``top_frame`` is the share of the frame
    with the most evidence. ``overlap_*`` is the part of the attention that stays where it was
    under an attack on this net: TAF's, the CE-based one, and random signs of the same size.
    """
    x, y = clips.inputs(), clips.labels
    with torch.no_grad():
        predicted = net(x).argmax(dim=1)
    before = _attention(net, x, predicted)
    found = {
        'entropy': attention_entropy(before).nanmean().item(),
        'top_frame': before.amax(dim=1).nanmean().item(),
    }
    for name in ('taf', 'ce', 'noise'):
        # The random numbers of the attack are those of every other net.
        torch.manual_seed(0)
        attacker = make_adversarial(copy.deepcopy(net), ARMS[name].build(), value_range=(0, 1))
        after = _attention(net, attacker.perturb(x, y), predicted)
        found[f'overlap_{name}'] = torch.minimum(before, after).sum(dim=1).nanmean().item()
    return found


def _attention(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Each frame's share of the evidence for a class, (B, T)."""
    maps = gradcam(net, x, classes, classes, cam_layer=CAM_LAYER, cam_layout=CAM_LAYOUT)
    return frame_attention(maps)
