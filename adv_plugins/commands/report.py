r"""A robustness report on one HTML page, for one or more checkpoints of a config.

    adv-plugins report mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py \
        work_dirs/quickstart/baseline/epoch_27.pth work_dirs/quickstart/taf/epoch_27.pth \
        --names baseline TAF --out work_dirs/report

Evaluates every checkpoint on clean, corrupted and attacked test videos, compares them with the
first one, draws their CAM, and writes ``report.html`` to ``--out``: a single file that needs no
server and no network. The numbers are saved next to it as JSON and Markdown; existing numbers are
not computed again. ``--protocol`` selects how much is evaluated.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import nn

from .. import __version__
from ..adapters.wrappers import inner_model
from ..evaluation import Comparison, Robustness, compare, markdown
from ..evaluation.page_text import as_text
from ..evaluation.selection import evenly_spread, shared_videos
from ..evaluation.tables import markdown_table, percent
from ..evaluation.training_log import read_training_log
from ..evaluation.weights import load_weights
from ..visualization import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
)
from ..visualization.charts import (
    plot_class_changes,
    plot_corruptions,
    plot_eps_curves,
    plot_training_curves,
)
from ..visualization.clip_pictures import contact_sheet, side_by_side
from ..visualization.clips import look, recipe_attack
from ..visualization.mp4 import write_mp4
from ..visualization.report import Section, write_report
from ..visualization.token_attention import video_attention
from . import protocols
from .errors import CommandError

ATTACKS = {
    'an attack on the cross-entropy': dict(type='CEAugmentation', steps=10, step_size=None),
    'an attack on the temporal CAM': dict(type='TAF', steps=10, step_size=None),
}
"""The two attacks of TAF, figure 3."""


class Report:
    """The contents of a report on some checkpoints of one config.

    Args:
        args (argparse.Namespace): The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.runner = protocols.build_runner(args)
        self.model: nn.Module = inner_model(self.runner.model)
        self.dataset = self.runner.test_loop.dataloader.dataset
        self.eps = self.runner.test_loop.plan.eps
        self.classes = getattr(self.dataset, 'metainfo', {}).get('classes')
        self.results: list[Robustness] = []
        self.pictures: dict[int, list[tuple[Any, str]]] = {}
        self.attention: dict[int, dict[str, tuple[Any, Any]]] = {}
        self.missing: list[tuple[str, str]] = []

    def evaluate(self) -> None:
        """Evaluate every checkpoint that fits the config, and draw its pictures."""
        for name, checkpoint in zip(self.args.names, self.args.checkpoints, strict=True):
            loop = self.runner.test_loop
            loop.name = name
            try:
                load_weights(self.model, checkpoint)
                loop.evaluate(checkpoint)
            except Exception as error:  # An unreadable file may raise anything.
                self.leave_out(name, error)
                continue
            self.results.append(loop.results)
            for index in evenly_spread(len(self.dataset), self.args.num_videos):
                try:
                    self.draw(index, name)
                except Exception as error:  # The numbers must not be lost because of a picture.
                    self.leave_out(f'pictures of video {index} by {name}', error)

    def leave_out(self, what: str, error: Exception) -> None:
        """Record what the report will lack."""
        self.missing.append((what, str(error)))
        print_log(f'{what}: {error}', 'current', logging.ERROR)

    def draw(self, index: int, name: str) -> None:
        """Draw a model's CAM on a video, clean and attacked: a page and an .mp4 per attack."""
        model = self.model.eval()
        data = model.data_preprocessor(pseudo_collate([self.dataset[index]]), False)
        inputs, samples = data['inputs'], data['data_samples']
        for title, options in ATTACKS.items():
            attack = recipe_attack(model, dict(options, eps=self.eps))
            (clip,) = look(model, inputs, samples, attack)
            file = self.args.out / 'videos' / f'{len(self.results)}_{index}_{options["type"]}.mp4'
            file.parent.mkdir(parents=True, exist_ok=True)
            write_mp4(file, side_by_side(clip, self.classes), fps=4)
            sheet = contact_sheet(clip, self.classes)
            pictures = [(sheet, f'{name} under {title}'), (file, 'the same as a video')]
            self.pictures.setdefault(index, []).extend(pictures)
        try:
            clean = video_attention(model, inputs, samples)
        except ValueError:
            # Only some Transformers have attention between frames.
            return
        adversarial = video_attention(model, attack(inputs, samples), samples)
        self.attention.setdefault(index, {})[name] = (clean[0], adversarial[0])

    def sections(self) -> Iterator[Section]:
        """The sections of the page, the most condensed first."""
        comparison = None
        if len(self.results) > 1:
            try:
                comparison = compare(self.results)
            except ValueError as error:
                self.leave_out('comparison', error)
        yield Section('In short', self.summary())
        if comparison is not None:
            yield from self.compared(comparison)
        if any(results.keys('corruption') for results in self.results):
            chart = plot_corruptions(self.results)
            yield Section('Corruptions', figures=[(chart, 'Top-1 accuracy over severity.')])
        curves = {name for results in self.results for name in results.curve_names()}
        if curves:
            charts = [(plot_eps_curves(self.results, n), f'Under {n}.') for n in sorted(curves)]
            yield Section('Accuracy over eps', figures=charts)
        yield from self.looks()
        yield from self.training()
        for results in self.results:
            yield Section(f'All numbers: {results.model}', body(markdown(results)), folded=True)
        yield Section('Missing', self.absent())
        yield Section('How this was made', self.provenance())

    def summary(self) -> str:
        """A table with one row per model, and the flags that are raised."""
        rows, notes = [], []
        for results in self.results:
            clean = results.keys('clean')
            worst = [
                results.worst_case([*clean, *keys])
                for keys in results.attack_groups()
                if shared_videos(results.cells[key].videos for key in keys)
            ]
            numbers = [
                results.top('clean') if clean else float('nan'),
                results.mpc(),
                results.rpc(),
                min(worst, default=float('nan')),
            ]
            raised = [flag for flag in results.flags if flag.raised]
            unchecked = [flag for flag in results.flags if flag.raised is None]
            flags = f'{len(raised)} raised' + (f', {len(unchecked)} unchecked' if unchecked else '')
            rows.append([results.model, *map(percent, numbers), flags])
            model = as_text(results.model)
            notes += [f'- **{model}, {flag.name}**: {as_text(flag.message)}' for flag in raised]
        header = ['model', 'clean', 'mPC', 'rPC', 'worst case', 'sanity flags']
        text = (
            'Top-1 accuracy in percent: on clean videos; the mean over all corruptions (mPC), also '
            'in percent of the clean accuracy (rPC); and the worst case, in which a video counts '
            'only if it is correct under every attack of one eps.'
        )
        table = markdown_table(header, rows) if rows else 'No checkpoint could be evaluated.'
        return '\n\n'.join([text, table, '\n'.join(notes)])

    def compared(self, comparison: Comparison) -> Iterator[Section]:
        """The differences to the first model, overall and by class (TAF, figure 4)."""
        long_term = [self.classes[i] for i in self.long_term()] if self.classes else []
        yield Section('Comparison', body(markdown(comparison, highlight=long_term)))
        charts = []
        for index in comparison.others:
            if 'clean' in comparison.shared:
                changes = comparison.class_changes(model=index, highlight=long_term)
                names = (comparison.models[index], comparison.models[comparison.baseline])
                caption = '{} against {}, clean videos.'.format(*names)
                charts.append((plot_class_changes(changes, 'long-term motions'), caption))
        if charts:
            yield Section('Class by class', figures=charts)

    def long_term(self) -> Sequence[int]:
        """Classes that the dataset marks as long-term motions."""
        return getattr(self.dataset, 'metainfo', {}).get('long_term', ())

    def looks(self) -> Iterator[Section]:
        """Each video with all models and attacks, followed by the attention between its frames."""
        for index, pictures in self.pictures.items():
            yield Section(f'Video {index}', figures=pictures)
        for index, maps in self.attention.items():
            profiles = {
                name: tuple(attention_profile(torch.stack(pair))) for name, pair in maps.items()
            }
            which = f'under {list(ATTACKS)[-1]}, mean over layers'
            charts = [
                (plot_attention_maps(maps), f'Attention between frames, clean and {which}.'),
                (plot_attention_profiles(profiles), 'The share that each frame receives.'),
            ]
            yield Section(f'Attention in video {index}', figures=charts)

    def training(self) -> Iterator[Section]:
        """Training curves (TAF, figure 5), if the logs are still next to the checkpoints."""
        runs = {}
        for results in self.results:
            folder = Path(results.checkpoint).parent
            try:
                read_training_log(folder)
            except (FileNotFoundError, ValueError) as error:
                self.leave_out(f'training curves of {results.model}', error)
            else:
                runs[results.model] = folder
        if runs:
            yield Section('Training', figures=[(plot_training_curves(runs), 'As it was logged.')])

    def absent(self) -> str:
        """What was requested but is missing."""
        missing = list(self.missing)
        for results in self.results:
            missing += [(f'{results.model}, {key}', text) for key, text in results.missing.items()]
        lines = [f'- {as_text(what)}: {as_text(str(reason))}' for what, reason in missing]
        return '\n'.join(lines) or 'Nothing that was asked for is missing.'

    def provenance(self) -> str:
        """Command, protocol and machine."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
        loop = self.runner.test_loop
        lines = [
            f'- command: `{" ".join(["python", *sys.argv])}`',
            f'- protocol: `{self.args.protocol}`, seed {loop.plan.seed}',
            f'- machine: {device}, {torch.get_num_threads()} threads, {platform.machine()}',
            f'- adv_plugins {__version__}, torch {torch.__version__}, Python '
            f'{platform.python_version()}',
            f'- written {time.strftime("%Y-%m-%d %H:%M")}',
        ]
        return '\n'.join(lines)


def body(page: str) -> str:
    """A page without its title, because the section has one, and with headings one level lower."""
    lines = page.split('\n')[1:]
    return '\n'.join(f'#{line}' if line.startswith('#') else line for line in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    protocols.add_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='folder for the report')
    parser.add_argument('--names', nargs='+', help='one per checkpoint; default: folder/file')
    parser.add_argument('--num-videos', type=int, default=2, help='how many videos are shown')


def run(args: argparse.Namespace) -> None:
    """Evaluate and write the report."""
    if args.names is None:
        args.names = ['/'.join(Path(c).with_suffix('').parts[-2:]) for c in args.checkpoints]
    if len(args.names) != len(args.checkpoints) or len(set(args.names)) != len(args.names):
        raise CommandError(f'--names {args.names} must be one distinct name for each checkpoint')
    report = Report(args)
    report.evaluate()
    # Build all other sections first, because "Missing" lists what failed in them.
    *sections, missing, provenance = report.sections()
    missing.markdown = report.absent()
    title = f'Robustness of {", ".join(args.names)}'
    write_report(args.out / 'report.html', title, [*sections, missing, provenance])
    print_log(f'the report: {args.out / "report.html"}', 'current')
