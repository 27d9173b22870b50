"""Average robustness by DeepFool as bars (A-ART, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .figures import blank_figure, check_not_empty, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


def plot_robustness(rho: Mapping[str, ArrayLike], over: str = 'videos') -> Figure:
    """Average robustness of models (A-ART, figure 4): how far away the nearest wrong answer is.

    Args:
        rho (Mapping[str, Tensor | ndarray]): For each model by name, ρ of each video, or the mean
            ρ of each seed, shape (N,). NaN marks a video for which no perturbation was found, or
            whose ρ is undefined: it is counted below the bar and left out of the mean, which then
            is a lower estimate.
        over (str): What the mean is over, for the label. Defaults to ``'videos'``.

    Returns:
        Figure: Bars of the means, with the sample standard deviation as error bars; to be saved
        with ``figure.savefig(file)``.

    Raises:
        ValueError: There is no value, or a shape is not as described.
        ImportError: matplotlib is missing.

    Example:
        >>> result = deepfool(model, features)
        >>> values = robustness(result, features).masked_fill(~result.success, float('nan'))
        >>> plot_robustness({'ART': values}).savefig('robustness.png')
    """
    check_not_empty('rho', rho, "name one model or more, e.g. rho={'ART': ...}")
    means, spreads, ticks = [], [], []
    for name, given in rho.items():
        values = torch.as_tensor(given).detach().cpu().double()
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(
                f'rho[{name!r}] has the shape {tuple(values.shape)}; give one or more values (N,)'
            )
        known = values[values.isfinite()]
        means.append(float(known.mean()))
        # A single value has no standard deviation.
        spreads.append(float(known.std()) if len(known) > 1 else float('nan'))
        failed = len(values) - len(known)
        count = f'n = {len(known)}' + (f', {failed} without ρ' if failed else '')
        ticks.append(f'{drawn(name)}\n{count}')
    figure = blank_figure(1.5 + 1.6 * len(rho), 4.0)
    panel = figure.subplots()
    error = dict(capsize=5, ecolor='0.25')
    colours = [f'C{index}' for index in range(len(rho))]
    bars = panel.bar(range(len(rho)), means, width=0.6, yerr=spreads, color=colours, error_kw=error)
    panel.bar_label(bars, [f'{mean:#.3g}' for mean in means], padding=3)
    panel.set_xticks(range(len(rho)), ticks)
    panel.set_xlim(-0.6, len(rho) - 0.4)
    panel.set_ylabel(f'ρ = ‖r‖ / ‖x‖, mean ± std over {over}')
    panel.margins(y=0.12)
    panel.set_ylim(bottom=0)
    return figure
