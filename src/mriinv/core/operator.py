"""The forward model b = A x + n."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mriinv.core.component import Component
from mriinv.core.types import Image, PerImage, Support
from mriinv.errors import CompatibilityError
from mriinv.numerics.cg import CGResult, conjugate_gradient
from mriinv.numerics.images import per_image

if TYPE_CHECKING:
    from mriinv.data.acquisition import Acquisition


class Operator(Component, ABC):
    """A linear map from images ``(batch, y, x)`` to data. Immutable: a new mask is a new operator.

    A plug-in implements `forward` and `adjoint`, and `build` to be used by name; one to train with is also
    built as ``cls(coil_maps, mask)`` from maps ``(batch, coil, y, x)`` and masks ``(batch, y, x)``. `gram` and
    `solve_normal` have exact defaults that it may replace by faster ones. `norm_bound` is an upper bound of the
    spectral norm (1 unless overridden), on which step sizes rely.
    """

    kind = "operator"
    norm_bound: float = 1.0
    notes: tuple[str, ...] = ()  # remarks for the user, such as "one coil map cannot explain 30 % of the head"
    settings: Any = None  # of one that was built for an acquisition
    measures_images: ClassVar[bool] = False  # its data are simulated from a fully sampled image, by `measure`

    @classmethod
    def from_acquisition(cls, acquisition: Acquisition, **settings: Any) -> Operator:
        """Build the operator for `acquisition`, as `build` does.

        Raises
        ------
        SettingsError : settings that do not exist or are out of range
        """
        parsed = cls.parse_settings(settings)
        operator = cls.build(acquisition, parsed)
        operator.settings = parsed
        return operator

    @classmethod
    def build(cls, acquisition: Acquisition, settings: Any) -> Operator:
        """Return the operator for `acquisition`, calibrating what it needs (coil maps) from the data themselves.

        `settings` are those of ``cls.Settings``, validated; they become the attribute `settings` afterwards.
        """
        raise CompatibilityError(f"operator '{cls.name}' cannot be built from an acquisition, only in Python")

    def measure(self, image: Image, generator: torch.Generator) -> tuple[Tensor, PerImage]:
        """Return data of `image` with noise, and the standard deviation of that per real component.

        Only for operators with `measures_images`; the data of the others are the k-space of a scan.
        """
        raise CompatibilityError(f"operator '{self.name}' does not measure images")

    @abstractmethod
    def forward(self, image: Image) -> Tensor:
        """Return A x."""

    @abstractmethod
    def adjoint(self, data: Tensor) -> Image:
        """Return Aᴴ y."""

    def gram(self, image: Tensor) -> Tensor:
        """Return Aᴴ A x, x what A takes: images, or the data of an adjoint."""
        return self.adjoint(self.forward(image))

    def solve_normal(
        self,
        rhs: Tensor,
        shift: float | PerImage,
        *,
        initial: Tensor | None = None,
        tolerance: float = 1e-6,
        max_iterations: int = 50,
    ) -> CGResult:
        """Solve (AᴴA + shift·I) x = rhs by conjugate gradients, each image stopping on its own.

        `shift` is one number or one per image; `tolerance` is on the residual relative to the right-hand side.
        """
        scale = per_image(shift, rhs).to(rhs.dtype)
        return conjugate_gradient(
            lambda x: torch.addcmul(self.gram(x), x, scale),
            rhs,
            initial=initial,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    def check_data(self, data: Tensor) -> None:
        """Raise an `InputError` for data that no image makes, such as samples outside a mask; by default for none."""

    def robust(self, residual: Tensor, noise_std: PerImage) -> tuple[Operator, Tensor] | None:
        """Return W^½A and W^½ ``(batch, …)``, W ≤ 1 small where `residual` Ax − b is larger than its noise explains.

        None where samples have no weights, the default.
        """
        return None

    def fully_sampled_image(self, data: Tensor) -> Image | None:
        """Return the image that fully sampled `data` show through this operator, None where that has no meaning."""
        return None

    def reference_image(self, acquisition: Acquisition) -> Image | None:
        """Return what reconstructions are compared with; None where there is nothing.

        The reference that `acquisition` brings, in the intensity of this operator's images, else what all its samples
        show.
        """
        if acquisition.reference is not None:
            return acquisition.reference
        return self.fully_sampled_image(acquisition.kspace)

    @property
    def support(self) -> Support | None:
        """Pixels that the data depend on; None for all of them."""
        return None

    def exported_maps(self) -> dict[str, Tensor]:
        """Tensors worth storing with a result, by name (coil maps, calibration eigenvalues)."""
        return {}

    def to(self, device: torch.device | str) -> Operator:
        """Return a copy of this operator with the tensors and operators among its attributes on `device`."""
        device = torch.device(device)  # refuses a type, in which complex maps would lose their imaginary part
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Operator):
                setattr(moved, name, value.to(device))
        return moved

    def __call__(self, image: Tensor) -> Tensor:
        return self.forward(image)

    @property
    def H(self) -> Operator:  # noqa: N802 - the field's notation
        """The adjoint operator."""
        return _Adjoint(self)

    def __matmul__(self, other: Operator) -> Operator:
        return _Composition(self, other)


class _Adjoint(Operator):
    name = "adjoint"

    def __init__(self, base: Operator) -> None:
        self._base, self.norm_bound = base, base.norm_bound

    def forward(self, image: Tensor) -> Tensor:
        return self._base.adjoint(image)

    def adjoint(self, data: Tensor) -> Tensor:
        return self._base.forward(data)

    @property
    def H(self) -> Operator:  # noqa: N802
        return self._base


class _Composition(Operator):
    name = "composition"

    def __init__(self, outer: Operator, inner: Operator) -> None:
        self._outer, self._inner = outer, inner
        self.norm_bound = outer.norm_bound * inner.norm_bound
        self.notes = (*outer.notes, *inner.notes)

    def forward(self, image: Tensor) -> Tensor:
        return self._outer.forward(self._inner.forward(image))

    def adjoint(self, data: Tensor) -> Tensor:
        return self._inner.adjoint(self._outer.adjoint(data))

    def gram(self, image: Tensor) -> Tensor:
        return self._inner.adjoint(self._outer.gram(self._inner.forward(image)))

    def check_data(self, data: Tensor) -> None:
        self._outer.check_data(data)

    def robust(self, residual: Tensor, noise_std: PerImage) -> tuple[Operator, Tensor] | None:
        found = self._outer.robust(residual, noise_std)
        return None if found is None else (found[0] @ self._inner, found[1])

    @property
    def support(self) -> Support | None:
        return self._inner.support
