"""One cell of the A-ART study: a net is trained in a regime, attacked, and its maps replayed."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins import make_adversarial, remove_adversarial
from adv_plugins.evaluation import global_average_precision

from .aart_nets import build_net, recorded_maps, replayed_maps
from .sequences import Sequences, Splits, japanese_vowels, youtube8m_sample

ARMS = ('non-art', 'art', 'aart', 'uniform', 'wide')
BETAS = (0.1, 1.0, 10.0)
# Radius, in units of the regime's, and steps; several steps are 2.5 radii long together.
ATTACKS = {'fgm': (1, 1), 'pgd': (1, 10), 'fgm2': (2, 1), 'pgd2': (2, 10), 'strong2': (2, 40)}


@dataclass(frozen=True)
class Regime:
    """What the arms of one comparison have in common.

    Args:
        data (str): ``'vowels'`` or ``'yt8m'``.
        net (str): See :func:`studies.aart_nets.build_net`.
        eps (float): Radius of the ball per sequence and modality, in training and under attack.
        steps (int): Training iterations.
        beta (float): β of the arm ``'aart'``.
        depth (int): Layers of the transformer. Defaults to 1.
        per_class (int, optional): Training sequences of each class, drawn by the seed. Defaults to
            None: all.
    """

    data: str
    net: str
    eps: float
    steps: int
    beta: float
    depth: int = 1
    per_class: int | None = None


REGIMES = {
    'vowels': Regime('vowels', 'transformer', 1.0, 160, 1.0),
    'vowels-large': Regime('vowels', 'transformer', 2.0, 160, 1.0),
    'vowels-deep': Regime('vowels', 'transformer', 2.0, 160, 1.0, depth=2),
    'vowels-few': Regime('vowels', 'transformer', 1.0, 120, 1.0, per_class=5),
    'pooling': Regime('vowels', 'pooling', 2.0, 300, 10.0),
    'pooling-few': Regime('vowels', 'pooling', 1.0, 240, 10.0, per_class=5),
    'slots': Regime('vowels', 'slots', 1.0, 300, 1.0),
    'yt8m': Regime('yt8m', 'transformer', 0.5, 200, 0.001),
}


@functools.cache
def load(data: str) -> Splits:
    """The data of a regime, once a process."""
    return japanese_vowels() if data == 'vowels' else youtube8m_sample()


def run_cell(split: str, name: str, arm: str, seed: int) -> dict[str, float]:
    """Train one arm of a regime and measure it.

    Args:
        split (str): What is measured on: ``'validate'`` or ``'test'``.
        name (str): Name of the regime.
        arm (str): One of ``ARMS``, or ``'aart-<beta>'``. Two controls: ``'uniform'`` is ART on a
            net in which all frames get the same attention, ``'wide'`` ART with twice the radius in
            training.
        seed (int): Of initialisation, order and, with ``per_class``, choice of the training data.

    Returns:
        dict[str, float]: What :func:`measure` returns, and ``cpu_seconds``.
    """
    regime, start = REGIMES[name], time.process_time()
    splits = load(regime.data)
    train = splits['train'] if regime.per_class is None else _few(splits['train'], regime, seed)
    multi_class = train.labels.ndim > 1
    classes = train.labels.shape[1] if multi_class else int(train.labels.max()) + 1
    torch.manual_seed(seed)
    uniform = arm == 'uniform'
    net = build_net(
        regime.net, train.modalities, classes, multi_class, depth=regime.depth, uniform=uniform
    )
    if arm != 'non-art':
        _convert(net, arm, regime)
    fit(net, train, regime.steps, seed)
    if arm != 'non-art':
        remove_adversarial(net)
    values = measure(net, splits[split], regime.eps)
    values['cpu_seconds'] = time.process_time() - start
    return {key: round(value, 4) for key, value in values.items()}


def _convert(net: nn.Module, arm: str, regime: Regime) -> None:
    """Give a net the step of ART, or of A-ART with the regime's β or that of the arm's name."""
    if arm.startswith('aart'):
        beta = float(arm.partition('-')[2] or regime.beta)
        make_adversarial(net, 'aart', eps=regime.eps, beta=beta)
    else:
        make_adversarial(net, 'art', eps=regime.eps * (2 if arm == 'wide' else 1))


def _few(train: Sequences, regime: Regime, seed: int) -> Sequences:
    """As many training sequences of each class as the regime wants."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    labels = train.labels[order]
    chosen = [order[labels == label][: regime.per_class] for label in labels.unique()]
    return train.take(torch.cat(chosen))


def fit(net: nn.Module, train: Sequences, steps: int, seed: int, batch_size: int = 32) -> None:
    """Train with Adam, its rate falling from 2e-3 to 0 along a cosine; the order is the seed's."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    samples, order = train.samples, torch.empty(0, dtype=torch.long)
    net.train()
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(train), generator=generator)])
        index, order = order[:batch_size], order[batch_size:]
        losses = net(train.take(index).inputs, [samples[i] for i in index], mode='loss')
        loss, _ = net.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def measure(net: nn.Module, data: Sequences, eps: float) -> dict[str, float]:
    """Quality on clean and attacked sequences, and how much of an attack goes through the maps.

    Args:
        net (nn.Module): A plain net.
        data (Sequences): What it is measured on.
        eps (float): Radius of the ball.

    Returns:
        dict[str, float]: In percent, accuracy or GAP: ``clean``, every one of ``ATTACKS``, and
        three of replay: ``clean_maps``, the sequences of ``pgd`` with the clean maps;
        ``attacked_maps``, the clean sequences with the maps of ``pgd``; ``held``, under an attack
        of its own on the net with its clean maps held fixed. ``loss``, and ``pgd_loss`` under
        attack. ``ratio_<name>``: ‖R‖ / ‖X‖ of ``pgd``. ``moved``: ‖A - A'‖ per sequence, over all
        heads, and the mean over the modules.
    """
    net.eval()
    clean = data.inputs
    found = {
        name: attack(net, data, radius * eps, steps) for name, (radius, steps) in ATTACKS.items()
    }
    quality = functools.partial(_quality, net, data.labels)
    values = {'clean': quality(clean)} | {name: quality(x) for name, x in found.items()}
    attacked = found['pgd']
    maps, attacked_maps = (_maps(net, inputs) for inputs in (clean, attacked))
    with replayed_maps(maps):
        values['clean_maps'] = quality(attacked)
        values['held'] = quality(attack(net, data, eps, ATTACKS['pgd'][1]))
    with replayed_maps(attacked_maps):
        values['attacked_maps'] = quality(clean)
    for name, inputs in (('loss', clean), ('pgd_loss', attacked)):
        values[name] = _loss(net, data.labels, inputs)
    values |= {f'ratio_{name}': _ratio(attacked[name], clean[name]) for name in data.modalities}
    moved = [(a - b).flatten(1).norm(dim=1) for a, b in zip(maps, attacked_maps, strict=True)]
    values['moved'] = float(torch.stack(moved).mean())
    return values


def attack(net: nn.Module, data: Sequences, eps: float, steps: int) -> dict[str, Tensor]:
    """The adversarial sequences of A-ART, eq. 4, or of several such steps in the same ball."""
    make_adversarial(net, 'art', eps=eps, steps=steps)
    try:
        attacked: dict[str, Tensor] = net.perturb(data.inputs, data.samples)
    finally:
        remove_adversarial(net)
    return attacked


@torch.no_grad()
def _maps(net: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    with recorded_maps() as maps:
        net(inputs)
    return maps


@torch.no_grad()
def _quality(net: nn.Module, labels: Tensor, inputs: Mapping[str, Tensor]) -> float:
    """Accuracy, or, for several labels a sequence, GAP; in percent."""
    logits = net(inputs)
    if labels.ndim == 1:
        return 100 * float((logits.argmax(dim=1) == labels).float().mean())
    return 100 * global_average_precision(logits.sigmoid(), labels)


@torch.no_grad()
def _loss(net: nn.Module, labels: Tensor, inputs: Mapping[str, Tensor]) -> float:
    targets = labels if labels.ndim > 1 else F.one_hot(labels, net.num_classes).float()
    return float(net.loss_cls(net(inputs), targets))


def _ratio(attacked: Tensor, clean: Tensor) -> float:
    """Mean of ‖R‖ / ‖X‖ over the sequences."""
    shift, whole = (x.flatten(1).norm(dim=1) for x in (attacked - clean, clean))
    return float((shift / whole).mean())
