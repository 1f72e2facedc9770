"""Layers with their pullbacks: the derivative of a network with respect to its input, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Pullback = Callable[[Tensor], Tensor]
"""Maps the gradient with respect to a layer's output to that with respect to its input; to be called once."""


def _relu_backward(g: Tensor, h: Tensor, *, grad_input: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=grad_input)


# the derivative of an activation, and the attributes of the module that it depends on
_BACKWARD: dict[type[nn.Module], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    nn.SiLU: (torch.ops.aten.silu_backward.grad_input, ()),
    nn.Softplus: (torch.ops.aten.softplus_backward.grad_input, ("beta", "threshold")),
    nn.ReLU: (_relu_backward, ()),
}


class HasPullback(Protocol):
    """A module that brings its pullback, next to its `forward`."""

    def with_pullback(self, h: Tensor) -> tuple[Tensor, Pullback]: ...


def with_pullback(layer: nn.Module, h: Tensor) -> tuple[Tensor, Pullback]:
    """Return ``layer(h)`` and its pullback. Gradients must be disabled; `h` is used up, by either of the two.

    Autograd keeps the input of every layer. Only that of the activations is needed, and it is overwritten on the way
    back: a gradient touches half of the memory, which is much of its advantage. Weights are taken in the precision of
    `h`. Layers are activations, `nn.Sequential`, convolutions (without dilation, groups and output padding, and of
    sizes that the stride divides), and modules with a method `with_pullback`.
    """
    if isinstance(layer, nn.Sequential):
        return chained(layer, h)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return _convolved(layer, h)
    if type(layer) in _BACKWARD:
        backward, names = _BACKWARD[type(layer)]
        constants = [getattr(layer, name) for name in names]
        return layer(h), lambda g: backward(g, h, *constants, grad_input=h)
    return cast(HasPullback, layer).with_pullback(h)


def chained(layers: Iterable[nn.Module], h: Tensor) -> tuple[Tensor, Pullback]:
    """Return the output of `layers`, one after the other, and its pullback."""
    pullbacks: list[Pullback] = []  # each holds memory until it has been called
    for layer in layers:
        h, back = with_pullback(layer, h)
        pullbacks.append(back)
        del back

    def pullback(g: Tensor) -> Tensor:
        while pullbacks:
            g = pullbacks.pop()(g)
        return g

    return h, pullback


def _convolved(layer: nn.Conv2d | nn.ConvTranspose2d, h: Tensor) -> tuple[Tensor, Pullback]:
    if layer.groups != 1 or {*layer.dilation} != {1} or any(layer.output_padding):
        raise TypeError(f"{layer}: no pullback with dilation, groups or output padding")
    forward: Callable[..., Tensor]
    adjoint: Callable[..., Tensor]
    forward, adjoint = functional.conv2d, functional.conv_transpose2d
    if isinstance(layer, nn.ConvTranspose2d):
        forward, adjoint = adjoint, forward
    # converted in every call, which costs little beside the convolution: a copy that is kept would go stale
    weight = layer.weight.to(h.dtype, memory_format=torch.channels_last)
    bias = None if layer.bias is None else layer.bias.to(h.dtype)
    geometry: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
    return forward(h, weight, bias, **geometry), lambda g: adjoint(g, weight, **geometry)
