"""Colour lines are fitted exactly, however alike the channels are."""

import torch

from cutout.inference.matting.colour_lines import fit_lines


def test_lines_of_nearly_grey_photos_do_not_suffer_from_rounding() -> None:
    """Such as a grey box on a white ground: all channels are nearly the same, and so are the equations."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 1, 96).expand(1, 1, 64, 96)
    alpha = (ramp * 8 - 3.5).clamp(0, 1)
    grey = 0.98 - 0.9 * alpha + 0.002 * torch.rand(1, 3, 64, 96, generator=generator)
    lines, trust = fit_lines(grey, alpha)
    exact_lines, exact_trust = fit_lines(grey.double(), alpha.double())
    assert (lines - exact_lines).abs().max() < 0.01
    assert (trust - exact_trust).abs().max() < 0.002
