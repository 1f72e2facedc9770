"""Coil compression: what is kept, what stays consistent, BART, and reconstructions from fewer coils."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mriinv import Acquisition, InputError, make_mask, make_problem, psnr, simulate_acquisition
from mriinv.data.compression import compress_coils, geometric_matrices, svd_matrix
from mriinv.numerics.fft import fft2c, ifft2c, ifftc
from mriinv_sense.operator import SenseOperator
from support import random, write_cfl

METHODS = ["svd", "geometric"]


def acquisition(y: int = 12, x: int = 10, coils: int = 5, batch: int = 1, mask: torch.Tensor | None = None):
    """A consistent scan without noise: k-space = mask · F(maps · reference)."""
    mask = torch.ones(1, 1, x, dtype=torch.bool) if mask is None else mask
    maps, image = random(1, coils, y, x, seed=1), random(batch, y, x, seed=2)
    kspace = fft2c(maps * image[:, None]) * mask[:, None]
    return Acquisition(kspace, mask, coil_maps=maps, reference=image, source="scan")


@lru_cache(maxsize=1)
def head() -> Acquisition:
    return simulate_acquisition(shape=(96, 80), coils=16, noise_std=0.005, seed=2)


def energy(scan: Acquisition) -> float:
    return float(scan.kspace.abs().square().sum())


LINES = torch.tensor([[[0, 1, 0, 1, 1, 1, 1, 0, 1, 0]]]).bool()
ROWS = LINES.transpose(1, 2).expand(1, 10, 10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "scan", [acquisition(), acquisition(batch=2), acquisition(mask=LINES), acquisition(y=10, mask=ROWS)]
)
def test_forward_model_stays_consistent(scan, method):
    compressed = compress_coils(scan, 3, method)
    assert compressed.kspace.shape == (*scan.kspace.shape[:1], 3, *scan.kspace.shape[2:])
    assert_close(SenseOperator(compressed.coil_maps, compressed.mask).forward(scan.reference), compressed.kspace)


def test_svd_keeps_the_leading_eigenvalues():
    scan = acquisition()
    samples = scan.kspace[0].flatten(1)
    values = torch.linalg.svdvals(samples).square()
    for coils in (1, 2, 4):
        compressed = compress_coils(scan, coils)
        virtual = compressed.kspace[0].flatten(1)
        assert_close(virtual @ virtual.mH, torch.diag(values[:coils]).to(virtual))
        kept = 100 * float(values[:coils].sum() / values.sum())
        remark = f"{coils} virtual coils of 5 (svd) keep {kept:.4g} % of the energy in k-space"
        assert [one.split(";")[0] for one in compressed.remarks] == [remark]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_where_the_signal_has_few_components(method):
    mixing, parts = random(6, 2, seed=3), random(1, 2, 12, 10, seed=4)
    scan = replace(acquisition(coils=6), kspace=(mixing @ parts.flatten(2)).view(1, 6, 12, 10), coil_maps=None)
    assert energy(compress_coils(scan, 2, method)) == pytest.approx(energy(scan))
    assert energy(compress_coils(scan, 1, method)) < 0.99 * energy(scan)


def test_matrices_have_orthonormal_rows():
    scan = acquisition()
    matrices = [svd_matrix(scan.kspace[0], 3)[None], geometric_matrices(scan.kspace[0], 3)]
    for matrix in matrices:
        assert_close(matrix @ matrix.mH, torch.eye(3, dtype=matrix.dtype).expand(len(matrix), 3, 3))


@pytest.mark.parametrize("method", METHODS)
def test_noise_covariance_follows(method):
    mixing = torch.eye(5) + 0.4 * random(5, 5, seed=5)
    psi = mixing @ mixing.mH
    scan = replace(acquisition(y=16), noise_covariance=psi)
    compressed = compress_coils(scan, 3, method)
    # noise through the same matrices, which the maps show: c = 1 in one coil gives one column
    unit = torch.eye(5, dtype=psi.dtype)[:, :, None, None].expand(5, 5, 16, 10)
    columns = torch.cat([compress_coils(replace(scan, coil_maps=u[None]), 3, method).coil_maps for u in unit])
    matrices = columns[..., 0].permute(2, 1, 0)  # (position, virtual, coil)
    expected = (matrices @ psi @ matrices.mH).mean(0)
    assert_close(compressed.noise_covariance, expected)
    assert compressed.noise_std == pytest.approx(float(expected.diagonal().real.mean() / 2) ** 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_virtual_coils_as_coils_change_nothing(method):
    scan = acquisition()
    assert compress_coils(scan, 5, method) is scan
    more = compress_coils(scan, 32, method)
    assert more.kspace is scan.kspace and more.remarks == ("not compressed to 32 virtual coils: there are 5",)


def test_what_the_image_loses_is_said():
    scan = head()
    remark = compress_coils(scan, 2).remarks[-1]
    rss = [ifft2c(one.kspace).abs().square().sum(1).sqrt() for one in (compress_coils(scan, 2), scan)]
    assert remark.endswith(f"their root sum of squares is that of all to {float(psnr(*rss)):.1f} dB (PSNR)")
    undersampled = scan.undersampled(make_mask("random-1d", (96, 80), 2, seed=1))
    assert re.fullmatch(
        r"2 virtual coils of 16 \(svd\) keep [0-9.]+ % of the energy in k-space",
        compress_coils(undersampled, 2).remarks[-1],
    )


def test_geometric_needs_a_fully_sampled_axis():
    scan = acquisition(y=10, mask=torch.eye(10, dtype=torch.bool)[None])
    with pytest.raises(InputError, match=r"scan: mask: .*svd needs none"):
        compress_coils(scan, 2, "geometric")
    with pytest.raises(InputError, match="coils: found 0"):
        compress_coils(scan, 0)


def test_virtual_coils_vary_smoothly():
    hybrid = ifftc(head().kspace, (-2,))[0].to(torch.complex128)
    matrices = geometric_matrices(hybrid, 4)
    steps = torch.linalg.matrix_norm(matrices.diff(dim=0))
    # no unitary matrix brings two neighbours closer: ‖A − P B‖² = 2 (n − Σ singular values of A Bᴴ) at best
    overlap = torch.linalg.svdvals(matrices[1:] @ matrices[:-1].mH).sum(-1)
    assert_close(steps.square(), 2 * (4 - overlap))
    assert steps.median() < 0.3  # of 2, the norm of each


def test_geometric_loses_less_and_reconstructs_better():
    scan = head()
    mask = make_mask("random-1d", (96, 80), 2, seed=1)
    every = make_problem(scan.undersampled(mask)).sense(1e-3)
    errors = {}
    for method in METHODS:
        compressed = compress_coils(scan, 4, method)
        image = make_problem(compressed.undersampled(mask)).sense(1e-3)
        errors[method] = float(torch.linalg.vector_norm(image.abs() - every.abs()) / torch.linalg.vector_norm(every))
    assert errors["geometric"] < 0.04
    assert errors["geometric"] < 0.7 * errors["svd"]


@pytest.mark.skipif(shutil.which("bart") is None, reason="no bart")
@pytest.mark.parametrize(("method", "flag", "tolerance"), [("svd", "-S", 1e-5), ("geometric", "-G", 2e-3)])
def test_kept_energy_is_that_of_bart(tmp_path, method, flag, tolerance):
    scan = head()
    write_cfl(tmp_path / "kspace", scan.kspace[0].permute(1, 2, 0)[:, :, None].numpy())
    command = ["bart", "cc", "-p", "4", flag, "-A", str(tmp_path / "kspace"), str(tmp_path / "compressed")]
    subprocess.run(command, check=True, capture_output=True)
    theirs = np.fromfile(tmp_path / "compressed.cfl", np.complex64)
    expected = float(np.square(np.abs(theirs)).sum()) / energy(scan)
    assert energy(compress_coils(scan, 4, method)) / energy(scan) == pytest.approx(expected, abs=tolerance)
