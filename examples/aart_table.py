"""The tables of A-ART on the embedded sample: Non-ART, ART and A-ART over several seeds.

    python examples/aart_table.py --seeds 0 1 2 [--work-dir work_dirs/aart]
    python examples/aart_table.py --dataset yt8m-317 --seeds 0      # with YouTube-8M on disk

Each cell is ``mim train mmaction2 CONFIG --cfg-options randomness.seed=SEED`` followed by ``mim
test`` of the checkpoint with the best validation GAP. It measures the metrics on clean videos,
under the paper's attack and under a stronger one, the change of the attention maps, and DeepFool's
ρ. Finished cells are kept, so the command can be interrupted, and several commands can work on
different seeds of one work dir at the same time.
"""

from __future__ import annotations

import passive_waiting  # noqa: F401

# isort: split
import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from studies import markdown

CONFIGS = Path(__file__).resolve().parent.parent / 'mm_configs/aart'
METHODS = {'Non-ART': 'transformer', 'ART': 'art-transformer', 'A-ART': 'aart-transformer'}
METRICS = ('GAP', 'PERR', 'Hit@1')
SETS = {'Test': '', 'Adversarial (one step)': 'fgm/', 'Adversarial (ten steps)': 'pgd/'}
Cell = dict[str, float]


def config_file(method: str, dataset: str) -> Path:
    """The config of a method."""
    return CONFIGS / f'{METHODS[method]}_1xb64_{dataset}.py'


def train_and_test(config: Path, work_dir: Path, seed: int, **options: Any) -> Cell:
    """Do from Python what ``mim train`` and ``mim test`` do.

    Args:
        config (Path): The config file.
        work_dir (Path): Folder for the log, checkpoints and ``result.json``; a result that is
            already there is returned immediately.
        seed (int): Seed of the weights and the order of the videos.
        **options: Changes to the config, ``a.b=c`` as ``{'a.b': c}``.

    Returns:
        dict[str, float]: The test metrics, and ``best``, the validation GAP of the tested
        checkpoint.
    """
    file = work_dir / 'result.json'
    if file.exists():
        return json.loads(file.read_text())
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'work_dir': str(work_dir), 'randomness.seed': seed, **options})
    # mmengine identifies visualizers by this name and the current second, which a tiny run may not
    # outlast.
    cfg.experiment_name = work_dir.name
    Runner.from_cfg(cfg).train()
    cfg.load_from = str(next(work_dir.glob('best_GAP_iter_*.pth')))
    cfg.experiment_name = f'{work_dir.name}-test'
    runner = Runner.from_cfg(cfg)
    result = {key: float(value) for key, value in runner.test().items()}
    result['best'] = best_gap(work_dir)
    file.write_text(json.dumps(result, indent=2) + '\n')
    return result


def best_gap(work_dir: Path) -> float:
    """The highest validation GAP in the scalars of a run."""
    lines = [
        json.loads(line)
        for file in work_dir.glob('*/vis_data/scalars.json')
        for line in file.read_text().splitlines()
    ]
    return max(line['GAP'] for line in lines if 'GAP' in line and 'num_videos' in line)


def spread(values: list[float], factor: float = 100, digits: int = 2, sign: str = '') -> str:
    """``mean ± standard deviation``."""
    return markdown.spread([factor * value for value in values], digits, sign)


def table_1(cells: dict[str, dict[int, Cell]], column: Callable[[list[Cell], str], str]) -> str:
    """Clean and adversarial metrics, in percent, and the gain of A-ART over Non-ART by seed."""
    lines = [
        f'| | | {" | ".join(METHODS)} | gain of A-ART |',
        '|---|---|' + '---|' * (len(METHODS) + 1),
    ]
    for name, prefix in SETS.items():
        for metric in METRICS:
            key = prefix + metric
            columns = [column(list(cells[method].values()), key) for method in METHODS]
            gains = [cells['A-ART'][s][key] - cells['Non-ART'][s][key] for s in cells['A-ART']]
            lines.append(
                f'| {name} | {metric} | {" | ".join(columns)} | {spread(gains, sign="+")} |'
            )
    return '\n'.join(lines)


def over_seeds(cells: list[Cell], key: str) -> str:
    """Mean and standard deviation over the seeds."""
    return spread([cell[key] for cell in cells])


def over_partitions(cells: list[Cell], key: str) -> str:
    """Mean and standard deviation over five partitions of the test set, as in the paper.

    The value of a partition is its mean over the seeds.
    """
    average, deviation = (mean(cell[f'{key}_{part}'] for cell in cells) for part in ('mean', 'std'))
    return f'{100 * average:.2f} ± {100 * deviation:.2f}'


def robustness_table(cells: dict[str, dict[int, Cell]]) -> str:
    """The change of the attention maps, and the perturbations that DeepFool needs."""
    rows = {
        'attention MSE · 10⁶, one step': ('fgm/attention_mse', 1e6),
        'attention MSE · 10⁶, ten steps': ('pgd/attention_mse', 1e6),
        'ρ (DeepFool), percent': ('deepfool/rho_mean', 100),
        'fooled within 50 iterations, percent': ('deepfool/success_rate', 100),
        '‖R‖/‖X‖ of rgb, percent': ('fgm/ratio_rgb', 100),
        '‖R‖/‖X‖ of audio, percent': ('fgm/ratio_audio', 100),
        'best validation GAP, percent': ('best', 100),
    }
    lines = [f'| | {" | ".join(METHODS)} |', '|---|' + '---|' * len(METHODS)]
    for name, (key, factor) in rows.items():
        columns = [spread([c[key] for c in cells[m].values()], factor) for m in METHODS]
        lines.append(f'| {name} | {" | ".join(columns)} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--dataset', default='yt8m-sample')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/aart'))
    args = parser.parse_args()
    cells: dict[str, dict[int, Cell]] = {method: {} for method in METHODS}
    for seed in args.seeds:
        for method in METHODS:
            file = config_file(method, args.dataset)
            cells[method][seed] = train_and_test(file, args.work_dir / f'{file.stem}-{seed}', seed)
    report = (
        f'Seeds {", ".join(map(str, args.seeds))}; mean ± standard deviation over five partitions '
        f'of the test set (the gain: over the seeds)\n\n{table_1(cells, over_partitions)}\n\n'
        f'Mean ± standard deviation over the seeds\n\n{table_1(cells, over_seeds)}\n\n'
        f'{robustness_table(cells)}\n'
    )
    (args.work_dir / 'table.md').write_text(report)
    print(report)


if __name__ == '__main__':
    main()
