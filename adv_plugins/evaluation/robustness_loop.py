"""One test of how accurate a recognizer is on clean, corrupted and attacked videos."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast

from ..adapters.wrappers import inner_model
from ..datasets.corruptions import CORRUPTIONS, VideoCorruption
from .deployed import Deployed
from .measurements import Measurements, VideoBatch
from .pages import markdown
from .results import Cell, Robustness
from .robustness_plan import ATTACKS, CURVE, DEEPFOOL, Condition, Measure, Plan
from .sanity import flags
from .videos import Items, corrupted, read
from .weights import load_weights, weights_digest

Rows = dict[int, dict[str, float]]
"""Numbers by name, by the index of the video."""


@LOOPS.register_module()
class RobustnessTestLoop(TestLoop):
    """Test a recognizer on clean, corrupted and attacked videos.

    The model is built once. Each condition is a *cell*: clean; every corruption at every severity;
    every attack; an ε curve; DeepFool; and probes for the sanity flags. Multi-view tests are
    attacked as deployed, through the average over the views. A video that is wrong before an
    attack counts as wrong under it.

    After every cell, ``robustness_<weights>.json`` is written to the work dir. ``<weights>`` is a
    digest of the weights: an interrupted evaluation resumes where it stopped, and another
    checkpoint gets a file of its own. At the end, the same numbers are written as a Markdown page
    beside it. Whatever fails (a name that does not exist, an attack that does not work with the
    model, a video that cannot be read) is logged and noted under ``missing``; all else is still
    evaluated.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The test data; one hard label a video.
        evaluator (Evaluator | dict | list): That of the config, which is not used: all numbers
            are computed from the ranks of single videos, so that checkpoints can be compared.
        corruptions (Sequence[str]): Names out of ``adv_plugins.datasets.corruptions.CORRUPTIONS``.
            Defaults to all of them.
        severities (Sequence[int]): Defaults to (1, 2, 3, 4, 5).
        attacks (Mapping[str, dict], optional): Attacks by name: a type of
            ``adv_plugins.evaluation.attacks.ATTACKS`` with its options, or a recipe's attack, such
            as ``dict(type='TAF', steps=10)``, the CAM attack. Defaults to None:
            ``robustness_loop.ATTACKS``.
        eps (float): Radius of the attacks without an ``eps`` of their own, as a fraction of the
            value range. Defaults to 4/255.
        curve (str, optional): Name of the attack that is repeated at ``curve_eps``. Defaults to
            ``'pgd'``. None: no curve.
        curve_eps (Sequence[float]): Defaults to (1, 2, 8, 16)/255.
        deepfool (Mapping, optional): Options of :func:`~adv_plugins.evaluation.deepfool`. Defaults
            to ``robustness_loop.DEEPFOOL``. None: it is not run.
        attention (bool): Whether to report the entropy of the attention over frames, and how much
            of it moves to other frames under attack (half the ℓ1 distance: 0 to 1). Defaults to
            True.
        num_videos (int, optional): How many videos, evenly spread over the test set. Defaults to
            None: all.
        attack_videos (int, optional): How many of them are attacked; the default attacks take
            some ten thousand forwards for each. Defaults to 1000. None: all.
        seed (int): Of corruptions, random starts and Square. Defaults to 0.
        name (str, optional): The name of the model in tables. Defaults to None: the name of the
            checkpoint's folder and its file without suffix.
        fp16 (bool): Whether to evaluate under autocast. Defaults to False.

    Raises:
        ValueError: A number of videos is less than 1, or the checkpoint does not fit the config.
        TypeError: The model is no recognizer.

    Example:
        >>> # in a config, or --cfg-options test_cfg.type=RobustnessTestLoop
        >>> test_cfg = dict(
        ...     type='RobustnessTestLoop',
        ...     severities=(1, 3, 5),
        ...     attacks=dict(
        ...         pgd=dict(type='PGD', steps=20, restarts=5),
        ...         cam=dict(type='TAF', steps=10, step_size=None)),
        ...     eps=2 / 255,
        ...     attack_videos=500)
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        corruptions: Sequence[str] = CORRUPTIONS,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        attacks: Mapping[str, Any] | None = None,
        eps: float = 4 / 255,
        curve: str | None = 'pgd',
        curve_eps: Sequence[float] = CURVE,
        deepfool: Mapping[str, Any] | None = DEEPFOOL,
        attention: bool = True,
        num_videos: int | None = None,
        attack_videos: int | None = 1000,
        seed: int = 0,
        name: str | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.plan = Plan(
            corruptions=tuple(corruptions),
            severities=tuple(severities),
            attacks=dict(ATTACKS if attacks is None else attacks),
            eps=eps,
            curve=curve,
            curve_eps=tuple(curve_eps),
            deepfool=deepfool,
            attention=attention,
            num_videos=num_videos,
            attack_videos=attack_videos,
            seed=seed,
            fp16=fp16,
        )
        self.name = name
        self.deployed = Deployed(inner_model(runner.model))
        self.results: Robustness | None = None

    def run(self) -> dict[str, float]:
        """Evaluate every cell that the file of results does not have yet.

        Returns:
            dict[str, float]: The headline numbers in percent.
        """
        if self.runner._load_from is not None:
            # Runner has loaded them already, but only logs what does not fit.
            load_weights(self.deployed.model, self.runner._load_from)
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        metrics = self.evaluate(self.runner._load_from or '')
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def evaluate(self, checkpoint: str) -> dict[str, float]:
        """Evaluate the weights that the model has now; see :meth:`run`.

        Args:
            checkpoint (str): The file that they come from, for the records.

        Returns:
            dict[str, float]: The headline numbers in percent.
        """
        # Anew, since TPNHead's second classifier may belong to other weights.
        self.deployed = Deployed(inner_model(self.runner.model).eval())
        self.results, file = self._start(checkpoint)
        measurements = Measurements(self.deployed, self.plan.seed)
        total = len(self.dataloader.dataset)
        for condition in self.plan.conditions(measurements, total, self.results):
            key = condition.cell.key
            if self.results.finished(condition.cell):
                print_log(f'{key}: kept from {file.name}', logger='current')
                continue
            self._evaluate_cell(condition)
            self._save(file)
        self.results.flags = flags(self.results)
        self._save(file)
        file.with_suffix('.md').write_text(markdown(self.results), encoding='utf-8')
        print_log(f'results: {file} and {file.with_suffix(".md").name}', logger='current')
        for flag in self.results.flags:
            if flag.raised:
                print_log(f'{flag.name}: {flag.message}', 'current', logging.WARNING)
        return headline(self.results)

    def _start(self, checkpoint: str) -> tuple[Robustness, Path]:
        """The results of these weights so far, or empty ones, and their file."""
        digest = weights_digest(self.deployed.model)
        file = Path(self.runner.work_dir) / f'robustness_{digest}.json'
        path = Path(checkpoint or 'untrained')
        name = self.name or '/'.join(part for part in (path.parent.name, path.stem) if part)
        dataset = self.dataloader.dataset
        empty = Robustness(
            model=name,
            config=str(self.runner.cfg.filename or ''),
            checkpoint=checkpoint,
            weights=digest,
            dataset=type(dataset).__name__,
            classes=class_names(dataset, self.deployed.head.num_classes),
        )
        if file.exists():
            earlier = Robustness.load(file)
            if (earlier.dataset, earlier.classes) == (empty.dataset, empty.classes):
                empty.labels, empty.cells = earlier.labels, earlier.cells
                # Unreadable videos are not tried again: finished cells are without them.
                empty.missing = {k: v for k, v in earlier.missing.items() if k.startswith('video ')}
        barrier()
        return empty, file

    def _save(self, file: Path) -> None:
        assert self.results is not None
        if is_main_process():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.results.save(file)

    def _evaluate_cell(self, condition: Condition) -> None:
        """Evaluate one cell; if it fails, the reason is noted in its place."""
        assert self.results is not None
        cell, started = condition.cell, time.perf_counter()
        rows: Rows = {}
        unreadable: dict[int, str] = {}
        problem = ''
        try:
            for part in self._rows(condition, unreadable):
                rows |= part
        except Exception as error:
            problem = f'{type(error).__name__}: {error}'
            logging.getLogger('mmengine').debug('', exc_info=True)
        # Every rank gets all of it, so that all of them plan the next cell alike.
        shared = all_gather_object((rows, unreadable, problem))
        merged = dict(sorted(row for part, _, _ in shared for row in part.items()))
        for index, message in sorted(m for _, part, _ in shared for m in part.items()):
            self.results.missing[f'video {index}'] = message
        problem = next((text for _, _, text in shared if text), '')
        if not (merged or problem):
            problem = 'none of the videos could be read'
        if problem:
            self.results.skip(cell.key, problem)
            print_log(f'{cell.key}: {problem}', 'current', logging.ERROR)
            return
        _fill(cell, merged, time.perf_counter() - started)
        self.results.labels |= {index: int(row['label']) for index, row in merged.items()}
        self.results.add(cell)
        top = f'top-1 {self.results.top(cell.key):.1f}, ' if cell.ranks else ''
        print_log(
            f'{cell.key}: {top}{len(cell.videos)} videos, {cell.seconds:.1f} s', logger='current'
        )

    def _rows(self, condition: Condition, unreadable: dict[int, str]) -> Iterator[Rows]:
        """The numbers of the videos, batch after batch; what cannot be read is noted."""
        cell, measure = condition.cell, condition.prepare()
        videos, done, logged = cell.videos, 0, time.perf_counter()
        for items in read(self.dataloader, self._dataset(cell), videos):
            unreadable |= items.unreadable
            for index, message in items.unreadable.items():
                print_log(f'video {index} is left out: {message}', 'current', logging.ERROR)
            if items.videos:
                yield self._measure(measure, items)
            done += len(items.videos)
            if time.perf_counter() - logged > 60:
                logged = time.perf_counter()
                print_log(f'{cell.key}: {done} of {len(videos)} videos', 'current')

    @torch.no_grad()
    def _measure(self, measure: Measure, items: Items) -> Rows:
        """The numbers of the videos of one batch, by their index."""
        with autocast(enabled=self.fp16):
            batch = VideoBatch.of(self.deployed, items)
            columns = measure(batch) | dict(label=batch.labels)
        numbers = {name: values.tolist() for name, values in columns.items()}
        return {
            index: {name: values[place] for name, values in numbers.items()}
            for place, index in enumerate(items.videos)
        }

    def _dataset(self, cell: Cell) -> Any:
        """The videos of a cell, with its corruption in their pipeline."""
        dataset = self.dataloader.dataset
        if cell.kind != 'corruption':
            return dataset
        assert cell.level is not None
        return corrupted(dataset, VideoCorruption(cell.name, int(cell.level), self.plan.seed))


def headline(results: Robustness) -> dict[str, float]:
    """The numbers for a log line, in percent: clean accuracy, mPC, rPC, accuracy under attacks.

    Args:
        results (Robustness): A finished evaluation.

    Returns:
        dict[str, float]: ``acc/top1`` and ``acc/top5`` as by AccMetric, ``mPC``, ``rPC``, and
        ``attack/<name>/top1``; what was not evaluated is left out.
    """
    numbers = {}
    if 'clean' in results.cells:
        numbers = {f'acc/top{k}': results.top('clean', k) for k in (1, 5)}
        if any(cell.kind == 'corruption' for cell in results.cells.values()):
            numbers |= {'mPC': float(results.mpc()), 'rPC': float(results.rpc())}
    attacks = [key for key, cell in results.cells.items() if cell.kind == 'attack']
    return numbers | {f'{key}/top1': results.top(key) for key in attacks}


def class_names(dataset: Any, num_classes: int) -> list[str]:
    """The names of the classes, or their numbers where the dataset has no names."""
    names = getattr(dataset, 'metainfo', {}).get('classes') or range(num_classes)
    return [str(name) for name in names]


def _fill(cell: Cell, rows: Mapping[int, Mapping[str, float]], seconds: float) -> None:
    """Fill a cell with the numbers of its videos, in their order."""
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    del columns['label']
    cell.videos, cell.seconds = list(rows), seconds
    cell.predictions, cell.ranks = columns.pop('prediction', []), columns.pop('rank', [])
    cell.values = columns
