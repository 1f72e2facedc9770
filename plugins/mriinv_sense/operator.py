"""The SENSE forward model: coil maps, Fourier transform, sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mriinv import (
    Acquisition,
    CGResult,
    CoilMaps,
    ComponentSettings,
    Image,
    InputError,
    KSpace,
    Mask,
    Operator,
    PerImage,
    centring_phases,
    conjugate_gradient,
    setting,
)
from mriinv_sense import calibration
from mriinv_sense.robust import huber_weights

UNIT_TOLERANCE = 1e-5  # of Σ|c|² from 1, above the rounding of single precision
DARK = 1e-3  # of the largest Σ|c|²
MOST_UNLIKE_ONE = 5.0  # typical Σ|c|² of maps whose unit is left alone, or one over it: whitening changes it too


class SenseOperator(Operator):
    """Multi-coil Cartesian MRI, A = S F C.

    C multiplies by the coil maps c, F is the centred orthonormal 2D Fourier transform, S keeps the sampled locations
    and sets the others to zero (Pruessmann 1999). With unit sum of squares Σ|c|² = 1 on the support, ‖A‖ ≤ 1; with
    other maps `norm_bound` is √max Σ|c|². Priors take Σ|c|² to be about 1; `build` brings maps in other units there.

    No shift is ever computed: F = P·fft2·Q with the phases of `centring_phases`, and AᴴA needs neither of them, only
    the mask in the order of `fft2` and transforms along the axes that it varies along. On the CPU the work is done
    coil by coil, because large temporaries cost more than the arithmetic; on other devices in one batch.

    Parameters
    ----------
    coil_maps : complex ``(batch|1, coil, y, x)``, dimensionless
    mask : bool ``(batch|1, y|1, x)``, True where sampled; ``y == 1`` selects whole columns

    Raises
    ------
    InputError : shapes that do not fit, values that are not finite, maps or a mask that are zero everywhere
    """

    name = "sense"

    class Settings(ComponentSettings):
        """How coil maps are estimated by ESPIRiT (Uecker 2014)."""

        calibration_width: int = setting(24, "widest calibration region, along each axis", unit="lines", ge=4)
        kernel_width: int = setting(6, "width of the k-space kernels", unit="samples", ge=2)
        threshold: float = setting(
            0.02, "singular values kept, relative to the largest", unit="fraction of the largest", gt=0, lt=1
        )
        crop: float = setting(
            0.9, "eigenvalue below which a pixel is outside the support", unit="eigenvalue, 0 to 1", ge=0, lt=1
        )

    def __init__(self, coil_maps: CoilMaps, mask: Mask) -> None:
        _validate(coil_maps, mask)
        self.coil_maps, self.mask = coil_maps, mask
        self._conjugate = coil_maps.conj().resolve_conj()
        self._weight = coil_maps.abs().square().sum(1)
        bound = float(self._weight.max())
        self.norm_bound = 1.0 if abs(bound - 1) < UNIT_TOLERANCE else bound**0.5
        self._eigenvalues: Tensor | None = None
        self._intensity: Tensor | None = None  # of images, over that of the coils before they were whitened

        y, x = self._shape = (coil_maps.shape[-2], coil_maps.shape[-1])
        q, p = (phase.to(coil_maps.device) for phase in centring_phases(self._shape, coil_maps.dtype))
        self._q, self._sampling = q, p * mask / (y * x) ** 0.5
        self._density: Tensor = mask  # squares of the weights of the samples
        self._axes, self._gram_mask = _gram_mask(mask, coil_maps.dtype)

    @classmethod
    def build(cls, acquisition: Acquisition, settings: Any) -> SenseOperator:
        """Return the operator with the coil maps of `acquisition`, or by ESPIRiT where it has none.

        ESPIRiT uses the largest centred, fully sampled rectangle of k-space, slice by slice.

        Raises
        ------
        InputError : k-space that is not finite; too small a calibration region
        """
        kspace, mask = acquisition.kspace, acquisition.mask
        if not kspace.isfinite().all():
            raise InputError(acquisition.source, "kspace", "NaN or infinity", "finite values")
        if acquisition.coil_maps is not None:
            typical = acquisition.map_covariance
            power = None if typical is None else float(typical.diagonal().real.sum())
            return cls._from_maps(acquisition.coil_maps.to(kspace), mask, power)
        calibrated = calibration.calibrate(
            acquisition,
            width=settings.calibration_width,
            kernel_width=settings.kernel_width,
            threshold=settings.threshold,
            crop=settings.crop,
        )
        operator = cls(calibrated.coil_maps, mask)
        operator._eigenvalues, operator.notes = calibrated.eigenvalues, calibrated.notes
        if acquisition.coil_metric is not None:
            maps = calibrated.coil_maps.movedim(1, -1)[..., None]
            squares = (maps.mH @ (acquisition.coil_metric.to(maps) @ maps)).real[..., 0, 0]
            operator._intensity = torch.where(operator.support, squares, 1).rsqrt()
        return operator

    @classmethod
    def _from_maps(cls, maps: CoilMaps, mask: Mask, power: float | None) -> SenseOperator:
        """Return the operator of given maps, brought to a typical sum of squares of 1 where theirs is far from it.

        Priors and steps expect that. The image is then brighter by what the maps were divided by, as is the reference
        that reconstructions are compared with. `power` is that of all maps of a scan, whose slices stay comparable.
        """
        operator = cls(maps, mask)
        if power is None:
            typical = torch.stack([squares[squares > 0].median() for squares in operator._weight])
        else:
            typical = operator._weight.new_full((len(maps),), power)
        usual = (typical >= 1 / MOST_UNLIKE_ONE) & (typical <= MOST_UNLIKE_ONE)
        if usual.all():
            return operator
        unit = torch.where(usual, 1, typical.sqrt()).view(-1, 1, 1)
        scaled = cls(maps / unit[:, None], mask)
        scaled._intensity = unit.expand_as(operator._weight)
        scaled.notes = tuple(
            f"coil maps whose sum of squares is typically {squares:.3g}, not 1, were divided by {squares**0.5:.3g}: so "
            "much brighter is the image"
            for squares in dict.fromkeys(typical[~usual].tolist())
        )
        return scaled

    def forward(self, image: Image) -> KSpace:
        self._check(image, "image")
        centred = image * self._q
        if not self._coilwise(image):
            return torch.fft.fft2(self.coil_maps * centred[:, None]).mul_(self._sampling[:, None])
        coils = [torch.fft.fft2(c * centred).mul_(self._sampling) for c in self.coil_maps.unbind(1)]
        return torch.stack(coils, 1)

    def adjoint(self, data: KSpace) -> Image:
        self._check(data, "data")
        sampling = self._sampling.conj().resolve_conj()
        if not self._coilwise(data):
            coils = torch.fft.ifft2(data * sampling[:, None], norm="forward")
            return coils.mul_(self._conjugate).sum(1).mul_(self._q.conj())
        image: Tensor | None = None
        for coil, conjugate in zip(data.unbind(1), self._conjugate.unbind(1), strict=True):
            part = torch.fft.ifft2(coil * sampling, norm="forward")
            image = part * conjugate if image is None else image.addcmul_(part, conjugate)
        assert image is not None
        return image.mul_(self._q.conj())

    def check_data(self, data: KSpace) -> None:
        self._check(data, "data")
        if torch.where(self.mask[:, None], 0, data).any():
            raise InputError("sense operator", "data", "values outside the mask", "zeros where nothing was sampled")

    def gram(self, image: Image) -> Image:
        self._check(image, "image")
        if not self._axes:
            return image * self._weight * self._gram_mask
        if not self._coilwise(image):
            return self._gram_batched(image)
        return torch.stack([self._add_gram(torch.zeros_like(one), one, index) for index, one in enumerate(image)])

    def solve_normal(
        self,
        rhs: Image,
        shift: float | PerImage,
        *,
        initial: Image | None = None,
        tolerance: float = 1e-6,
        max_iterations: int = 50,
    ) -> CGResult:
        """Solve (AᴴA + shift·I) x = rhs as `Operator.solve_normal` does, on the CPU image by image."""
        self._check(rhs, "rhs")
        options: dict[str, Any] = {"tolerance": tolerance, "max_iterations": max_iterations}
        if not self._coilwise(rhs):
            return super().solve_normal(rhs, shift, initial=initial, **options)
        shifts = torch.as_tensor(shift, dtype=rhs.real.dtype).expand(len(rhs)).tolist()

        def shifted(index: int) -> Callable[[Tensor], Tensor]:
            return lambda x: self._add_gram(x[0] * shifts[index], x[0], index)[None]

        results = [
            conjugate_gradient(
                shifted(i), rhs[i : i + 1], initial=None if initial is None else initial[i : i + 1], **options
            )
            for i in range(len(rhs))
        ]
        longest = max(len(r.history) for r in results)
        histories = [torch.cat([r.history, r.history[-1:].expand(longest - len(r.history), 1)]) for r in results]
        solutions, iterations = [r.solution for r in results], [r.iterations for r in results]
        return CGResult(torch.cat(solutions), torch.cat(iterations), torch.cat(histories, 1))

    def robust(self, residual: KSpace, noise_std: PerImage) -> tuple[SenseOperator, Tensor]:
        """Return the weighted operator and the roots ``(batch, 1, y, x)`` of `huber_weights`.

        `mask` of the weighted operator stays that of the samples; its AᴴA transforms along both axes, lines too.
        """
        weights = huber_weights(residual, self.mask, noise_std)
        root = weights.sqrt()
        weighted = copy.copy(self)
        weighted._sampling = self._sampling * root
        weighted._density = self._density * weights
        weighted._axes, weighted._gram_mask = _gram_mask(weighted._density, self.coil_maps.dtype)
        return weighted, root[:, None]

    def fully_sampled_image(self, data: KSpace) -> Image:
        """Return Cᴴ Fᴴ y/Σ|c|², the least-squares image of fully sampled data, zero outside the support.

        Where the coils see less than a thousandth of what they see at best, noise is not amplified further.
        """
        everything = torch.ones(1, 1, self._shape[1], dtype=torch.bool, device=data.device)
        combined = SenseOperator(self.coil_maps, everything).adjoint(data)
        return combined / self._weight.clamp_min(DARK * self._weight.amax((1, 2), keepdim=True))

    def reference_image(self, acquisition: Acquisition) -> Image | None:
        """Return the reference, brighter where whitening has made the coils more sensitive and the maps do not say so.

        ESPIRiT gives whitened coils maps with a sum of squares of 1, as if they had been the coils of the scan.
        """
        if acquisition.reference is None or self._intensity is None:
            return super().reference_image(acquisition)
        return acquisition.reference * self._intensity

    @property
    def support(self) -> Tensor:
        """Pixels where any coil has a sensitivity, bool ``(batch|1, y, x)``."""
        return self._weight > 0

    def exported_maps(self) -> dict[str, Tensor]:
        """Return the coil maps and, when ESPIRiT made them, its two eigenvalue maps ``(batch, 2, y, x)``."""
        maps = {"coil_maps": self.coil_maps}
        return maps if self._eigenvalues is None else {**maps, "espirit_eigenvalues": self._eigenvalues}

    @staticmethod
    def _coilwise(tensor: Tensor) -> bool:
        """Say whether to work coil by coil and not in one batch."""
        return tensor.device.type == "cpu"

    def _add_gram(self, total: Tensor, image: Tensor, index: int) -> Tensor:
        """Add AᴴA of one image to `total`, in place; temporaries are one coil large and stay in the cache."""
        maps, conjugate = _select(self.coil_maps, index), _select(self._conjugate, index)
        mask = _select(self._gram_mask, index)
        if not self._axes:
            return total.addcmul_(image, mask * _select(self._weight, index))
        for coil, conjugate_coil in zip(maps, conjugate, strict=True):
            spectrum = torch.fft.fftn(coil * image, dim=self._axes).mul_(mask)
            total.addcmul_(torch.fft.ifftn(spectrum, dim=self._axes, norm="forward"), conjugate_coil)
        return total

    def _gram_batched(self, image: Tensor) -> Tensor:
        spectrum = torch.fft.fftn(self.coil_maps * image[:, None], dim=self._axes).mul_(self._gram_mask[:, None])
        return torch.fft.ifftn(spectrum, dim=self._axes, norm="forward").mul_(self._conjugate).sum(1)

    def _check(self, value: Tensor, what: str) -> None:
        batches = {len(value), len(self.coil_maps), len(self._sampling)} - {1}
        expected = self._shape if what != "data" else (self.coil_maps.shape[1], *self._shape)
        if value.shape[1:] != expected or batches - {len(value)}:
            batch = max(len(self.coil_maps), len(self._sampling))
            raise InputError(
                "sense operator",
                what,
                f"shape {tuple(value.shape)}",
                f"({batch if batch > 1 else 'batch'}, {', '.join(map(str, expected))})",
            )


def _select(per_image: Tensor, index: int) -> Tensor:
    return per_image[index if len(per_image) > 1 else 0]


def _gram_mask(mask: Tensor, dtype: torch.dtype) -> tuple[tuple[int, ...], Tensor]:
    """Return the axes along which `mask` or weights vary, and 1/N times these over them, in the order of `fft2`."""
    axes = tuple(axis for axis in (-2, -1) if (mask != mask.narrow(axis, 0, 1)).any())
    for axis in {-2, -1} - set(axes):
        mask = mask.narrow(axis, 0, 1)
    size = 1
    for axis in axes:
        size *= mask.shape[axis]
    return axes, torch.fft.ifftshift(mask, dim=(-2, -1)).to(dtype) / size


def _validate(coil_maps: Tensor, mask: Tensor) -> None:
    def refuse(field: str, found: str, expected: str) -> None:
        raise InputError("sense operator", field, found, expected)

    if coil_maps.ndim != 4 or not coil_maps.is_complex() or coil_maps.numel() == 0:
        refuse("coil_maps", f"{coil_maps.dtype} {tuple(coil_maps.shape)}", "complex (batch or 1, coil, y, x)")
    y, x = coil_maps.shape[-2:]
    if mask.ndim != 3 or mask.dtype != torch.bool or mask.shape[-2] not in (1, y) or mask.shape[-1] != x:
        refuse("mask", f"{mask.dtype} {tuple(mask.shape)}", f"bool (batch or 1, {y} or 1, {x})")
    if 1 not in (len(coil_maps), len(mask)) and len(coil_maps) != len(mask):
        refuse("mask", f"batch {len(mask)}", f"batch 1 or {len(coil_maps)}, as the coil maps have")
    if mask.device != coil_maps.device:
        refuse("mask", f"device {mask.device}", f"{coil_maps.device}, where the coil maps are")
    if not coil_maps.isfinite().all():
        refuse("coil_maps", "NaN or infinity", "finite values")
    if not coil_maps.flatten(1).any(1).all():
        refuse("coil_maps", "an image whose maps are zero everywhere", "maps that are not zero on the object")
    if not mask.flatten(1).any(1).all():
        refuse("mask", "an image without any sampled location", "at least one")
