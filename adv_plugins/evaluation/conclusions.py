"""What an evaluation says in a sentence: which model, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .comparison import Comparison, Row
from .intervals import MIN_VIDEOS, NOISE, TOO_FEW, Interval
from .page_text import as_text
from .results import Robustness
from .summary import summarize
from .tables import estimate_text, percent

_FLOOR = 5.0
"""Under this accuracy in percent, an attack leaves too little to tell two models apart."""


def conclusions(comparison: Comparison) -> list[str]:
    """Who is more robust, for each model against the baseline.

    Args:
        comparison (Comparison): The comparison.

    Returns:
        list[str]: For each other model up to three lines of Markdown: on its robustness in the
        worst case, or under the first attack if there is no worst case; on its accuracy under
        corruptions; and on its clean accuracy. No verdict is given on fewer than ``MIN_VIDEOS``
        videos, and a difference within noise is called that.
    """
    return [_conclusion(comparison, index) for index in comparison.others]


def findings(results: Robustness) -> str:
    """How accurate one model is, clean, attacked and corrupted, as a sentence in Markdown.

    Args:
        results (Robustness): The results.

    Returns:
        str: The sentence.
    """
    summary = summarize(results)
    parts = []
    if summary.clean is not None:
        parts.append(f'{estimate_text(summary.clean, " %")} of {summary.num_clean} clean videos')
    for case in summary.worst:
        accuracy = estimate_text(case.accuracy, ' %')
        parts.append(f'{accuracy} of {case.num_videos} videos in {case.condition}')
    if summary.mpc is not None and math.isfinite(summary.mpc.value):
        count = f'{len(summary.corruptions)} corruptions'
        parts.append(f'{estimate_text(summary.mpc, " %")} on average under {count}')
    model = as_text(results.model)
    if not parts:
        return f'**{model}** was not evaluated; see "Missing".'
    return f'**{model}** is right on {_listed(parts)}.'


def _conclusion(comparison: Comparison, index: int) -> str:
    rows = {row.name: row for row in comparison.rows}
    sentences = [_robustness(comparison, index)]
    for name, subject in (('mPC', 'Accuracy under corruptions (mPC)'), ('clean', 'Clean accuracy')):
        if name in rows:
            sentences.append(_side_note(rows[name], index, subject))
    return '\n'.join(sentences)


def _robustness(comparison: Comparison, index: int) -> str:
    """The sentence on the worst case, or on the first attack."""
    model, baseline = (as_text(comparison.models[i]) for i in (index, comparison.baseline))
    attacked = [row for row in comparison.rows if row.condition]
    worst = [row for row in attacked if row.name.startswith('worst case')]
    if not attacked:
        return (
            f'**Whether {model} is more robust than {baseline} is not known**: there is no attack '
            'that both went through alike.'
        )
    row = (worst or attacked)[0]
    change = row.changes[index]
    assert change is not None
    before, after = row.means[comparison.baseline], row.means[index]
    where = f'in {row.condition}' if row in worst else f'under {row.condition}'
    numbers = (
        f'{_points(change)} {where} on {row.num_videos} videos '
        f'({percent(after)} % against {percent(before)} %)'
    )
    if change.verdict == TOO_FEW:
        return (
            f'**Too few videos to say whether {model} is more robust than {baseline}**: a verdict '
            f'takes at least {MIN_VIDEOS}; so far it is {numbers}.'
        )
    if change.verdict == NOISE:
        floor = (
            ' Hardly anything survives this attack: a smaller ε might tell them apart.'
            if max(before, after) < _FLOOR
            else ''
        )
        return (
            f'**Whether {model} is more robust than {baseline} is uncertain**: {numbers} is within '
            f'noise{_why_noise(change)}.{floor}'
        )
    word = 'more' if change.verdict == 'better' else 'less'
    return f'**{model} is {word} robust than {baseline}**: {numbers}.'


def _side_note(row: Row, index: int, subject: str) -> str:
    """``Clean accuracy is higher: +3.3 points [+0.8, +5.8] on 240 videos.``"""
    change = row.changes[index]
    assert change is not None
    verdict = {
        'better': 'is higher',
        'worse': 'is lower',
        NOISE: 'does not differ beyond noise',
        TOO_FEW: 'is known on too few videos for a verdict',
    }[change.verdict]
    why = _why_noise(change) if change.verdict == NOISE else ''
    return f'{subject} {verdict}: {_points(change)} on {row.num_videos} videos{why}.'


def _why_noise(change: Interval) -> str:
    """Why it is noise in spite of an interval without 0, if that is so."""
    if change.low <= 0 <= change.high:
        return ''
    if change.p_value is not None:
        return f' (p = {change.p_value:.2g})'
    return f' (they differ at {change.num_differing} videos only)'


def _points(change: Interval) -> str:
    """``+1.3 points [+0.4, +2.2]``."""
    value, low, high = (percent(x, '+') for x in change[:3])
    return f'{value} points [{low}, {high}]'


def _listed(parts: Sequence[str]) -> str:
    """``a, b, and c``."""
    if len(parts) < 3:
        return ' and '.join(parts)
    return f'{", ".join(parts[:-1])}, and {parts[-1]}'
