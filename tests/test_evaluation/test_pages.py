"""One function for every page."""

from __future__ import annotations

import copy
import html
import re
from typing import Any

import pytest
from handmade_results import one_model, two_models

from adv_plugins.evaluation import Robustness, compare, markdown
from adv_plugins.evaluation.cells import Flag


def test_either_kind_of_results_has_a_page() -> None:
    assert markdown(one_model(), groups={}).startswith('# Robustness of TSM')
    assert markdown(compare(two_models())).startswith('# Comparison with TSM')


@pytest.mark.parametrize('wrong', ['tsm.json', None, []])
def test_other_objects_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r'Robustness\.load'):
        markdown(wrong)


def test_options_of_the_other_kind_are_refused() -> None:
    with pytest.raises(TypeError, match='highlight'):
        markdown(one_model(), highlight=['left'])
    with pytest.raises(TypeError, match='groups'):
        markdown(compare(two_models()), groups={})


# Those of a condition may not contain a slash.
HOSTILE = ('![t](evil.png)', '[x]: evil', 'a *b* c|d `e` <b>f &amp; __g__', '1. # two\\')


def renamed(results: Robustness, name: str) -> Robustness:
    """Results in which all that has a name has this one."""
    results = copy.deepcopy(results)
    results.model += name
    results.config = results.checkpoint = results.weights = name
    results.classes = [f'{name} {index}' for index in range(len(results.classes))]
    for key, cell in list(results.cells.items()):
        if cell.name:
            del results.cells[key]
            cell.name += name
            cell.options[name] = name
            results.add(cell)
    results.missing['video ' + name] = name
    results.flags = [Flag(name, raised, name) for raised in (True, False, None)]
    return results


@pytest.mark.parametrize('name', HOSTILE, ids=['picture', 'definition', 'markup', 'start'])
@pytest.mark.parametrize('page', ['results', 'comparison'])
def test_a_page_is_the_same_whatever_the_names_are(page: str, name: str) -> None:
    markdown_it = pytest.importorskip('markdown_it', reason='needs adv_plugins[mmaction]')

    def elements(name: str) -> tuple[list[str], str]:
        if page == 'results':
            text = markdown(renamed(one_model(), name), groups={'g' + name: ['snow' + name]})
        else:
            both = [renamed(results, name) for results in two_models()]
            text = markdown(compare(both), highlight=[both[0].classes[0]])
        parser = markdown_it.MarkdownIt('commonmark', {'html': True}).enable('table')
        rendered = parser.render(text)
        return re.findall(r'<(/?\w+)', rendered), html.unescape(re.sub('<[^>]*>', '', rendered))

    plain, ordinary = elements('zzz')
    tags, text = elements(name)
    assert tags == plain
    assert text.count(name) == ordinary.count('zzz') > 10
