"""Losses that trainers share."""

import torch

from mriinv import Prior, denoising_score_matching, log_uniform


class Shrinking(Prior):
    """Multiplies by a constant."""

    name = "shrinking"
    provides = frozenset({"denoiser"})

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def denoise(self, image, noise_level, *, create_graph=False):
        return self.factor * image


def test_a_denoiser_that_does_nothing_costs_one_at_every_level():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(8, 64, 64, dtype=torch.complex64)
    levels = log_uniform(8, 0.005, 0.5, generator)
    assert abs(denoising_score_matching(Shrinking(1.0), images, levels, generator).item() - 1) < 0.02
    assert abs(denoising_score_matching(Shrinking(0.5), images, levels, generator).item() - 0.25) < 0.01


def test_weights_of_the_levels():
    """A denoiser that does nothing errs by σ per real component: |n|²/2 is σ² on average."""
    generator = torch.Generator().manual_seed(0)
    images, levels = torch.zeros(8, 64, 64, dtype=torch.complex64), torch.full((8,), 0.2)
    bare = denoising_score_matching(Shrinking(1.0), images, levels, generator, relative=False)
    both = denoising_score_matching(Shrinking(1.0), images, levels, generator, data_std=0.1)
    assert abs(bare.item() - 0.2**2) < 0.001 and abs(both.item() - (1 + 4)) < 0.1


def test_levels_are_uniform_in_the_logarithm():
    levels = log_uniform(20000, 0.01, 1.0, torch.Generator().manual_seed(0))
    assert levels.min() >= 0.01 and levels.max() <= 1.0
    assert abs((levels < 0.1).float().mean() - 0.5) < 0.02
