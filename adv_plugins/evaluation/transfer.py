"""Whether the adversarial examples of one model fool the others."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner.amp import autocast

from ..adapters.wrappers import inner_model
from ..core.option_values import as_count
from ..progress import Progress, Tell
from .deployed import Deployed
from .measurements import Measurements, VideoBatch
from .results import Robustness
from .results_store import ResultsStore
from .robustness_loop import RobustnessTestLoop, Rows, rows_of
from .videos import Items, read
from .weights import load_weights, weights_digest


class Transfer:
    """Shows each model the adversarial examples of every model, its own ones too.

    Every video is attacked to the end, whether the model that the examples are of is right or not:
    what just fools one model says little about another. The results of each model get a cell of the
    kind ``'transfer'`` for each of these sources, named after its weights. So do their files, and
    what these have already is not run again. Examples are shown to all models and then dropped;
    so all models are in memory together. It runs in one process.

    Args:
        loop (RobustnessTestLoop): Has the videos and the attacks, and evaluated the models.
        results (Sequence[Robustness]): What it found for each of the checkpoints.
        attack (str): The name of one of its attacks.
        num_videos (int): How many of the attacked videos are taken.

    Raises:
        ValueError: ``num_videos`` is no positive integer.
    """

    def __init__(
        self, loop: RobustnessTestLoop, results: Sequence[Robustness], attack: str, num_videos: int
    ) -> None:
        self.loop, self.planned = loop, loop.plan.attacks[attack]
        # Two checkpoints may have the same weights.
        self.results = {each.weights: each for each in results}
        total, num_videos = len(loop.dataloader.dataset), as_count('num_videos', num_videos)
        self.cells = {
            weights: loop.plan.transfer_cell(weights, attack, total, num_videos)
            for weights in self.results
        }
        folder = loop.runner.work_dir
        self.stores = {
            weights: ResultsStore(folder, each, each.labels, total)
            for weights, each in self.results.items()
        }

    def run(self) -> None:
        """Fill the cells, and write the pages of the models anew."""
        rest = {}
        for source, cell in self.cells.items():
            lacking = [store.rest(cell) for store in self.stores.values()]
            videos = {video for videos in lacking for video in videos}
            rest[source] = sorted(v for v in videos if not self._is_unreadable(v))
            for store in self.stores.values():
                store.resume(cell)
        cost = self.planned.cost + len(self.results)
        total = cost * sum(map(len, rest.values()))
        with Progress(total, partial(print_log, logger='current')) as progress:
            for source, videos in rest.items():
                if videos or any(self._lacks(source, each) for each in self.results.values()):
                    name = f'the examples of {self.results[source].model}'
                    tell = progress.part(cost * len(videos), name)
                    self._show(source, videos, tell)
                    tell(1, '')
        for store in self.stores.values():
            store.write_page()

    def _is_unreadable(self, video: int) -> bool:
        return any(f'video {video}' in each.missing for each in self.results.values())

    def _lacks(self, source: str, results: Robustness) -> bool:
        """Whether a model has no number at all for the examples of a source."""
        return self.cells[source].key not in results.cells

    def _show(self, source: str, videos: Sequence[int], tell: Tell) -> None:
        """Fill the cells of one source; where that fails, the reason is noted."""
        rows: dict[str, Rows] = {weights: {} for weights in self.results}
        problem, dataloader = '', self.loop.dataloader
        try:
            loader = read(dataloader, dataloader.dataset, videos) if videos else []
            for number, items in enumerate(loader, start=1):
                for results in self.results.values():
                    results.missing |= {f'video {v}': why for v, why in items.unreadable.items()}
                if items.videos:
                    self._show_batch(source, items, rows)
                tell(number / len(loader), f'batch {number} of {len(loader)}')
        except Exception as error:
            problem = f'{type(error).__name__}: {error}'
            rows = {}
            logging.getLogger('mmengine').debug('', exc_info=True)
        for weights, results in self.results.items():
            cell = copy.deepcopy(self.cells[source])
            if rows.get(weights):
                results.labels |= {v: int(row['label']) for v, row in rows[weights].items()}
                cell.fill(rows[weights], 0.0)
                results.add(cell)
            elif problem or self._lacks(source, results):
                results.missing[cell.key] = problem or 'none of the videos could be read'
                text = f'{results.model}, {cell.key}: {results.missing[cell.key]}'
                print_log(text, 'current', logging.ERROR)
            self.stores[weights].save()

    @torch.no_grad()
    def _show_batch(self, source: str, items: Items, rows: dict[str, Rows]) -> None:
        """Attack some videos, and add the predictions of all models to their rows."""
        with autocast(enabled=self.loop.fp16):
            batch = VideoBatch.of(self.models[source], items)
            examples = self._measurements(source).examples(self.planned.attack, batch)
            for target in self.models:
                columns = self._measurements(target).rank(batch, examples)
                rows[target] |= rows_of(columns, batch, items.videos)

    def _measurements(self, weights: str) -> Measurements:
        return Measurements(self.models[weights], self.loop.plan.seed)

    @cached_property
    def models(self) -> dict[str, Deployed]:
        """All models, by the digest of their weights."""
        return {weights: self._loaded(each) for weights, each in self.results.items()}

    def _loaded(self, results: Robustness) -> Deployed:
        model: Any = inner_model(self.loop.runner.model)
        load_weights(model, results.checkpoint)
        if weights_digest(model) != results.weights:
            raise ValueError(f'{results.checkpoint} has other weights by now; evaluate it again')
        return Deployed(copy.deepcopy(model).eval())
