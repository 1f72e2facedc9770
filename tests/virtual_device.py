"""A device that is not the CPU, without a machine that has one: what mixes devices fails here as it would on CUDA.

Tensors of the device compute on the CPU, so their values can be compared with those of the CPU. An operation on
tensors of both devices, a generator of the other device, or a conversion to NumPy is an error, as with CUDA. torch must
know the type of a device; that of its lazy backend needs no hardware, and nothing here uses that backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy:0")
INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
# a flag on the values, such as that of a conjugate, would be overlooked down here
PHYSICAL = {
    torch.ops.aten._conj.default: lambda x: torch.as_tensor(x).conj_physical(),
    torch.ops.aten._neg_view.default: torch.neg,
}


class OnDevice(Tensor):
    """A tensor of the device, around the tensor of the CPU that has its values."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
            requires_grad=values.requires_grad,
        )
        made.values = values
        return made

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


class Generator(torch.Generator):
    """A generator that says which device it is for. Dispatch hands on another object for the same generator."""

    made: ClassVar[dict[int, Generator]] = {}

    def __new__(cls, device: Any = "cpu") -> Generator:
        one = super().__new__(cls)
        one.meant_for = torch.device(device)
        cls.made[one._cdata] = one
        return one

    def __init__(self, *_: Any) -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.meant_for


class _Mode(TorchDispatchMode):
    """Catches what makes tensors from none."""

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


@contextmanager
def virtual_device() -> Iterator[torch.device]:
    """Give the device, for the block."""
    lowered, autocast = torch.is_autocast_enabled, torch.autocast
    changed = {
        "Generator": Generator,
        "is_autocast_enabled": lambda kind: kind != DEVICE.type and lowered(kind),
        "autocast": lambda kind, *args, **kwargs: (
            nullcontext() if kind == DEVICE.type else autocast(kind, *args, **kwargs)
        ),
    }
    with patch.multiple(torch, **changed):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) is made on the CPU, and then moved
        try:
            with _Mode():
                yield DEVICE
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            Generator.made.clear()


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice) and leaf.dim()]
    # CUDA takes indices and masks from the CPU, and copies between the devices
    mixes = function is torch.ops.aten.copy_.default or (function in INDEXING and isinstance(args[0], OnDevice))
    if there and here and not mixes:
        raise RuntimeError(f"{function}: expected all tensors on the same device, found {DEVICE} and cpu")
    asked = kwargs.get("device")
    to_device = bool(there) if asked is None else torch.device(asked).type == DEVICE.type
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    for leaf in leaves:
        generator = Generator.made.get(leaf._cdata) if isinstance(leaf, torch._C.Generator) else None
        if generator is not None and (generator.device.type == DEVICE.type) != to_device:
            raise RuntimeError(
                f"{function}: expected a generator of the device of the tensors, found {generator.device}"
            )
    function_here = PHYSICAL.get(function, function)
    result = function_here(*tree_map(_values, args), **tree_map(_values, kwargs))
    if to_device:
        result = tree_map(_on_device, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if there and to_device else result


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, OnDevice) else leaf


def _on_device(leaf: Any) -> Any:
    return OnDevice(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice) else leaf
