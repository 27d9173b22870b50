"""Robustness as bars: what is drawn is what was given."""

import pytest
import torch

from adv_plugins.visualization import plot_robustness

NAN = float('nan')


def test_robustness_bars():
    rho = {'Non-ART': [0.1, 0.3, float('inf')], 'ART': torch.tensor([0.5]), 'A-ART': [NAN] * 2}
    figure = plot_robustness(rho, over='seeds')
    (panel,) = figure.axes
    bars, errors = (
        next(c for c in panel.containers if type(c).__name__ == kind)
        for kind in ('BarContainer', 'ErrorbarContainer')
    )
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([0.2, 0.5, NAN], nan_ok=True)
    ends = errors.lines[2][0].get_segments()[0][:, 1]
    # The sample standard deviation of 0.1 and 0.3.
    assert list(ends) == pytest.approx([0.2 - 0.1 * 2**0.5, 0.2 + 0.1 * 2**0.5])
    assert [text.get_text() for text in panel.texts] == ['0.200', '0.500', '']
    assert [text.get_text() for text in panel.get_xticklabels()] == [
        'Non-ART\nn = 2, 1 without ρ',
        'ART\nn = 1',
        'A-ART\nn = 0, 2 without ρ',
    ]
    assert panel.get_ylabel().endswith('over seeds') and panel.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ('rho', 'message'),
    [({}, 'rho is empty; name one model'), ({'ART': 0.3}, r"rho\['ART'\].*\(N,\)")],
)
def test_what_does_not_fit_is_told(rho, message):
    with pytest.raises(ValueError, match=message):
        plot_robustness(rho)
