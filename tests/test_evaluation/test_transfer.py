"""Each model on the adversarial examples of each: by hand, taken up again, and where it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.runner import Runner
from test_robustness_loop import SMALL, config

from adv_plugins.evaluation import transfer
from adv_plugins.evaluation.attacks import PGD
from adv_plugins.evaluation.deployed import Deployed, rank_labels
from adv_plugins.evaluation.measurements import Measurements
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.transfer import Transfer
from adv_plugins.evaluation.videos import read
from adv_plugins.evaluation.weights import load_weights

ATTACK = dict(type='PGD', steps=2)


@pytest.fixture(scope='module')
def loops(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds the loop in a folder, and evaluates two models there, clean."""
    source = tmp_path_factory.mktemp('weights')
    files = []
    for seed in (0, 1):
        runner = Runner.from_cfg(config(source))
        model = runner.model.train()
        torch.manual_seed(seed)
        nn.init.normal_(model.cls_head.fc_cls.weight, std=0.3)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        loader = runner.build_dataloader(runner.cfg.test_dataloader)
        with torch.no_grad():
            for batch in loader:
                model(**model.data_preprocessor(batch, False))
        files.append(str(source / f'{seed}.pth'))
        torch.save({'state_dict': model.state_dict()}, files[-1])
    # The first model is right, and wrong about three clips.
    labels: list[int] = []
    load_weights(model.eval(), files[0])
    for batch in loader:
        labels += [int(sample.pred_label) for sample in model.test_step(batch)]
    labels = [(x + 1) % 12 if i % 4 == 1 else x for i, x in enumerate(labels)]

    def built(folder: Path, **options: Any) -> Any:
        given = {**SMALL, 'attacks': dict(pgd=ATTACK), 'curve_eps': (), 'num_videos': 6}
        runner = Runner.from_cfg(config(folder, labels, **{**given, **options}))
        loop = runner.test_loop
        # Only what is transferred is of interest here.
        plan = type(loop.plan)
        found = []
        for file in files:
            load_weights(runner.model, file)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plan, 'conditions', clean_only(plan.conditions))
                loop.evaluate(file)
            found.append(loop.results)
        return loop, found

    return built


def clean_only(conditions: Any) -> Any:
    def wrapped(self: Any, *args: Any) -> Any:
        return [each for each in conditions(self, *args) if each.cell.kind == 'clean']

    return wrapped


def stored(folder: Path, results: Robustness) -> Robustness:
    return Robustness.load(folder / f'robustness_{results.weights}.json')


def test_every_model_is_shown_the_examples_of_every_model(loops: Any, tmp_path: Path) -> None:
    loop, found = loops(tmp_path)
    Transfer(loop, found, 'pgd', 4).run()
    attack, model = PGD(eps=2 / 255, steps=2), loop.runner.model.eval()
    videos = found[0].cells[f'transfer/{found[1].weights}'].videos
    assert len(videos) == 4 and set(videos) <= set(found[0].cells['clean'].videos)
    ranks: dict[tuple[int, int], list[int]] = {}
    for items in read(loop.dataloader, loop.dataloader.dataset, videos):
        data = model.data_preprocessor(items.batch, False)
        x, samples = data['inputs'], data['data_samples']
        labels = torch.cat([sample.gt_label for sample in samples])
        for source in (0, 1):
            load_weights(model, found[source].checkpoint)
            deployed = Deployed(model)

            def logits(
                values: Any, index: Any, deployed: Any = deployed, samples: Any = samples
            ) -> Any:
                return deployed.scores(values, [samples[i] for i in index])

            seeds = torch.tensor(items.videos)
            moved = attack.search(logits, x, labels, deployed.space(x), seeds, stop=False).best
            # Those that the source gets wrong are attacked too.
            assert (moved != x).flatten(1).any(1).all()
            for target in (0, 1):
                load_weights(model, found[target].checkpoint)
                with torch.no_grad():
                    scores = Deployed(model).scores(moved, samples)
                own = rank_labels(scores, labels)['rank'].tolist()
                ranks.setdefault((source, target), []).extend(own)
    for (source, target), expected in ranks.items():
        key = f'transfer/{found[source].weights}'
        for results in (found[target], stored(tmp_path, found[target])):
            assert results.cells[key].videos == videos and results.cells[key].ranks == expected
        page = (tmp_path / f'robustness_{found[target].weights}.md').read_text()
        assert f'| {found[source].weights}{", its own" * (source == target)} | 2/255 |' in page
    assert ranks[0, 0] != ranks[0, 1] and ranks[0, 1] != ranks[1, 1]


@pytest.mark.exhaustive
def test_what_is_there_is_not_run_again_and_nothing_is_lost(
    loops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    examples = Measurements.examples

    def counted(self: Any, attack: Any, batch: Any) -> Any:
        calls.append(batch.videos.tolist())
        if len(calls) > limit:
            raise RuntimeError('out of memory')
        return examples(self, attack, batch)

    monkeypatch.setattr(Measurements, 'examples', counted)
    limit = 1
    loop, found = loops(tmp_path)
    Transfer(loop, found, 'pgd', 2).run()
    first, second = (f'transfer/{each.weights}' for each in found)
    for each in found:
        kept = stored(tmp_path, each)
        assert len(kept.cells[first].videos) == 2 and second not in kept.cells
        assert kept.missing[second] == 'RuntimeError: out of memory'
    # The second source is taken up, with more videos, of which the first has some.
    limit = 99
    calls.clear()
    loop, found = loops(tmp_path)
    Transfer(loop, found, 'pgd', 6).run()
    assert [len(videos) for videos in calls] == [4, 5, 1]
    whole = [stored(tmp_path, each) for each in found]
    assert all(len(each.cells[key].videos) == 6 for each in whole for key in (first, second))
    assert not any(each.missing for each in whole)
    # Fewer videos leave them, and so does another attack; nothing is attacked, no model loaded.
    calls.clear()
    monkeypatch.setattr(Transfer, '_loaded', None)
    loop, found = loops(tmp_path)
    Transfer(loop, found, 'pgd', 3).run()
    assert not calls and len(found[0].cells[first].videos) == 6
    monkeypatch.undo()
    other = dict(pgd=dict(type='FGSM'))
    loop, found = loops(tmp_path, attacks=other)
    Transfer(loop, found, 'pgd', 2).run()
    again = stored(tmp_path, found[0])
    assert again.cells[first].options['type'] == 'FGSM'
    assert sorted(len(cell.videos) for cell in again.earlier) == [6, 6]


@pytest.mark.exhaustive
def test_videos_that_cannot_be_read_are_left_out_once(
    loops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last video is not asked for again, and nothing is missing where there are numbers."""
    asked: list[list[int]] = []
    reads = transfer.read
    monkeypatch.setattr(transfer, 'read', lambda *args: asked.append(list(args[2])) or reads(*args))
    for expected in ([[1, 3, 7, 9, 11]] * 2, []):
        loop, found = loops(tmp_path, unreadable=(5,))
        asked.clear()
        Transfer(loop, found, 'pgd', 6).run()
        assert asked == expected
        for each in found:
            assert list(each.missing) == ['video 5']
            assert [len(each.cells[key].videos) for key in each.keys('transfer')] == [5, 5]
    # What the clean evaluation could read may fail later.
    loop, found = loops(tmp_path / 'later', num_videos=2)
    videos = list(found[0].cells['clean'].videos)
    loop.dataloader.dataset.unreadable = videos
    for each in found * 2:
        Transfer(loop, found, 'pgd', 2).run()
        keys = {f'transfer/{other.weights}' for other in found}
        assert set(each.missing) == {*keys, *(f'video {video}' for video in videos)}
        assert {each.missing[key] for key in keys} == {'none of the videos could be read'}


def test_a_checkpoint_that_was_overwritten_is_told(loops: Any, tmp_path: Path) -> None:
    loop, found = loops(tmp_path)
    with pytest.raises(ValueError, match='num_videos=0 must be'):
        Transfer(loop, found, 'pgd', 0)
    found[0].checkpoint = found[1].checkpoint
    Transfer(loop, found, 'pgd', 2).run()
    for each in found:
        assert not each.keys('transfer')
        (told,) = set(each.missing.values())
        assert '1.pth has other weights by now' in told
