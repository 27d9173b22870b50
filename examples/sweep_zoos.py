"""Try recipes on the models of timm, torchvision, transformers, PyTorchVideo and MMAction2.

    python examples/sweep_zoos.py --out work_dirs/sweep_zoos.jsonl [--zoos timm] [--models vit]

The models are small or at a small size, with random weights; nothing is downloaded. Zoos that are
not installed are left out (``pip install pytorchvideo``). Each case, a recipe on a model, runs in a
process of its own, with a limit of time and memory. Its verdict is a line of ``--out``:

- passed: the checks of ``zoos/checks.py`` hold;
- clear error: a ValueError or TypeError that names the option to write;
- wrong: any other error, or a step that runs and fails a check;
- not judged: out of time or memory, or the plain model itself does not train.

Cases that have a line are skipped, so the command can be interrupted and repeated; delete lines to
try these cases again. At the end it prints the table of ``examples/README.md`` and the message of
every case that has not passed. All of it takes about half an hour on one CPU core.
"""

from __future__ import annotations

import os

# Before torch and transformers are imported: models are tiny, and nothing may be downloaded.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from adv_plugins.files import replacing

VERDICTS = ('passed', 'clear error', 'wrong', 'not judged')
RECIPES = ('advprop', 'taf', 'aart')
# What each zoo's models are imported from, and the file in zoos/ that lists them.
ZOOS = {
    'timm': ('timm', 'timm_zoo'),
    'torchvision': ('torchvision', 'torchvision_zoo'),
    'transformers': ('transformers', 'huggingface_zoo'),
    'pytorchvideo': ('pytorchvideo', 'pytorchvideo_zoo'),
    'mmaction2': ('mmaction.models', 'mmaction_zoo'),
}
# An error is clear if it says what to write.
OPTIONS = re.compile(
    r"cam_layer|cam_layout|loss_fn|second_order|dual_bn|attention=|modules=|'advprop'|"
    'freeze_feature_encoder'
)
GIGABYTES = 6


class Case(NamedTuple):
    """A recipe on a model."""

    zoo: str
    model: str
    recipe: str


def installed() -> list[str]:
    """The zoos whose package is there."""
    return [zoo for zoo, (module, _) in ZOOS.items() if find_spec(module.partition('.')[0])]


def entries(zoo: str) -> dict[str, Any]:
    """The models of a zoo by name, see ``zoos/entry.py``."""
    return import_module(f'zoos.{ZOOS[zoo][1]}').entries()


def cases(zoos: Iterable[str], models: str, recipes: Iterable[str]) -> list[Case]:
    """The cases of some zoos, of the models whose name has a part."""
    return [
        Case(zoo, name, recipe)
        for zoo in zoos
        for name, entry in entries(zoo).items()
        for recipe in entry.recipes
        if models in name and recipe in recipes
    ]


def judge(case: Case) -> tuple[str, str]:
    """The verdict on a case, and what led to it."""
    from zoos.checks import CHECKS, Wrong, plain_model_trains

    entry = entries(case.zoo)[case.model]
    try:
        plain_model_trains(entry)
    except Exception as error:
        return 'not judged', f'the plain model: {_said(error)}'
    try:
        return 'passed', CHECKS[case.recipe](entry)
    except Wrong as error:
        return 'wrong', str(error)
    except (TypeError, ValueError) as error:
        return 'clear error' if OPTIONS.search(str(error)) else 'wrong', _said(error)
    except Exception as error:
        out_of_memory = isinstance(error, MemoryError) or "can't allocate" in str(error)
        return 'not judged' if out_of_memory else 'wrong', _said(error)


def _said(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def _judge_in_process(case: Case, sender: Any) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES * 2**30,) * 2)
    sender.send(judge(case))


def judge_apart(case: Case, seconds: float) -> dict[str, Any]:
    """The verdict of a process of its own, as a line of the results."""
    # Forked from a server that has imported the package once, and has no threads.
    context = multiprocessing.get_context('forkserver')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_judge_in_process, args=(case, sender), daemon=True)
    begun = time.monotonic()
    process.start()
    sender.close()
    verdict, said = 'not judged', f'it did not end in {seconds:g} s'
    if receiver.poll(seconds):
        try:
            verdict, said = receiver.recv()
        except EOFError:
            process.join()
            verdict, said = 'wrong', f'the process died with the exit code {process.exitcode}'
    process.kill()
    process.join()
    taken = round(time.monotonic() - begun, 1)
    return {**case._asdict(), 'verdict': verdict, 'said': said, 'seconds': taken}


def read(out: Path) -> dict[Case, dict[str, Any]]:
    """The results so far; a line that was cut short is dropped from the file."""
    found = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        found[Case(*(result[key] for key in Case._fields))] = result
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        file.writelines(f'{json.dumps(result)}\n'.encode() for result in found.values())
    return found


def table(results: Iterable[dict[str, Any]]) -> str:
    """A line for each zoo and recipe, and each case that has not passed with its message."""
    results = list(results)
    lines = [f'| zoo | recipe | cases | {" | ".join(VERDICTS)} |', '|---' * 7 + '|']
    for zoo in ZOOS:
        for recipe in RECIPES:
            count = Counter(
                r['verdict'] for r in results if (r['zoo'], r['recipe']) == (zoo, recipe)
            )
            if count:
                numbers = ' | '.join(str(count[verdict]) for verdict in VERDICTS)
                lines.append(f'| {zoo} | {recipe} | {count.total()} | {numbers} |')
    for verdict in VERDICTS[1:]:
        for r in results:
            if r['verdict'] == verdict:
                lines.append(f'- {verdict}: {r["zoo"]} {r["model"]} {r["recipe"]}: {r["said"]}')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--zoos', nargs='+', choices=installed(), default=installed())
    parser.add_argument('--models', default='', help='part of their names; default: all')
    parser.add_argument('--recipes', nargs='+', choices=RECIPES, default=RECIPES)
    parser.add_argument('--seconds', type=float, default=150, help='the time limit of a case')
    parser.add_argument('--jobs', type=int, default=1, help='cases at a time')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/sweep_zoos.jsonl'))
    parser.add_argument('--list', action='store_true', help='print the cases and stop')
    args = parser.parse_args(argv)
    wanted = cases(args.zoos, args.models, args.recipes)
    if args.list:
        print(*(' '.join(case) for case in wanted), sep='\n')
        return
    results = read(args.out)
    missing = [case for case in wanted if case not in results]
    # adv_plugins repairs what MMAction2 imports.
    preload = ['adv_plugins', *(ZOOS[zoo][0] for zoo in args.zoos)]
    multiprocessing.get_context('forkserver').set_forkserver_preload(preload)
    with ThreadPoolExecutor(args.jobs) as pool, args.out.open('a') as file:
        for result in pool.map(lambda case: judge_apart(case, args.seconds), missing):
            print(json.dumps(result), file=file, flush=True)
            results[Case(*(result[key] for key in Case._fields))] = result
            print(*result.values(), flush=True)
    print(table(results[case] for case in wanted))


if __name__ == '__main__':
    main()
