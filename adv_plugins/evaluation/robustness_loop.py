"""One test of how accurate a recognizer is on clean, corrupted and attacked videos."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast

from ..adapters.wrappers import inner_model
from ..core.capture import find_module
from ..datasets.corruptions import CORRUPTIONS, VideoCorruption
from ..datasets.files import preview
from ..progress import Progress, Tell
from .attacks import part_names
from .attacks.ensemble import out_of_time
from .class_names import class_names
from .deployed import Deployed
from .labels import EvaluationError, check_classes, listed_labels
from .measurements import Columns, Measurements, VideoBatch
from .readable_log import make_log_readable
from .results import Cell, Robustness
from .results_page import headline
from .results_store import ResultsStore
from .robustness_plan import ATTACKS, CURVE, CURVE_OF, DEEPFOOL, Condition, Measure, Plan
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
    digest of the weights: another checkpoint gets a file of its own. What was computed once is
    never lost. An interrupted evaluation resumes where it stopped, and one of more videos runs
    those that are new; fewer videos or other options leave the numbers in the file that are there
    (:attr:`adv_plugins.evaluation.Robustness.earlier`). A file that is damaged, or of another
    dataset, is renamed. Several processes may evaluate the same weights at once. At the end, the
    numbers of this evaluation are written as a Markdown page beside it.

    Results name the classes as the config's ``label_map='file.txt'`` does (a name on each line,
    that of class 0 first), or else the dataset's metainfo, or else the folders in its list if each
    class has one.

    All options, and the labels of the videos, are checked before the first video is read. What
    fails later (an attack that does not work with the model, a video that cannot be read) is
    logged and noted under ``missing``; all else is still evaluated.

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
            value range; also as text, such as ``'8/255'``. Defaults to 4/255.
        curve (str, optional): Name of the one of ``attacks`` that is repeated at ``curve_eps``.
            Defaults to ``'pgd'``, if there is one. None: no curve.
        curve_eps (Sequence[float]): Defaults to (1, 2, 8, 16)/255.
        deepfool (Mapping, optional): Options of :func:`adv_plugins.evaluation.deepfool`. Defaults
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
        ValueError: An option is not as described, the checkpoint does not fit the config, or a
            video has no label.
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
        curve: str | None = CURVE_OF,
        curve_eps: Sequence[float] = CURVE,
        deepfool: Mapping[str, Any] | None = DEEPFOOL,
        attention: bool = True,
        num_videos: int | None = None,
        attack_videos: int | None = 1000,
        seed: int = 0,
        name: str | None = None,
        fp16: bool = False,
    ) -> None:
        self.plan = Plan(
            corruptions=corruptions,
            severities=severities,
            attacks=ATTACKS if attacks is None else attacks,
            eps=eps,
            curve=curve,
            curve_eps=curve_eps,
            deepfool=deepfool,
            attention=attention,
            num_videos=num_videos,
            attack_videos=attack_videos,
            seed=seed,
            fp16=fp16,
        )
        super().__init__(runner, dataloader, evaluator, fp16)
        self.name = name
        self.deployed = Deployed(inner_model(runner.model))
        self.classes = class_names(
            self.dataloader.dataset, self.deployed.head.num_classes, runner.cfg.get('label_map')
        )
        for planned in self.plan.attacks.values():
            objective = getattr(planned.attack, 'objective', None)
            for option in ('cam_layer', 'layer'):
                if layer := getattr(objective, option, None):
                    # A layer that the config names, and that is misspelt, is told now.
                    find_module(self.deployed.model, layer, option)
        self.results: Robustness | None = None

    def run(self) -> dict[str, float]:
        """Evaluate every cell that the file of results does not have yet.

        Returns:
            dict[str, float]: The headline numbers, as they are logged.
        """
        make_log_readable(self.runner)
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
            dict[str, float]: The headline numbers, as they are logged.
        """
        # Anew, since TPNHead's second classifier may belong to other weights.
        self.deployed = Deployed(inner_model(self.runner.model).eval())
        dataset = self.dataloader.dataset
        measurements = Measurements(self.deployed, self.plan.seed)
        conditions = self.plan.conditions(measurements, len(dataset))
        labels = listed_labels(dataset, conditions[0].cell.videos)
        num_classes = self.deployed.head.num_classes
        check_classes(labels, num_classes)
        self.results = self._empty(checkpoint)
        refused = {each.cell.key: each.refusal(num_classes) for each in conditions}
        self.results.missing |= {key: reason for key, reason in refused.items() if reason}
        conditions = [each for each in conditions if not refused[each.cell.key]]
        store = ResultsStore(self.runner.work_dir, self.results, labels, len(dataset))
        print_log(f'{self.results.model}: {self.plan.describe()}', logger='current')
        self._evaluate_cells(conditions, store)
        self.results.flags = flags(self.results)
        store.save()
        store.write_page()
        name = store.file.with_suffix('.md').name
        print_log(f'results: {store.file} and {name}', logger='current')
        if self.results.missing:
            keys = preview(self.results.missing, 5)
            print_log(f'see "Missing" in {name}: {keys}', 'current', logging.WARNING)
        for flag in self.results.flags:
            if flag.raised:
                print_log(f'{flag.name}: {flag.message}', 'current', logging.WARNING)
        return headline(self.results)

    def _empty(self, checkpoint: str) -> Robustness:
        """Results of these weights without a number."""
        path = Path(checkpoint or 'untrained')
        name = self.name or '/'.join(part for part in (path.parent.name, path.stem) if part)
        dataset = self.dataloader.dataset
        return Robustness(
            model=name,
            config=str(self.runner.cfg.filename or ''),
            checkpoint=checkpoint,
            weights=weights_digest(self.deployed.model),
            dataset=type(dataset).__name__,
            classes=self.classes,
        )

    def _evaluate_cells(self, conditions: Sequence[Condition], store: ResultsStore) -> None:
        """Evaluate what the file of results does not have yet, cell after cell."""
        assert self.results is not None
        log = partial(print_log, logger='current')
        costs = [each.cost * len(store.rest(each.cell)) for each in conditions]
        number, total = 0, sum(cost > 0 for cost in costs)
        log(f'{total} of {len(costs)} cells to run, at most {sum(costs):,} forwards of a video')
        with Progress(sum(costs), log) as progress:
            for condition, cost in zip(conditions, costs, strict=True):
                cell, kept = condition.cell, store.resume(condition.cell)
                asked, rest = len(cell.videos), store.rest(cell)
                cell.videos = [v for v in rest if f'video {v}' not in self.results.missing]
                if kept is not None and not cell.videos:
                    more = f', {asked} were asked for' if asked < len(kept.videos) else ''
                    log(f'{cell.key}: kept from {store.file.name}, {len(kept.videos)} videos{more}')
                    continue
                number += 1
                tell = progress.part(cost, f'cell {number} of {total}, {cell.key}')
                found = self._evaluate_cell(condition, store, tell)
                tell(1, '')
                if found:
                    log(f'cell {number} of {total}{progress.left()}; {cell.key}: {found}')
                store.save()

    def _evaluate_cell(self, condition: Condition, store: ResultsStore, tell: Tell) -> str:
        """Evaluate the videos of one cell; if that fails, the reason is noted.

        Returns:
            str: What was found, for the log; '' if it failed.
        """
        assert self.results is not None
        cell, started = condition.cell, time.perf_counter()
        rows, unreadable, problem = self._measured(condition, tell)
        notes = self._note_unreadable(cell, unreadable)
        if problem or not rows:
            self._note_failure(cell, problem or '; '.join(notes), store)
            return ''
        broken = sum(not row['finite'] for row in rows.values())
        if broken and cell.kind not in ('deepfool', 'sanity'):
            count = f'{broken} of {len(rows)} videos'
            notes.append(f'{count} have scores that are NaN or infinite and count as wrong')
        if condition.planned and condition.planned.differs_by_view:
            # No worst case together with attacks that share one ball among all views.
            several = any(row['views'] > 1 for row in rows.values())
            cell.options |= {'threat': f'{cell.threat}, per view'} if several else {}
        cell.fill(rows, time.perf_counter() - started)
        self.results.labels |= {index: int(row['label']) for index, row in rows.items()}
        self.results.add(cell)
        cell = self.results.cells[cell.key]
        if 'stopped_in' in cell.values:
            late = out_of_time(part_names(cell.options), cell.values['stopped_in'])
            notes += [late] if late else []
        if notes:
            self.results.missing[cell.key] = '; '.join(notes)
        return self._found(cell)

    def _measured(self, condition: Condition, tell: Tell) -> tuple[Rows, dict[int, str], str]:
        """The numbers of the videos, why others could not be read, and what went wrong, if so."""
        rows: Rows = {}
        unreadable: dict[int, str] = {}
        problem: Exception | None = None
        try:
            for part in self._rows(condition, unreadable, tell):
                rows |= part
        except Exception as error:
            problem = error
            logging.getLogger('mmengine').debug('', exc_info=True)
        # Every rank gets all of it, so that all of them plan the next cell alike.
        text = f'{type(problem).__name__}: {problem}' if problem else ''
        stops = type(problem) if isinstance(problem, EvaluationError) else None
        shared = all_gather_object((rows, unreadable, text, stops))
        for _, _, told, kind in shared:
            if kind is not None:
                raise kind(told)
        return (
            dict(sorted(row for part, *_ in shared for row in part.items())),
            dict(sorted(message for _, part, *_ in shared for message in part.items())),
            next((told for *_, told, _ in shared if told), ''),
        )

    def _note_unreadable(self, cell: Cell, unreadable: Mapping[int, str]) -> list[str]:
        """Note what could not be read. A video that only a corruption fails at stays readable.

        Returns:
            list[str]: What to note of the cell.
        """
        assert self.results is not None
        if cell.kind == 'corruption' and unreadable:
            index, message = next(iter(unreadable.items()))
            count = f'{len(unreadable)} of {len(cell.videos)} videos'
            return [f'{count} could not be corrupted, e.g. video {index}: {message}']
        for index, message in unreadable.items():
            self.results.missing[f'video {index}'] = message
        return []

    def _note_failure(self, cell: Cell, problem: str, store: ResultsStore) -> None:
        """Note why there are no new numbers, and which old ones stay."""
        assert self.results is not None
        kept, other = self.results.cells.get(cell.key), store.stored.cells.get(cell.key)
        if kept is not None and not problem:
            # It is noted of each video that it could not be read.
            return
        problem = problem or 'none of the videos could be read'
        if kept is not None:
            problem = (
                f'evaluating {len(cell.videos)} more videos failed: {problem}; the numbers are '
                f'those of {len(kept.videos)} videos from an earlier evaluation'
            )
        elif other is not None:
            problem = (
                f'{problem}; the file keeps the numbers of an earlier evaluation with other '
                f'options, {len(other.videos)} videos'
            )
        self.results.missing[cell.key] = problem
        print_log(f'{cell.key}: {problem}', 'current', logging.ERROR)

    def _found(self, cell: Cell) -> str:
        """The numbers of a cell, for the log."""
        assert self.results is not None
        count = len(cell.videos)
        parts = [f'top-1 {self.results.top(cell.key):.1f} %'] if cell.ranks else []
        parts.append(f'{count} videos')
        if cell.kind == 'attack' and 'clean' in self.results.cells:
            right = round(count * self.results.clean_top(cell.key) / 100)
            parts.append(f'{right} of them right when clean and thus attacked')
        return ', '.join([*parts, f'{cell.seconds:.1f} s'])

    def _rows(self, condition: Condition, unreadable: dict[int, str], tell: Tell) -> Iterator[Rows]:
        """The numbers of the videos, batch after batch; what cannot be read is noted."""
        cell = condition.cell
        loader = read(self.dataloader, self._dataset(cell), cell.videos)
        for number, items in enumerate(loader, start=1):
            unreadable |= items.unreadable
            for index, message in items.unreadable.items():
                text = f'{cell.key}: video {index} is left out: {message}'
                print_log(text, 'current', logging.ERROR)
            if items.videos:
                yield self._measure(condition.measure, items)
            tell(number / len(loader), f'batch {number} of {len(loader)}')

    @torch.no_grad()
    def _measure(self, measure: Measure, items: Items) -> Rows:
        """The numbers of the videos of one batch, by their index."""
        with autocast(enabled=self.fp16):
            batch = VideoBatch.of(self.deployed, items)
            return rows_of(measure(batch), batch, items.videos)

    def _dataset(self, cell: Cell) -> Any:
        """The videos of a cell, with its corruption in their pipeline."""
        dataset = self.dataloader.dataset
        if cell.kind != 'corruption':
            return dataset
        assert cell.level is not None
        return corrupted(dataset, VideoCorruption(cell.name, int(cell.level), self.plan.seed))


def rows_of(columns: Columns, batch: VideoBatch, videos: Sequence[int]) -> Rows:
    """The numbers of each video of a batch, its label, whether its clean scores are finite, and how
    many views it has."""
    finite = batch.views.isfinite().flatten(1).all(dim=1)
    views = torch.full_like(batch.labels, batch.views.shape[1])
    columns = columns | dict(label=batch.labels, finite=finite, views=views)
    numbers = {name: values.tolist() for name, values in columns.items()}
    return {
        index: {name: values[place] for name, values in numbers.items()}
        for place, index in enumerate(videos)
    }
