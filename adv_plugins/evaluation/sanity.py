"""Are the numbers of an evaluation to be trusted? Flags where an attack looks weaker than it is.

A robust accuracy is an upper bound, and a loose one where gradients are masked. What is looked at
here are the usual symptoms (Athalye et al., ICML 2018; Carlini et al., 2019; AutoAttack's checks).
A flag that is raised does not say that a model is bad, but that its number is.
"""

from __future__ import annotations

from .attacks import ATTACKS
from .results import Cell, Flag, Robustness

TOLERANCE = 1e-3
"""How far two forwards of one video may be apart, in logits; kernels may differ by rounding."""


def flags(results: Robustness) -> list[Flag]:
    """All flags, raised or not; those whose cells are missing say so.

    Args:
        results (Robustness): A finished evaluation.

    Returns:
        list[Flag]: In a fixed order.
    """
    probe = results.cells.get('sanity')
    attacks = [cell for cell in results.cells.values() if cell.kind == 'attack']
    checks = [
        _randomised(probe),
        _probabilities(probe),
        _zero_gradients(probe),
        _huge_eps(probe, len(results.classes)),
        _black_box(attacks),
        _single_step(attacks),
    ]
    return [
        Flag(name, None, 'not checked: the cells that it reads are missing')
        if found is None
        else Flag(name, *found)
        for name, found in zip(NAMES, checks, strict=True)
    ]


NAMES = (
    'randomised model',
    'softmax as logits',
    'zero gradients',
    'accuracy at huge eps',
    'black box beats white box',
    'one step beats many',
)
Found = tuple[bool, str] | None


def _randomised(probe: Cell | None) -> Found:
    if probe is None:
        return None
    changed = [change for change in probe.values['score_change'] if not change <= TOLERANCE]
    if not changed:
        return False, 'two forwards of a video give the same scores'
    return True, (
        f'two forwards of one video differ for {len(changed)} of {len(probe.videos)} videos: an '
        'attack chases noise. Average the gradient over several forwards before you trust it, or '
        'switch the randomness off'
    )


def _probabilities(probe: Cell | None) -> Found:
    if probe is None:
        return None
    if not all(probe.values['simplex']):
        return False, 'the head gives logits'
    return True, (
        'the head gives probabilities where logits belong: gradients vanish where it is sure. Take '
        'the softmax out of its forward'
    )


def _zero_gradients(probe: Cell | None) -> Found:
    if probe is None:
        return None
    still = sum(not size > 0 for size in probe.values['gradient'])
    if not still:
        return False, 'the loss has a gradient at every video'
    return True, (
        f'the gradient of the cross-entropy is zero or not finite at {still} of '
        f'{len(probe.videos)} videos: attacks by gradient stand still there. Look for saturated '
        'scores, rounding or detached parts of the model'
    )


def _huge_eps(probe: Cell | None, num_classes: int) -> Found:
    if probe is None:
        return None
    accuracy = 100 * sum(rank == 0 for rank in probe.ranks) / len(probe.ranks)
    chance = 100 / num_classes
    told = f'{accuracy:.1f} % at eps = the whole value range, chance is {chance:.1f} %'
    if accuracy <= chance:
        return False, told
    return True, f'{told}: where all pixels are free no model is right, so the attack is broken'


def _black_box(attacks: list[Cell]) -> Found:
    """Videos that only an attack without gradients has fooled, at one eps."""
    found = None
    for level in sorted({cell.level for cell in attacks if cell.level is not None}):
        sides: dict[bool, list[Cell]] = {True: [], False: []}
        for cell in attacks:
            if cell.level == level:
                sides[_is_black_box(cell)].append(cell)
        if not sides[True] or not sides[False]:
            continue
        survivors = _survivors(sides[False])
        fallen = survivors - _survivors(sides[True])
        names = ', '.join(cell.name for cell in sides[True])
        if fallen:
            return True, (
                f'{len(fallen)} of {len(sides[False][0].videos)} videos survive every attack by '
                f'gradient and fall to {names}: the gradients mislead. Give the white-box attacks '
                'more steps and restarts, and look for what masks gradients'
            )
        found = False, f'no video falls to {names} alone'
    return found


def _single_step(attacks: list[Cell]) -> Found:
    found = None
    for one in attacks:
        for many in attacks:
            kinds = (one.options.get('type'), many.options.get('type'))
            if kinds != ('FGSM', 'PGD') or one.level != many.level:
                continue
            right = [sum(rank == 0 for rank in cell.ranks) for cell in (one, many)]
            if right[1] > right[0]:
                return True, (
                    f'{many.name} leaves {right[1]} videos right where {one.name}, a single step, '
                    f'leaves {right[0]}: its steps do not add up. Check step_size and the gradients'
                )
            found = False, f'{many.name} is at least as strong as {one.name}'
    return found


def _survivors(cells: list[Cell]) -> set[int]:
    alive = [
        {video for video, rank in zip(cell.videos, cell.ranks, strict=True) if rank == 0}
        for cell in cells
    ]
    return set.intersection(*alive)


def _is_black_box(cell: Cell) -> bool:
    kind = ATTACKS.get(str(cell.options.get('type')))
    return kind is not None and kind.black_box
