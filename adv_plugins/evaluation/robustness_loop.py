"""One test that answers: how accurate on clean, corrupted and attacked videos, and is it true?"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast
from torch import Tensor

from ..core.recipe import RECIPES, Recipe, build_recipe
from ..datasets.corruptions import CORRUPTIONS, VideoCorruption
from ..hooks.adversarial_hook import inner_model
from .attacks import PGD, build_attack
from .cam import attention_entropy
from .deepfool import deepfool, robustness
from .deployed import Deployed, hard_labels, judge, load_weights, weights_digest
from .pages import markdown
from .results import Cell, Robustness
from .sanity import flags
from .selection import evenly_spread
from .videos import Items, corrupted, read

ATTACKS = dict(
    noise=dict(type='UniformNoise', restarts=10),
    fgsm=dict(type='FGSM'),
    pgd=dict(type='PGD', steps=20, restarts=5),
    apgd_ce=dict(type='APGD', steps=100, loss='ce'),
    apgd_dlr=dict(type='APGD', steps=100, loss='dlr'),
    square=dict(type='Square', queries=5000),
    cam=dict(type='TAF', steps=10, step_size=None),
)
"""What attacks by default, at the loop's ``eps``."""
CURVE = (1 / 255, 2 / 255, 8 / 255, 16 / 255)
DEEPFOOL = dict(num_candidates=10, max_iter=50)
"""Of DeepFool by default; ``deepfool=None`` leaves it out."""
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Condition:
    """What is done to the videos of one cell.

    Args:
        cell (Cell): The planned cell: its kind, name, level, options and videos.
        prepare (Callable): Gives the function that makes the numbers of each video from a batch;
            raises where the condition cannot be.
    """

    cell: Cell
    prepare: Callable[[], Callable[[_Batch], Rows]]


@dataclass
class _Batch:
    """A batch as the model is fed it, and what it says to it, view by view (B, V, C)."""

    inputs: Tensor
    samples: Sequence[Any]
    labels: Tensor
    videos: Tensor
    views: Tensor


@LOOPS.register_module()
class RobustnessTestLoop(TestLoop):
    """Test a recognizer on clean, corrupted and attacked videos.

    The model is built once. Each condition is a *cell*: clean; every corruption at every severity;
    every attack; an ε curve; DeepFool; and probes for the sanity flags. Multi-view tests are
    attacked as deployed, through the average over the views. A video that is wrong before an
    attack counts as wrong under it. After every cell ``robustness_<weights>.json`` in the work dir
    is written anew, where ``<weights>`` is a digest of the weights: an interrupted evaluation goes
    on where it was, another checkpoint gets a file of its own. A Markdown page stands beside it.
    What fails (a name that does not exist, an attack that the model does not admit, a video that
    cannot be read) is logged, noted under ``missing``, and the rest goes on.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The test data; one hard label a video.
        evaluator (Evaluator | dict | list): That of the config. Not asked: all numbers are made of
            ranks video by video, which can be compared between checkpoints.
        corruptions (Sequence[str]): Names out of ``adv_plugins.datasets.corruptions.CORRUPTIONS``.
            Defaults to all of them.
        severities (Sequence[int]): Defaults to (1, 2, 3, 4, 5).
        attacks (Mapping[str, dict], optional): Attacks by name: a type of
            ``adv_plugins.evaluation.attacks.ATTACKS`` with its options, or a recipe's attack, such
            as ``dict(type='TAF', steps=10)``, the CAM attack. Defaults to None:
            ``robustness_loop.ATTACKS``.
        eps (float): Radius for attacks that do not say their own, a fraction of the value range.
            Defaults to 4/255.
        curve (str, optional): Name of the attack that is repeated at ``curve_eps``. Defaults to
            ``'pgd'``; None: no curve.
        curve_eps (Sequence[float]): Defaults to (1, 2, 8, 16)/255.
        deepfool (Mapping, optional): Options of :func:`~adv_plugins.evaluation.deepfool`. Defaults
            to ``robustness_loop.DEEPFOOL``; None: it is not run.
        attention (bool): Whether to report the entropy of the attention over frames, and how far
            it moves under attack (half the ℓ1 distance of the shares: 0 to 1). Defaults to True.
        num_videos (int, optional): How many videos, evenly spread over the test set. Defaults to
            None: all.
        attack_videos (int, optional): How many of them are attacked: the attacks above take some
            ten thousand forwards for each. Defaults to 1000; None: all.
        seed (int): Of corruptions, random starts and Square. Defaults to 0.
        name (str, optional): What the model is called in tables. Defaults to None: the stem of the
            checkpoint's folder and file.
        fp16 (bool): Whether to evaluate under autocast. Defaults to False.

    Raises:
        ValueError: The checkpoint does not fit the config.
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
        for option, value in (('num_videos', num_videos), ('attack_videos', attack_videos)):
            if value is not None and value < 1:
                raise ValueError(f'{option}={value} must be at least 1, or None for all')
        self.corruptions, self.severities = tuple(corruptions), tuple(severities)
        self.attacks = dict(ATTACKS if attacks is None else attacks)
        self.eps, self.curve, self.curve_eps = eps, curve, tuple(curve_eps)
        self.deepfool, self.attention = deepfool, attention
        self.num_videos, self.attack_videos = num_videos, attack_videos
        self.seed, self.name = seed, name
        self.deployed = Deployed(inner_model(runner.model))
        self.results: Robustness | None = None

    def run(self) -> dict[str, float]:
        """Evaluate every cell that is not there yet.

        Returns:
            dict[str, float]: The headline numbers in percent.
        """
        if self.runner._load_from is not None:
            # Runner only logs what does not fit.
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
            checkpoint (str): Where they come from.
        """
        # TPNHead's second classifier may be that of other weights.
        self.deployed = Deployed(inner_model(self.runner.model).eval())
        self.results, file = self._start(checkpoint)
        for condition in self._conditions():
            key = condition.cell.key
            if self.results.finished(condition.cell):
                print_log(f'{key}: kept from {file.name}', logger='current')
                continue
            self._fill(condition)
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
        """The results so far of these weights, or empty ones."""
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
            found = Robustness.load(file)
            if (found.dataset, found.classes) == (empty.dataset, empty.classes):
                empty.labels, empty.cells = found.labels, found.cells
                # What could not be read is not tried again; it would leave no cell finished.
                empty.missing = {k: v for k, v in found.missing.items() if k.startswith('video ')}
        barrier()
        return empty, file

    def _save(self, file: Path) -> None:
        assert self.results is not None
        if is_main_process():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.results.save(file)

    def _fill(self, condition: Condition) -> None:
        """Evaluate one cell; what goes wrong is noted, and leaves the others alone."""
        assert self.results is not None
        cell, started = condition.cell, time.perf_counter()
        rows: dict[int, dict[str, float]] = {}
        unreadable: dict[int, str] = {}
        problem = ''
        try:
            for row in self._rows(condition, unreadable):
                rows |= row
        except Exception as error:
            problem = f'{type(error).__name__}: {error}'
            logging.getLogger('mmengine').debug('', exc_info=True)
        # All ranks know all of it, so that they plan the next cell alike.
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
        _write(cell, merged, time.perf_counter() - started)
        self.results.labels |= {index: int(row['label']) for index, row in merged.items()}
        self.results.add(cell)
        told = f'top-1 {self.results.top(cell.key):.1f}, ' if cell.ranks else ''
        print_log(
            f'{cell.key}: {told}{len(cell.videos)} videos, {cell.seconds:.1f} s', logger='current'
        )

    def _rows(
        self, condition: Condition, unreadable: dict[int, str]
    ) -> Iterator[dict[int, dict[str, float]]]:
        """The numbers of every video by its index, batch after batch; notes what has none."""
        cell, rows = condition.cell, condition.prepare()
        videos, done, told = cell.videos, 0, time.perf_counter()
        for items in read(self.dataloader, self._dataset(cell), videos):
            unreadable |= items.unreadable
            for index, message in items.unreadable.items():
                print_log(f'video {index} is left out: {message}', 'current', logging.ERROR)
            if items.videos:
                yield self._judge(rows, items)
            done += len(items.videos)
            if time.perf_counter() - told > 60:
                told = time.perf_counter()
                print_log(f'{cell.key}: {done} of {len(videos)} videos', 'current')

    @torch.no_grad()
    def _judge(self, make: Callable[[_Batch], Rows], items: Items) -> dict[int, dict[str, float]]:
        """The numbers of the videos of a batch, by their index."""
        with autocast(enabled=self.fp16):
            data = self.deployed.model.data_preprocessor(items.batch, False)
            inputs, samples = data['inputs'], data['data_samples']
            if not isinstance(inputs, Tensor):
                raise ValueError(
                    'robustness is evaluated on RGB frames in one tensor; for features write '
                    "test_cfg=dict(type='AdversarialTestLoop', ...)"
                )
            labels = hard_labels(samples).to(inputs.device)
            views = self.deployed.views(inputs, samples)
            videos = torch.tensor(items.videos)
            rows = make(_Batch(inputs, samples, labels, videos, views))
        rows['label'] = labels
        columns = {name: values.tolist() for name, values in rows.items()}
        return {
            index: {name: values[place] for name, values in columns.items()}
            for place, index in enumerate(items.videos)
        }

    def _conditions(self) -> Iterator[Condition]:
        """Every cell that is wanted, the cheap ones first."""
        few = self.attack_videos
        yield self._condition(Cell('clean'), lambda: self._clean)
        for name in self.corruptions:
            for severity in self.severities:
                cell = Cell('corruption', name, severity, dict(seed=self.seed))
                yield self._condition(cell, lambda: self._predict)
        for name, given in self.attacks.items():
            entry = dict(eps=self.eps) | (dict(type=given) if isinstance(given, str) else given)
            yield self._attacked(Cell('attack', name, entry['eps'], entry))
        for eps in self.curve_eps if self.curve is not None else ():
            entry = dict(self.attacks.get(self.curve, {}), eps=eps)
            yield self._attacked(Cell('curve', str(self.curve), eps, entry))
        if self.deepfool is not None:
            options = dict(self.deepfool)
            yield self._condition(Cell('deepfool', options=options), lambda: self._deepfool, few)
        yield self._condition(Cell('sanity'), lambda: self._probe, few)

    def _condition(
        self, cell: Cell, prepare: Callable[[], Callable[[_Batch], Rows]], count: int | None = None
    ) -> Condition:
        assert self.results is not None
        # Datasets are often sorted by class: the first videos would be of a few classes alone.
        total = len(self.dataloader.dataset)
        videos = evenly_spread(total, self.num_videos or total)
        videos = [videos[place] for place in evenly_spread(len(videos), count or len(videos))]
        cell.videos = [v for v in videos if f'video {v}' not in self.results.missing]
        if self.fp16:
            cell.options['fp16'] = True
        return Condition(cell, prepare)

    def _attacked(self, cell: Cell) -> Condition:
        entry = dict(cell.options)
        cell.options['seed'] = self.seed
        with contextlib.suppress(ValueError):
            # Attacks of different norms have no worst case together. A mistake is told later.
            cell.options['norm'] = self._build(entry).norm
        looks = self.attention and cell.kind == 'attack'
        return self._condition(
            cell, lambda: partial(self._attack, self._build(entry), looks), self.attack_videos
        )

    def _dataset(self, cell: Cell) -> Any:
        """The videos of a cell, with its corruption in their pipeline."""
        dataset = self.dataloader.dataset
        if cell.kind != 'corruption':
            return dataset
        assert cell.level is not None
        corruption = VideoCorruption(cell.name, int(cell.level), self.seed)
        return corrupted(dataset, corruption)

    def _build(self, entry: Mapping[str, Any]) -> Any:
        kind = str(entry.get('type', '')).lower()
        return build_recipe(entry) if kind in {n.lower() for n in RECIPES} else build_attack(entry)

    def _clean(self, batch: _Batch) -> Rows:
        rows = self._predict(batch)
        return rows | _entropy(self._shares(batch, batch.inputs)) if self.attention else rows

    def _predict(self, batch: _Batch) -> Rows:
        return judge(self.deployed.average(batch.views), batch.labels)

    def _attack(self, attack: Any, looks: bool, batch: _Batch) -> Rows:
        right = self._predict(batch)['rank'] == 0
        moved = self._perturb(attack, batch, right)
        rows = judge(self.deployed.scores(moved, batch.samples), batch.labels)
        if not looks:
            return rows
        before, after = (self._shares(batch, inputs) for inputs in (batch.inputs, moved))
        seen = _entropy(after) | dict(cam_shift=(after - before).abs().sum(dim=2).mean(dim=1) / 2)
        # A video that was wrong before has not been attacked.
        return rows | {key: values.masked_fill(~right, math.nan) for key, values in seen.items()}

    def _perturb(self, attack: Any, batch: _Batch, right: Tensor) -> Tensor:
        """The inputs with those that were right before attacked."""
        seeds = batch.videos + 1_000_003 * self.seed
        if not isinstance(attack, Recipe):

            def logits(x: Tensor, index: Tensor) -> Tensor:
                return self.deployed.scores(x, [batch.samples[i] for i in index.tolist()])

            space = self.deployed.space(batch.inputs)
            return attack(logits, batch.inputs, batch.labels, space, seeds)
        moved, index = batch.inputs.clone(), right.nonzero().squeeze(1)
        if len(index):
            samples = [batch.samples[i] for i in index.tolist()]
            inputs, views, seed = batch.inputs[index], batch.views.shape[1], int(seeds[0])
            moved[index] = self.deployed.perturb(attack, inputs, samples, views, seed)
        return moved

    def _shares(self, batch: _Batch, inputs: Tensor) -> Tensor:
        return self.deployed.frame_attention(inputs, batch.samples, batch.views.shape[1])

    def _deepfool(self, batch: _Batch) -> Rows:
        x = batch.inputs.float()
        result = deepfool(
            lambda values: self.deployed.scores(values, batch.samples), x, **self.deepfool
        )
        return dict(rho=robustness(result, x), success=result.success, iterations=result.iterations)

    def _probe(self, batch: _Batch) -> Rows:
        """What the sanity flags read; the ranks are those with all pixels free."""
        again = self.deployed.views(batch.inputs, batch.samples)
        with torch.enable_grad():
            x = batch.inputs.clone().requires_grad_()
            logits = self.deployed.scores(x, batch.samples)
            loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction='sum')
            (slope,) = torch.autograd.grad(loss, x)
        right = self._predict(batch)['rank'] == 0
        free = self._perturb(PGD(eps=1.0, steps=10), batch, right)
        sums = (batch.views.sum(dim=2) - 1).abs().amax(dim=1)
        return judge(self.deployed.scores(free, batch.samples), batch.labels) | dict(
            score_change=(again - batch.views).abs().flatten(1).amax(dim=1),
            simplex=(sums < 1e-4) & (batch.views >= 0).flatten(1).all(dim=1),
            gradient=slope.flatten(1).abs().amax(dim=1),
        )


def _entropy(shares: Tensor) -> Rows:
    """How even the attention over frames is (1 is even), mean over views."""
    return dict(entropy=attention_entropy(shares.flatten(0, 1)).view(shares.shape[:2]).mean(dim=1))


def headline(results: Robustness) -> dict[str, float]:
    """The numbers that fit a log line, in percent: what AccMetric would say, mPC, rPC, attacks."""
    numbers = {}
    if 'clean' in results.cells:
        numbers = {f'acc/top{k}': results.top('clean', k) for k in (1, 5)}
        if any(cell.kind == 'corruption' for cell in results.cells.values()):
            numbers |= {'mPC': float(results.mpc()), 'rPC': float(results.rpc())}
    attacks = [key for key, cell in results.cells.items() if cell.kind == 'attack']
    return numbers | {f'{key}/top1': results.top(key) for key in attacks}


def class_names(dataset: Any, num_classes: int) -> list[str]:
    """The names of the classes, or their numbers where the dataset has none."""
    names = getattr(dataset, 'metainfo', {}).get('classes') or range(num_classes)
    return [str(name) for name in names]


def _write(cell: Cell, rows: Mapping[int, Mapping[str, float]], seconds: float) -> None:
    """Fill a cell with the numbers of its videos, in their order."""
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    del columns['label']
    cell.videos, cell.seconds = list(rows), seconds
    cell.predictions, cell.ranks = columns.pop('prediction', []), columns.pop('rank', [])
    cell.values = columns
