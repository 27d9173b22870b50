"""The sections of a robustness report that need only the results: verdict, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from ..evaluation.comparison import Comparison
from ..evaluation.conclusions import conclusions, findings
from ..evaluation.confusion import condition_text, confused_pairs, confusion_keys, confusion_matrix
from ..evaluation.page_text import as_text, bold
from ..evaluation.pages import markdown
from ..evaluation.results import Robustness
from ..evaluation.summary import Summary, WorstCase, summarize
from ..evaluation.tables import (
    NO_NUMBER,
    count_text,
    eps_text,
    estimate_text,
    markdown_table,
    percent,
    worst_case_text,
)
from ..evaluation.transfer_matrix import transfer_matrix
from .charts import plot_class_changes, plot_corruptions, plot_eps_curves
from .confusion_picture import plot_confusion
from .report import Section

_PAIRS = 3
"""How many pairs of confused classes are named for each model and condition."""


def number_sections(
    results: Sequence[Robustness],
    comparison: Comparison | None,
    failed: Sequence[str],
    long_term: Sequence[str],
    files: Sequence[str],
) -> Iterator[Section]:
    """The sections, the most condensed first.

    Args:
        results (Sequence[Robustness]): The results of each checkpoint.
        comparison (Comparison, optional): Their comparison, if there is one.
        failed (Sequence[str]): Names of the checkpoints that could not be evaluated.
        long_term (Sequence[str]): Names of the classes to mark.
        files (Sequence[str]): The files that ``write_tables`` wrote, as paths relative to the page.

    Yields:
        Section: One after the other.
    """

    def tables(*names: str) -> list[str]:
        return [file for file in files if PurePath(file).stem in names]

    yield Section('In short', _in_short(results, comparison, failed), files=tables('summary'))
    if comparison is not None:
        # Below the first table are those of all classes, of which there may be hundreds.
        page = markdown(comparison, highlight=long_term).split('\n## ')
        # It has a section of its own.
        page = [part for part in page if not part.startswith('Transfer\n')]
        text, rest = ('\n## '.join(part) for part in (page[:2], ['', *page[2:]]))
        yield Section('Comparison', page_body(text), files=tables('comparison'))
        detail = dict(folded=True, files=tables('comparison_values'))
        yield Section('Comparison in detail', page_body(rest), **detail)
        charts = [_class_chart(comparison, index, long_term) for index in comparison.others]
        if 'clean' in comparison.shared:
            yield Section('Class by class', figures=charts, files=tables('classes'))
    if any(each.keys('corruption') for each in results):
        count = count_text(summarize(each).num_corrupted for each in results)
        caption = (
            f'Top-1 accuracy over the severity of each corruption, on {count} videos, with 95 % '
            'intervals. Severity 0 is no corruption: the clean videos.'
        )
        charts = [(plot_corruptions(results), caption)]
        yield Section('Corruptions', figures=charts, files=tables('corruptions'))
    if any(each.keys('attack') for each in results):
        curves = sorted({name for each in results for name in each.curve_names()})
        charts = [
            (plot_eps_curves(results, name), _curve_caption(results, name)) for name in curves
        ]
        yield Section('Attacks', _attacks(results), charts, files=tables('attacks', 'curves'))
    transfer = transfer_matrix(results)
    if transfer is not None:
        yield Section('Transfer', transfer.markdown(), files=tables('transfer'))
    if any(map(confusion_keys, results)):
        yield _confusions(results, tables('confusions'))


def page_body(page: str) -> str:
    """A page without its title, because the section has one, and with headings one level lower."""
    lines = page.split('\n')[1:]
    return '\n'.join(f'#{line}' if line.startswith('#') else line for line in lines)


def _in_short(
    results: Sequence[Robustness], comparison: Comparison | None, failed: Sequence[str]
) -> str:
    """Verdict, the first numbers, raised flags, and how the numbers are meant."""
    absent = [f'**{as_text(name)} could not be evaluated**; see "Missing".' for name in failed]
    if not results:
        return '\n\n'.join(absent)
    said = conclusions(comparison) if comparison else [findings(each) for each in results]
    # A backslash keeps the end of a line.
    verdict = '\n>\n'.join('> ' + text.replace('\n', '\\\n> ') for text in said)
    flags = [
        f'- **Read {as_text(each.model)} with care, {as_text(flag.name)}**: {as_text(flag.message)}'
        for each in results
        for flag in each.flags
        if flag.raised
    ]
    explained = (
        'In brackets are 95 % intervals: how much the choice of videos may move a number. Another '
        'training run may move it further, which only other seeds can show. In the worst case a '
        'video counts only if it is right clean and under every attack of that ε. mPC is the mean '
        'over all corruptions and severities, rPC is mPC in percent of the clean accuracy.'
    )
    return '\n\n'.join([verdict, *absent, _summary_table(results), '\n'.join(flags), explained])


def _summary_table(results: Sequence[Robustness]) -> str:
    """A column for each model, so that two of them fit on a phone."""
    found = [summarize(each) for each in results]
    rows = [
        [
            f'clean, {count_text(each.num_clean for each in found)} videos',
            *[estimate_text(each.clean) if each.clean else NO_NUMBER for each in found],
        ]
    ]
    for (norm, eps), cases in _worst_cases(found).items():
        attacks = count_text(len(case.attacks) for case in cases if case)
        videos = count_text(case.num_videos for case in cases if case)
        name = worst_case_text(norm, eps).removeprefix('the ')
        name += f': {attacks} attack{"s" * (attacks != "1")}, {videos} videos'
        rows.append([name, *_accuracies(cases)])
    if any(each.mpc for each in found):
        counts = count_text(len(each.corruptions) for each in found)
        videos = count_text(each.num_corrupted for each in found)
        mpc = [estimate_text(each.mpc) if each.mpc else NO_NUMBER for each in found]
        rows.append([f'mPC: {counts} corruptions, {videos} videos', *mpc])
        rows.append(['rPC', *[percent(each.rpc) for each in found]])
    if any(each.flags for each in results):
        rows.append(['sanity flags raised', *map(_flags_text, results)])
    return markdown_table(['top-1 accuracy, %', *[each.model for each in results]], rows)


def _worst_cases(
    found: Sequence[Summary],
) -> dict[tuple[str, float | None], list[WorstCase | None]]:
    """The worst case of each model by norm and eps; None where a model has none."""
    balls = dict.fromkeys((case.norm, case.eps) for each in found for case in each.worst)
    return {
        ball: [
            next((case for case in each.worst if (case.norm, case.eps) == ball), None)
            for each in found
        ]
        for ball in balls
    }


def _accuracies(cases: Sequence[WorstCase | None]) -> list[str]:
    return [estimate_text(case.accuracy) if case else NO_NUMBER for case in cases]


def _flags_text(results: Robustness) -> str:
    states = [flag.raised for flag in results.flags]
    if not states:
        return NO_NUMBER
    unchecked = f', {states.count(None)} not checked' if None in states else ''
    return f'{states.count(True)} of {len(states)}{unchecked}'


def _attacks(results: Sequence[Robustness]) -> str:
    """Each attack, and the worst case, with all models side by side."""
    keys = list(dict.fromkeys(key for each in results for key in each.keys('attack')))
    rows = []
    for key in keys:
        cells = [each.cells[key] for each in results if key in each.cells]
        eps = ', '.join(dict.fromkeys(eps_text(cell.level) for cell in cells))
        videos = count_text(len(cell.videos) for cell in cells)
        accuracy = [
            estimate_text(each.interval(key)) if key in each.cells else NO_NUMBER
            for each in results
        ]
        rows.append([cells[0].name, *accuracy, eps, videos])
    found = [summarize(each) for each in results]
    for (norm, eps), cases in _worst_cases(found).items():
        videos = count_text(case.num_videos for case in cases if case)
        name = worst_case_text(norm, None).removeprefix('the ')
        rows.append([bold(name), *_accuracies(cases), eps_text(eps), videos])
    return markdown_table(['attack', *[each.model for each in results], 'ε', 'videos'], rows)


def _curve_caption(results: Sequence[Robustness], name: str) -> str:
    curves = [each.curve(name) for each in results if name in each.curve_names()]
    levels = sorted({float(eps) for curve in curves for eps in curve.eps if eps})
    count = count_text(curve.num_videos for curve in curves)
    return (
        f'Top-1 accuracy under {name} at ε = {", ".join(map(eps_text, levels))}, on {count} '
        'videos, with 95 % intervals; ε = 0 is clean.'
    )


def _class_chart(comparison: Comparison, index: int, long_term: Sequence[str]) -> tuple:
    """The changes of all classes (TAF, figure 4)."""
    changes = comparison.class_changes(model=index, highlight=long_term)
    names = (comparison.models[index], comparison.models[comparison.baseline])
    return plot_class_changes(changes, 'long-term motions'), '{} against {}, clean.'.format(*names)


def _confusions(results: Sequence[Robustness], files: list[str]) -> Section:
    rows, figures = [], []
    for each in results:
        matrices = {}
        for key in confusion_keys(each):
            condition = condition_text(each.cells[key])
            matrices[condition] = confusion_matrix(each, key)
            for pair in confused_pairs(matrices[condition])[:_PAIRS]:
                classes = [each.classes[pair.label], each.classes[pair.prediction]]
                numbers = [f'{pair.count} of {pair.num_videos}', percent(pair.share)]
                rows.append([*classes, each.model, condition, *numbers])
        if matrices:
            caption = (
                f'{each.model}: a row for each true class, a column for each prediction; the '
                'number of videos, shaded by its share of the row. Clean, and under the attack '
                'with the largest drop.'
            )
            figures.append((plot_confusion(matrices, each.classes, each.model), caption))
    header = ['class', 'taken for', 'model', 'condition', 'videos', 'share, %']
    text = (
        f'Up to {_PAIRS} pairs of classes that are confused most, clean and under the attack with '
        'the largest drop. The share is in percent of the videos of the true class.'
    )
    table = markdown_table(header, rows, names=4) if rows else 'No class is taken for another.'
    return Section('Confused classes', f'{text}\n\n{table}', figures, files=files)
