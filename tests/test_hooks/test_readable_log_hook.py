"""The log's text is another one, and nothing else: files and visualizers get the same values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import feature_config

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.registry import HOOKS, LOG_PROCESSORS
from mmengine.runner import LogProcessor, Runner

from adv_plugins.evaluation.readable_log import ReadableLogProcessor


@LOG_PROCESSORS.register_module(force=True)
class OwnLogProcessor(LogProcessor):
    """A subclass of a user's, which changes nothing."""


def run(work_dir: Path, **changes: Any) -> dict[str, str]:
    """Train, validate and test; returns the text of the log and of the two files of numbers."""
    loader = feature_config(work_dir).test_dataloader
    attacks = dict(fgm=dict(type='ART', eps=1.0), pgd=dict(type='ART', eps=1.0, steps=3))
    loop = dict(type='AdversarialTestLoop', attacks=attacks, attention=True)
    config = feature_config(
        work_dir,
        train_iters=4,
        val_dataloader=loader,
        val_evaluator=dict(type='YT8MMetric'),
        val_cfg=dict(type='ValLoop'),
        test_dataloader=loader,
        test_evaluator=dict(type='YT8MMetric', partitions=2),
        test_cfg=loop,
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='AARTHook', by_epoch=False, eps=0.1)],
    )
    config.merge_from_dict(dict(log_level='INFO', **changes))
    runner = Runner.from_cfg(config)
    runner.train()
    runner.test()
    (folder,) = {file.parent for file in work_dir.rglob('*.log')}
    return dict(
        log=next(folder.glob('*.log')).read_text(),
        scalars=(folder / 'vis_data/scalars.json').read_text(),
        test=next(folder.glob('2*.json')).read_text(),
    )


def without_times(text: str) -> str:
    return re.sub(r'"(data_)?time": [-.e0-9]+', '', text)


def lines(log: str, start: str) -> list[str]:
    """Lines of a log without the date, and without times."""
    found = [line.partition(' - INFO - ')[2] for line in log.splitlines()]
    return [re.sub(r'(time|eta): \S+', '', line) for line in found if line.startswith(start)]


@pytest.fixture(scope='module')
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """Of the same run with our texts, and with the log processor of a user's."""
    folder = tmp_path_factory.mktemp('logs')
    stock = run(folder / 'stock', log_processor=dict(type='OwnLogProcessor', by_epoch=False))
    return run(folder / 'ours'), stock


def test_files_are_the_same_bytes(logs: Any) -> None:
    ours, stock = logs
    for file in ('scalars', 'test'):
        assert without_times(ours[file]) == without_times(stock[file]) != ''
    first = json.loads(ours['scalars'].splitlines()[0])
    assert 0 < first['loss_attention_frobenius'] < 5e-5


def test_training_lines_differ_in_small_numbers_alone(logs: Any) -> None:
    ours, stock = (lines(log['log'], 'Iter(train)') for log in logs)
    assert len(ours) == len(stock) == 4
    for own, other in zip(ours, stock, strict=True):
        assert 'loss_attention_frobenius: 0.0000' in other
        assert re.search(r'loss_attention_frobenius: \d\.\de-0\d', own)
        for a, b in zip(own.split('  '), other.split('  '), strict=True):
            assert a == b or (re.search(r': \d\.\de-\d\d$', a) and re.search(r': 0\.000\d$', b))


def test_a_short_validation_stays_in_its_line_and_a_test_becomes_a_table(logs: Any) -> None:
    ours, stock = (log['log'] for log in logs)
    assert lines(ours, 'Iter(val)') == lines(stock, 'Iter(val)')
    own, other = ours.splitlines(), stock.splitlines()
    assert max(len(line) for line in other) > 900
    head = next(index for index, line in enumerate(own) if line.split()[:2] == ['clean', 'fgm'])
    assert re.search(r'Iter\(test\) \[3/3\]    data_time: 0\.\d{4}  time: 0\.\d{4}$', own[head - 1])
    table = {line.split()[0]: line.split()[1:] for line in own[head + 1 :]}
    values = json.loads(logs[0]['test'])
    assert table['mAP'] == [f'{values[key]:.4f}' for key in ('mAP', 'fgm/mAP', 'pgd/mAP')]
    assert table['num_videos'] == ['7', '7', '7']
    assert table['eps'] == ['1.0000'] * 2
    assert len(table) == len({key.removeprefix('fgm/').removeprefix('pgd/') for key in values}) - 2


def processor(tmp_path: Path, numbers: dict[str, Any], **options: Any) -> Any:
    """A runner whose log processor is ours, and which was told some numbers."""
    runner = Runner.from_cfg(feature_config(tmp_path, log_processor=options))
    HOOKS.build(dict(type='ReadableLogHook')).before_run(runner)
    assert type(runner.log_processor) is ReadableLogProcessor
    for name, value in numbers.items():
        runner.message_hub.update_scalar(name, value)
    return runner


SMALL = {
    'test/loss': 2.34e-5,
    'test/my loss': 0.0,
    'test/loss_b': 0.00051,
    'test/count': 3,
    'test/data_time': 1e-5,
}


@pytest.mark.parametrize('hierarchy', [False, True])
def test_small_numbers_of_every_name(tmp_path: Path, hierarchy: bool) -> None:
    custom = [dict(data_src='loss', log_name='loss (all)', method_name='mean', window_size=9)]
    runner = processor(tmp_path, SMALL, log_with_hierarchy=hierarchy, custom_cfg=custom)
    tag, line = runner.log_processor.get_log_after_epoch(runner, 3, 'test')
    prefix = 'test/' if hierarchy else ''
    assert line == 'Epoch(test) [3/3]    ' + '  '.join(
        f'{prefix}{item}'
        for item in (
            'loss: 2.3e-05',
            'my loss: 0.0000',
            'loss_b: 0.0005',
            'count: 3',
            'loss (all): 2.3e-05',
            'data_time: 0.0000',
        )
    )
    assert tag[f'{prefix}loss'] == 2.34e-5


def test_a_table_without_attacks_keeps_what_is_no_number(tmp_path: Path) -> None:
    numbers = {f'test/metric/{name}': 0.5 for name in 'abcdefghijkl'}
    runner = processor(tmp_path, {**numbers, 'test/tiny': 1e-9}, num_digits=3)
    runner.test_loop.recipes = {}
    runner.message_hub.update_info('test/matrix', np.eye(2, dtype=int))
    tag, text = runner.log_processor.get_log_after_epoch(runner, 3, 'test', with_non_scalar=True)
    assert text.splitlines() == [
        'Epoch(test) [3/3]',
        *[f'metric/{name}    0.500' for name in 'abcdefghijkl'],
        'tiny      1.0e-09',
        'matrix:',
        '[[1 0]',
        ' [0 1]]',
    ]
    assert tag['matrix'].tolist() == [[1, 0], [0, 1]]


def test_a_large_array_alone_is_no_table(tmp_path: Path) -> None:
    runner = processor(tmp_path, {})
    runner.message_hub.update_info('val/matrix', np.eye(20, dtype=int))
    runner._val_loop = runner.test_loop
    tag, text = runner.log_processor.get_log_after_epoch(runner, 3, 'val')
    assert tag == {} and text.startswith('Epoch(val) [0][3/3]\nmatrix:\n[[1 0')


def test_a_log_processor_of_the_users_stays(tmp_path: Path) -> None:
    options = dict(type='OwnLogProcessor')
    runner = Runner.from_cfg(feature_config(tmp_path, log_processor=options))
    HOOKS.build(dict(type='ReadableLogHook')).before_run(runner)
    assert type(runner.log_processor) is OwnLogProcessor
