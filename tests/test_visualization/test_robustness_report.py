"""The first screen of a report: which model, by how much, how sure."""

from __future__ import annotations

import pytest
from handmade_results import EIGHT, one_model, put, result, two_models

from adv_plugins.evaluation import compare
from adv_plugins.evaluation.cells import Flag
from adv_plugins.evaluation.results import Robustness
from adv_plugins.visualization.report import Section
from adv_plugins.visualization.robustness_report import number_sections

pytest.importorskip('matplotlib', reason='charts need adv_plugins[mmaction]')


def sections(results: list[Robustness], **more: list[str]) -> dict[str, Section]:
    comparison = compare(results) if len(results) > 1 else None
    options = dict(failed=[], long_term=[], files=[]) | more
    return {each.title: each for each in number_sections(results, comparison, **options)}


def test_verdict_numbers_and_doubts_come_first() -> None:
    pair = two_models()
    pair[1].flags = [Flag('steps', True, 'one step is stronger'), Flag('noise', None, '')]
    found = sections(pair, failed=['CE'])
    assert list(found)[:2] == ['In short', 'Comparison']
    text = found['In short'].markdown
    parts = ['> **Whether TAF is more robust than TSM is uncertain**: ']
    parts += ['\\\n> Accuracy under corruptions (mPC) is higher: +7.5', '\\\n> Clean accuracy is']
    parts += ['**CE could not be evaluated**; see "Missing".', '| top-1 accuracy, % | TSM | TAF |']
    parts += ['| clean, 60 videos | 66.7 [54.1, 77.3] | 83.3 [72.0, 90.7] |']
    parts += ['| worst case at ε = 8/255: 2 attacks, 30 videos | 16.7 [7.3, 33.6] | 16.7 [7.3']
    parts += ['| sanity flags raised | — | 1 of 2, 1 not checked |']
    parts += ['- **Read TAF with care, steps**: one step is stronger']
    places = [text.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)


def test_models_that_lack_a_number_have_a_dash() -> None:
    pair = two_models()
    third = result('CE')
    put(third, 'clean', range(7))
    text = sections([*pair, third])['In short'].markdown
    assert '| 16.7 [7.3, 33.6] | 16.7 [7.3, 33.6] | — |' in text
    assert '> **Whether CE is more robust than TSM is not known**' in text


def test_what_may_have_hundreds_of_rows_is_folded() -> None:
    found = sections(two_models())
    whole, detail = (found[title] for title in ('Comparison', 'Comparison in detail'))
    assert '### Accuracy' in whole.markdown and '### Classes' not in whole.markdown
    assert detail.folded and detail.markdown.startswith('### Classes: TAF against TSM')
    assert detail.markdown.endswith('### Not compared\n\nNothing.\n')


def test_each_section_links_its_files() -> None:
    files = [f'tables/{name}.csv' for name in ('summary', 'attacks', 'curves', 'confusions')]
    found = sections(two_models(), files=files)
    assert found['In short'].files == ['tables/summary.csv']
    assert found['Attacks'].files == ['tables/attacks.csv', 'tables/curves.csv']
    assert found['Confused classes'].files == ['tables/confusions.csv']
    assert found['Class by class'].files == []


def test_charts_say_what_they_show() -> None:
    pair = two_models()
    for each in pair:
        put(each, 'curve', range(20), 'pgd', 4 / 255, videos=list(each.labels)[:30])
        put(each, 'attack', range(9), 'flicker', EIGHT, options=dict(threat='linf, shared=h w'))
    found = sections(pair)
    ((_, caption),) = found['Corruptions'].figures
    assert 'on 60 videos' in caption and 'Severity 0 is no corruption: the clean videos' in caption
    ((_, caption),) = found['Attacks'].figures
    assert caption.startswith('Top-1 accuracy under pgd at ε = 4/255, 8/255, on 30 videos')
    assert '| **worst case** | 16.7 [7.3, 33.6] |' in found['Attacks'].markdown
    assert '| **worst case (linf, shared=h w)** |' in found['Attacks'].markdown
    assert len(found['Confused classes'].figures) == 2
    assert '| left | right | TSM | clean | 7 of 20 | 35.0 |' in found['Confused classes'].markdown
    assert 'pgd, ε = 8/255' in found['Confused classes'].markdown


def test_little_or_nothing_was_evaluated() -> None:
    assert list(sections([one_model()])) == [
        'In short', 'Corruptions', 'Attacks', 'Confused classes'
    ]  # fmt: skip
    clean = result('TSM')
    put(clean, 'clean', range(3))
    assert list(sections([clean])) == ['In short', 'Confused classes']
    attacked = result('TSM')
    put(attacked, 'attack', range(3), 'pgd', EIGHT)
    assert (
        'worst case at ε = 8/255: 1 attack, 60 videos' in sections([attacked])['In short'].markdown
    )
    found = sections([], failed=['TSM'])
    assert list(found) == ['In short'] and 'could not be evaluated' in found['In short'].markdown
