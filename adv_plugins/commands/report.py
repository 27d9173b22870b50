r"""A robustness report on one HTML page, for one or more checkpoints of a config.

    adv-plugins report mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py \
        work_dirs/tsm_r18_1x1x8_ordered-digits-rgb/epoch_27.pth \
        work_dirs/taf-tsm_r18_1x1x8_ordered-digits-rgb/epoch_27.pth \
        --names baseline TAF --out work_dirs/report

Evaluates every checkpoint on clean, corrupted and attacked test videos, compares them with the
first one, shows each the adversarial examples of the others, draws their CAM, and writes
``report.html`` to ``--out``: a single file that needs no server and no network. Next to it are its
tables as CSV and LaTeX (``tables/``) and all numbers as JSON and Markdown; what is there already is
not computed again. ``--protocol`` selects how much is evaluated.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import nn

from ..adapters.wrappers import inner_model
from ..evaluation import Comparison, Robustness, compare, markdown
from ..evaluation.page_text import as_text
from ..evaluation.result_tables import result_tables
from ..evaluation.selection import evenly_spread
from ..evaluation.table_files import write_tables
from ..evaluation.tables import eps_text
from ..evaluation.training_log import read_training_log
from ..evaluation.transfer import Transfer
from ..progress import Progress
from ..version import __version__
from ..visualization.attention import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
)
from ..visualization.charts import plot_training_curves
from ..visualization.clip_pictures import contact_sheet, side_by_side
from ..visualization.clips import Look, look, recipe_attack
from ..visualization.mp4 import write_mp4
from ..visualization.report import Section, write_report
from ..visualization.robustness_report import number_sections, page_body
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
        plan = self.runner.test_loop.plan
        if args.transfer not in (None, 'none', *plan.attacks):
            raise CommandError(f'--transfer: {_no_attack(args.transfer, plan.attacks)}')
        if args.transfer not in (None, 'none') and len(args.checkpoints) < 2:
            raise CommandError(
                f'--transfer {args.transfer} shows models the adversarial examples of each other, '
                'and there is one checkpoint; give another one, or leave --transfer out'
            )
        if args.transfer_videos < 1:
            raise CommandError(f'--transfer-videos {args.transfer_videos} must be at least 1')
        self.eps = plan.eps
        self.classes = self.runner.test_loop.classes
        self.results: list[Robustness] = []
        self.pictures: dict[int, list[tuple[Any, str]]] = {}
        self.attention: dict[int, dict[str, tuple[Any, Any]]] = {}
        self.missing: list[tuple[str, str]] = []

    def evaluate(self) -> None:
        """Evaluate every checkpoint that fits the config, and draw its pictures."""
        total = len(self.args.checkpoints)
        # Only its clock is used: the evaluation of each checkpoint shows a bar.
        progress = Progress(total, print)
        rows = zip(self.args.names, self.args.checkpoints, strict=True)
        for done, (name, checkpoint) in enumerate(rows):
            progress.reach(done, '')
            left = progress.left()
            print_log(f'checkpoint {done + 1} of {total}: {name}{left}', 'current')
            self.evaluate_one(name, checkpoint)
        if len(self.results) > 1:
            self.transfer()
        elif self.args.transfer not in (None, 'none'):
            self.leave_out('transfer', ValueError('it takes two models that can be evaluated'))

    def evaluate_one(self, name: str, checkpoint: str) -> None:
        """Evaluate a checkpoint and draw its pictures, or note why that is not possible."""
        loop = self.runner.test_loop
        loop.name = name
        try:
            protocols.load_checkpoint(self.model, checkpoint)
            loop.evaluate(checkpoint)
        except Exception as error:  # An unreadable file may raise anything.
            self.leave_out(name, error)
            return
        self.results.append(loop.results)
        indices = evenly_spread(len(self.dataset), self.args.num_videos)
        for number, index in enumerate(indices, start=1):
            print_log(f'{name}: pictures of video {number} of {len(indices)}', 'current')
            try:
                self.draw(index, name)
            except Exception as error:  # The numbers must not be lost because of a picture.
                self.leave_out(f'pictures of video {index} by {name}', error)

    def transfer(self) -> None:
        """Show the models each other's adversarial examples."""
        loop, attack = self.runner.test_loop, self.args.transfer or 'pgd'
        if attack == 'none':
            return
        try:
            if attack not in loop.plan.attacks:
                raise ValueError(_no_attack(attack, loop.plan.attacks))
            Transfer(loop, self.results, attack, self.args.transfer_videos).run()
        except Exception as error:  # The numbers so far must not be lost.
            self.leave_out('transfer', error)

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
            (clip,) = look(model, inputs, samples, attack, cam_of='both')
            file = self.args.out / 'videos' / f'{len(self.results)}_{index}_{options["type"]}.mp4'
            file.parent.mkdir(parents=True, exist_ok=True)
            write_mp4(file, side_by_side(clip, self.classes), fps=4)
            caption = f'{name} under {title} at ε = {eps_text(self.eps)}. {self.told(clip)}'
            sheet = contact_sheet(clip, self.classes)
            pictures = [(sheet, caption), (file, f'The same as a video: {name} under {title}.')]
            self.pictures.setdefault(index, []).extend(pictures)
        try:
            clean = video_attention(model, inputs, samples)
        except ValueError:
            # Only some Transformers have attention between frames.
            return
        adversarial = video_attention(model, attack(inputs, samples), samples)
        self.attention.setdefault(index, {})[name] = (clean[0], adversarial[0])

    def told(self, clip: Look) -> str:
        """The label, the predictions, and which class each CAM is of."""
        assert clip.adversarial is not None
        predicted = (clip.predicted, clip.adversarial.predicted)
        label, clean, attacked = (f'"{self.classes[index]}"' for index in (clip.label, *predicted))
        wrong = dict.fromkeys(name for name in (clean, attacked) if name != label)
        if not wrong:
            return f'The label is {label}, and so is the prediction, clean and attacked.'
        return (
            f'The label is {label}, the prediction {clean} clean and {attacked} attacked. The CAMs '
            f'are for {label} and, where it is predicted, for {" and ".join(wrong)}.'
        )

    def comparison(self) -> Comparison | None:
        """The comparison with the first model, if there is another one and they can be compared."""
        if len(self.results) < 2:
            return None
        try:
            return compare(self.results)
        except ValueError as error:
            self.leave_out('comparison', error)
            return None

    def sections(self) -> Iterator[Section]:
        """The sections of the page, the most condensed first."""
        comparison = self.comparison()
        marked = getattr(self.dataset, 'metainfo', {}).get('long_term', ())
        long_term = [self.classes[index] for index in marked]
        files = write_tables(self.args.out / 'tables', result_tables(self.results, comparison))
        names = [file.relative_to(self.args.out).as_posix() for file in files]
        known = [results.model for results in self.results]
        failed = [name for name in self.args.names if name not in known]
        yield from number_sections(self.results, comparison, failed, long_term, names)
        yield from self.looks()
        yield from self.training()
        for results in self.results:
            text = page_body(markdown(results))
            yield Section(f'All numbers: {results.model}', text, folded=True)
        yield Section('Missing', self.absent())
        yield Section('How this was made', self.provenance())

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
            f'- command: {as_text(shlex.join(["adv-plugins", *sys.argv[1:]]))}',
            f'- protocol: {as_text(self.args.protocol)}, seed {loop.plan.seed}',
            f'- machine: {device}, {torch.get_num_threads()} threads, {platform.machine()}',
            f'- adv_plugins {__version__}, torch {torch.__version__}, Python '
            f'{platform.python_version()}',
            f'- written {time.strftime("%Y-%m-%d %H:%M")}',
        ]
        return '\n'.join(lines)


def _no_attack(name: str, attacks: Iterable[str]) -> str:
    return f'the protocol has no attack {name!r}; write one of {", ".join([*attacks, "none"])}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    protocols.add_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='folder for the report')
    parser.add_argument('--names', nargs='+', help='one per checkpoint; default: folder/file')
    parser.add_argument('--num-videos', type=int, default=2, help='how many videos are shown')
    parser.add_argument(
        '--transfer',
        metavar='ATTACK',
        help='the attack of the protocol whose adversarial examples are shown to the other models; '
        'none: no transfer; default: pgd',
    )
    parser.add_argument(
        '--transfer-videos', type=int, default=48, help='how many videos of it; default: 48'
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the report.

    Returns:
        int: 1 if a checkpoint could not be evaluated, which the report says as well.
    """
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
    return int(len(report.results) < len(args.names))
