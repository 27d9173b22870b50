"""Flags for evaluations that cannot be trusted, because an attack was weaker than it looks.

Accuracy under attack is an upper bound, and a loose one where gradients are masked. The flags look
for the usual symptoms (Athalye et al., ICML 2018; Carlini et al., 2019; AutoAttack's checks). A
raised flag does not say that the model is bad, but that its number is unreliable.
"""

from __future__ import annotations

import itertools
import math

from .attacks import FGSM, PGD, Attack, Square, attack_class, part_names
from .results import Cell, Flag, Robustness
from .selection import shared_videos

TOLERANCE = 1e-3
"""How much the logits of one video may differ between two forwards, as kernels round."""


def flags(results: Robustness) -> list[Flag]:
    """All flags, raised or not; a flag whose cells are missing is neither.

    Args:
        results (Robustness): A finished evaluation.

    Returns:
        list[Flag]: In the order of ``NAMES``.
    """
    probe = results.cells.get('sanity')
    attacks = [cell for cell in results.cells.values() if cell.kind == 'attack']
    checks = [
        _constant(results),
        _randomised(probe),
        _probabilities(probe),
        _zero_gradients(probe),
        _huge_eps(probe, len(results.classes)),
        _black_box(attacks),
        _single_step(attacks),
    ]
    return [
        Flag(name, None, 'not checked: no cell has the videos that would tell')
        if verdict is None
        else Flag(name, *verdict)
        for name, verdict in zip(NAMES, checks, strict=True)
    ]


NAMES = (
    'one class for all videos',
    'randomised model',
    'softmax as logits',
    'zero gradients',
    'accuracy at huge eps',
    'black box beats white box',
    'one step beats many',
)
Verdict = tuple[bool, str] | None
"""Whether a flag is raised, and why; None where it cannot be checked."""


def _constant(results: Robustness) -> Verdict:
    """Whether the model takes all clean videos for one class, which no attack can change."""
    clean = results.cells.get('clean')
    if clean is None or len({results.labels[video] for video in clean.videos}) < 2:
        return None
    predicted = set(clean.predictions)
    if len(predicted) > 1:
        return False, f'clean videos are taken for {len(predicted)} classes'
    name = results.classes[predicted.pop()]
    return True, (
        f'all {len(clean.videos)} clean videos are taken for {name!r}: the model has not learned '
        'to tell classes apart, and its accuracy under attack says nothing'
    )


def _randomised(probe: Cell | None) -> Verdict:
    if probe is None:
        return None
    changed = [change for change in probe.values['score_change'] if not change <= TOLERANCE]
    if not changed:
        return False, 'two forwards of a video give the same scores'
    return True, (
        f'two forwards of one video differ for {len(changed)} of {len(probe.videos)} videos: '
        'attacks follow noise. Average the gradient over several forwards, or switch the '
        'randomness off'
    )


def _probabilities(probe: Cell | None) -> Verdict:
    if probe is None:
        return None
    if not all(probe.values['simplex']):
        return False, 'the head gives logits'
    return True, (
        'the head gives probabilities instead of logits: gradients vanish where it is confident. '
        'Take the softmax out of its forward'
    )


def _zero_gradients(probe: Cell | None) -> Verdict:
    if probe is None:
        return None
    flat = sum(not size > 0 for size in probe.values['gradient'])
    if not flat:
        return False, 'the loss has a gradient at every video'
    return True, (
        f'the gradient of the cross-entropy is zero or not finite at {flat} of '
        f'{len(probe.videos)} videos: gradient attacks do not move there. Look for saturated '
        'scores, rounding or detached parts of the model'
    )


def _huge_eps(probe: Cell | None, num_classes: int) -> Verdict:
    if probe is None:
        return None
    accuracy = 100 * sum(rank == 0 for rank in probe.ranks) / len(probe.ranks)
    chance = 100 / num_classes
    numbers = f'{accuracy:.1f} % at eps = the whole value range, chance is {chance:.1f} %'
    if accuracy <= chance:
        return False, numbers
    return True, (
        f'{numbers}: no model can be right where all pixels are free, so the attack is broken'
    )


def _black_box(attacks: list[Cell]) -> Verdict:
    """Whether videos survive all gradient attacks and fall to a black box in the same ball."""
    verdict = None
    for cell in attacks:
        # Its black box gets what its gradient attacks did not fool.
        parts = part_names(cell.options) if 'fooled_by' in cell.values else []
        if Square.__name__ not in parts:
            continue
        fallen = cell.values['fooled_by'].count(1 + parts.index(Square.__name__))
        if fallen:
            return True, _misled(fallen, len(cell.videos), f'Square in {cell.name}')
        ends = zip(cell.ranks, cell.values['stopped_in'], strict=True)
        if any(rank == 0 and math.isnan(stopped_in) for rank, stopped_in in ends):
            # At least one stood up to all of them, and time had not ended before.
            verdict = False, f'no video falls to Square alone in {cell.name}'
    for group in _same_ball(attacks):
        black, white = ([c for c in group if _is_black_box(c) is kind] for kind in (True, False))
        shared = shared_videos(cell.videos for cell in group)
        if not black or not white or not shared:
            continue
        fallen = (_survivors(white) - _survivors(black)).intersection(shared)
        names = ', '.join(cell.name for cell in black)
        if fallen:
            return True, _misled(len(fallen), len(shared), names)
        verdict = False, f'no video falls to {names} alone'
    return verdict


def _misled(fallen: int, total: int, names: str) -> str:
    return (
        f'{fallen} of {total} videos survive every gradient attack and fall to {names}: the '
        'gradients mislead. Give the white-box attacks more steps and restarts, and look for what '
        'masks gradients'
    )


def _single_step(attacks: list[Cell]) -> Verdict:
    """Whether FGSM leaves fewer videos right than PGD does in the same ball."""
    verdict = None
    for group in _same_ball(attacks):
        single, steps = ([cell for cell in group if _is(cell, kind)] for kind in (FGSM, PGD))
        for one, many in itertools.product(single, steps):
            shared = shared_videos((one.videos, many.videos))
            if not shared:
                continue
            right = [len(_survivors([cell]).intersection(shared)) for cell in (one, many)]
            if right[1] > right[0]:
                return True, (
                    f'{many.name} leaves {right[1]} videos right, but {one.name}, a single step, '
                    f'only {right[0]}: its steps do not add up. Check step_size and the gradients'
                )
            verdict = False, f'{many.name} is at least as strong as {one.name}'
    return verdict


def _same_ball(attacks: list[Cell]) -> list[list[Cell]]:
    """The attacks with an eps, by eps and norm."""
    groups: dict[tuple[float, str], list[Cell]] = {}
    for cell in attacks:
        if cell.level is not None:
            ball = (cell.level, cell.threat)
            groups.setdefault(ball, []).append(cell)
    return [groups[ball] for ball in sorted(groups)]


def _survivors(cells: list[Cell]) -> set[int]:
    """The videos that are right under every one of the attacks."""
    right = [
        {video for video, rank in zip(cell.videos, cell.ranks, strict=True) if rank == 0}
        for cell in cells
    ]
    return set.intersection(*right)


def _is(cell: Cell, kind: type[Attack]) -> bool:
    """Whether the attack is of a class, however its type is written."""
    own = attack_class(cell.options.get('type'))
    return own is not None and issubclass(own, kind)


def _is_black_box(cell: Cell) -> bool | None:
    own = attack_class(cell.options.get('type'))
    return own is not None and own.black_box
