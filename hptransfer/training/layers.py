"""Layers with a leading trial axis: one model trains several trials.

Letters: K trials of the stack, B examples, S positions, I fan-in, O fan-out, V vocabulary.
Every parameter has shape (K, ...). The K slices never mix, so each trial's numbers are those that
it would have alone. Layers hold what a parameterization needs to know: role, fan-in and fan-out.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role

Scalar = float | Tensor
"""One number for all trials, or a tensor with one per trial."""


def scale_fwd(x: Tensor, scalar: Scalar, axis: int = 0) -> Tensor:
    """Multiply each trial's slice of x along an axis by its number."""
    if isinstance(scalar, Tensor):
        shape = [1] * x.dim()
        shape[axis] = -1
        return (x * wide(scalar, x).view(shape)).to(x.dtype)
    return x if scalar == 1.0 else x * scalar


def scale_channels(x: Tensor, scalar: Scalar) -> Tensor:
    """Multiply each trial's channels of x_B(KC)HW by its number."""
    if isinstance(scalar, Tensor):
        numbers = wide(scalar, x).repeat_interleave(x.shape[1] // len(scalar)).view(1, -1, 1, 1)
        return (x * numbers).to(x.dtype)
    return x if scalar == 1.0 else x * scalar


def wide(numbers: Tensor, x: Tensor) -> Tensor:
    """Return numbers on x's device in its type, at least float32.

    In bfloat16 one number for all trials is not rounded either.
    """
    return numbers.to(x.device, torch.promote_types(x.dtype, torch.float32))


Multiply = Callable[[Tensor, Scalar], Tensor]


def scale_bwd(x: Tensor, scalar: Scalar, by: Multiply = scale_fwd) -> Tensor:
    """Return x, with its gradient multiplied by each trial's number."""
    if not isinstance(scalar, Tensor) and scalar == 1.0:
        return x
    return _ScaleBackward.apply(x, scalar, by)  # type: ignore[no-untyped-call, no-any-return]


class _ScaleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scalar: Scalar, by: Multiply) -> Tensor:
        ctx.scalar, ctx.by = scalar, by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.by(gradient, ctx.scalar), None, None


@dataclass
class Moments:
    """Second moments of a layer's inputs h and output gradients g.

    g is the gradient of the loss in the layer's output before its multiplier. Moments are sums over all examples and
    positions of a backward pass; a layer that is used more than once adds up all uses.

    Attributes:
        diagonal: True if only the diagonal of `outputs` is needed.
        inputs: sum of h h^T, shape (K, I, I). A lookup's h has a single 1, so that its sum is a diagonal, (K, V).
        outputs: sum of g g^T, shape (K, O, O), or its diagonal (K, O).
        rows: number of examples times positions in the sums.
    """

    diagonal: bool = False
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    rows: int = 0

    def add(self, inputs: Tensor, gradients_KNO: Tensor) -> None:
        """Add the moments of one use of the layer.

        Args:
            inputs: moments of the inputs, as in the attribute.
            gradients_KNO: gradients in the layer's outputs, N being examples times positions.
        """
        g = gradients_KNO
        outputs = g.square().sum(dim=1) if self.diagonal else g.mT @ g
        self.inputs = inputs if self.inputs is None else self.inputs + inputs
        self.outputs = outputs if self.outputs is None else self.outputs + outputs
        self.rows += g.shape[1]

    def clear(self) -> None:
        """Reset the sums, for the next backward pass."""
        self.inputs, self.outputs, self.rows = None, None, 0


class Layer(nn.Module):
    """Module with one weight of a known role and an output multiplier.

    Attributes:
        start: initial value of the weights: "normal", whose spread a parameterization scales, or "zeros" or "ones".
        gradient: factor on the weights' gradient over the root of the rows that it sums, in addition to the effect of
            the multiplier; None leaves the gradient as it is.
        moments: moments that an optimizer has requested; filled by every backward pass.
        averaged, spread: values of this model, as in `Sizes`; their ratio to the base model's enters the rules.
    """

    def __init__(self, shape: tuple[int, ...], *, role: Role, fan_in: int, fan_out: int, start: str = "normal") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.role = role
        self.fan_in = fan_in
        self.fan_out = fan_out
        self.start = start
        self.multiplier: Scalar = 1.0
        self.averaged, self.spread = 1, 1.0
        self.gradient: Scalar | None = None
        self.moments: Moments | None = None

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """Return a trial's weight or gradient as matrices and vectors.

        An optimizer trains these views, which have at most two dimensions.
        """
        return [tensor.flatten(1) if tensor.dim() > 2 else tensor]

    def scaled_weight(self, rows: int) -> Tensor:
        """Return the weights with their gradient scaled for `rows` rows.

        Rows are examples times positions.
        """
        return self.weight if self.gradient is None else scale_bwd(self.weight, self.gradient * rows**-0.5)

    def record_moments(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y; record its moments in the backward pass if requested.

        y is this layer's output before the multiplier.
        """
        if self.moments is not None and y.requires_grad:
            y.register_hook(functools.partial(self._add_moments, x.detach()))  # type: ignore[no-untyped-call]
        return y

    def _add_moments(self, x: Tensor, gradient: Tensor) -> None:
        if self.moments is not None:
            x = x.to(self.weight.dtype) if x.is_floating_point() else x  # autocast has them narrower
            self.moments.add(self.input_moments(x), self.rows(gradient.to(self.weight.dtype)))

    def input_moments(self, x: Tensor) -> Tensor:
        """Return the sum over rows of h h^T, as in `Moments.inputs`."""
        raise NotImplementedError

    def rows(self, y: Tensor) -> Tensor:
        """Return outputs as (K, N, O), N being examples times positions."""
        return y.flatten(1, -2)


class Linear(Layer):
    """Linear layer x_K...I -> x_K...O, without bias.

    Attributes:
        backward: factor on the gradient of x, in addition to the multiplier.
    """

    def __init__(self, trials: int, fan_in: int, fan_out: int, *, role: Role, start: str = "normal") -> None:
        super().__init__((trials, fan_out, fan_in), role=role, fan_in=fan_in, fan_out=fan_out, start=start)
        self.backward: Scalar = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = linear(scale_bwd(x, self.backward), self.scaled_weight(x[0, ..., 0].numel()))
        return scale_fwd(self.record_moments(x, y), self.multiplier)

    def input_moments(self, x: Tensor) -> Tensor:
        h_KNI = x.flatten(1, -2)
        return h_KNI.mT @ h_KNI


def linear(x: Tensor, weight_KOI: Tensor) -> Tensor:
    """Multiply x_K...I by each trial's own matrix."""
    trials, fan_out, fan_in = weight_KOI.shape
    if trials == 1:
        return F.linear(x, weight_KOI.squeeze(0))  # its gradient is a view; that of an index is a copy into zeros
    return products(x.reshape(trials, -1, fan_in), weight_KOI).view(*x.shape[:-1], fan_out)


def products(x_KNI: Tensor, weight_KOI: Tensor) -> Tensor:
    """Multiply x by each trial's transposed weight: (K, N, O)."""
    return _Products.apply(*narrowed(x_KNI, weight_KOI))  # type: ignore[no-untyped-call, no-any-return]


def narrowed(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in autocast's type for products, where it is on.

    It serves operations that autocast does not know.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device) or weight.dtype != torch.float32:
        return x, weight
    narrow = torch.get_autocast_dtype(device)
    return x.to(narrow), weight.to(narrow)


class _Products(torch.autograd.Function):
    """Product x w^T whose weight gradient has the weight's memory layout.

    The gradient of torch.bmm has another one, so that all weights' gradients would be copied in every step.
    """

    @staticmethod
    def forward(ctx: Any, x_KNI: Tensor, weight_KOI: Tensor) -> Tensor:
        ctx.save_for_backward(x_KNI, weight_KOI)
        return torch.bmm(x_KNI, weight_KOI.mT)

    @staticmethod
    def backward(ctx: Any, gradient_KNO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_KNI, weight_KOI = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            torch.bmm(gradient_KNO, weight_KOI) if of_x else None,
            torch.bmm(gradient_KNO.mT, x_KNI) if of_weight else None,
        )


class Embedding(Layer):
    """Embedding of indices (...), shared by all trials, -> x_K...O.

    A lookup has fan-in 1: one row is read.
    """

    def __init__(self, trials: int, num_rows: int, fan_out: int) -> None:
        super().__init__((trials, num_rows, fan_out), role=Role.INPUT, fan_in=1, fan_out=fan_out)
        self.tied = False

    def forward(self, indices: Tensor) -> Tensor:
        trials, num_rows, fan_out = self.weight.shape
        offsets = torch.arange(trials, device=indices.device).view(-1, *[1] * indices.dim()) * num_rows
        y = F.embedding(indices + offsets, self.scaled_weight(indices.numel()).view(trials * num_rows, fan_out))
        return scale_fwd(self.record_moments(indices, y), self.multiplier)

    def input_moments(self, x: Tensor) -> Tensor:
        trials, num_rows, _ = self.weight.shape
        return torch.bincount(x.flatten(), minlength=num_rows).to(self.weight.dtype).expand(trials, num_rows)


class TiedReadout(nn.Module):
    """Readout that uses an embedding's weights, with an output layer's multiplier."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self._embedding = [embedding]  # a list hides it: the weights are the embedding's parameters, once
        embedding.tied = True
        self.fan_in = embedding.fan_out
        self.multiplier: Scalar = 1.0

    @property
    def embedding(self) -> Embedding:
        """Embedding whose weights the readout uses."""
        return self._embedding[0]

    def forward(self, x: Tensor) -> Tensor:
        return scale_fwd(linear(x, self.embedding.weight), self.multiplier)


class Conv2d(Layer):
    """Convolution x_B(KI)HW -> x_B(KO)HW, without bias.

    Its padding keeps the size at stride 1.
    """

    def __init__(self, trials: int, fan_in: int, fan_out: int, *, kernel: int, role: Role, stride: int = 1) -> None:
        shape = (trials, fan_out, fan_in, kernel, kernel)
        super().__init__(shape, role=role, fan_in=fan_in * kernel * kernel, fan_out=fan_out)
        self.kernel = kernel
        self.stride = stride
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        pixels = len(x) * math.prod(-(-side // self.stride) for side in x.shape[2:])
        y = F.conv2d(x, self.scaled_weight(pixels).flatten(0, 1), None, self.stride, self.padding, 1, len(self.weight))
        return scale_channels(self.record_moments(x, y), self.multiplier)

    def input_moments(self, x: Tensor) -> Tensor:
        h_KNI = self.rows(F.unfold(x, self.kernel, padding=self.padding, stride=self.stride))
        return h_KNI.mT @ h_KNI

    def rows(self, y: Tensor) -> Tensor:
        """Return B(KC)... as (K, N, C), N being images times pixels."""
        y_BKCN = y.reshape(len(y), len(self.weight), y.shape[1] // len(self.weight), -1)
        return y_BKCN.permute(1, 0, 3, 2).flatten(1, 2)


class Vector(Layer):
    """Gain or bias along the last axis of x_K...O."""

    def __init__(self, trials: int, size: int, *, role: Role = Role.VECTOR, start: str) -> None:
        super().__init__((trials, size), role=role, fan_in=1, fan_out=size, start=start)

    def forward(self, x: Tensor) -> Tensor:
        trials, size = self.weight.shape
        vector = scale_fwd(self.scaled_weight(x[0, ..., 0].numel()), self.multiplier).view(
            trials, *[1] * (x.dim() - 2), size
        )
        return x * vector if self.start == "ones" else x + vector


class Norm(nn.Module):
    """RMS norm over the last axis, with an optional gain.

    Gains harm transfer (arXiv:2404.05728).
    """

    def __init__(self, trials: int, size: int, *, gain: bool, role: Role = Role.VECTOR) -> None:
        super().__init__()
        self.gain = Vector(trials, size, role=role, start="ones") if gain else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        return y if self.gain is None else self.gain(y)


class Residual(nn.Module):
    """Branch of a residual stream.

    `add` returns skip * x + factor * branch(x). The parameterization sets all numbers. Every layer below counts as
    inside a block.

    Attributes:
        gradient: factor on gradients within the branch, undone where they leave it.
        recomputed: True if only the branch's input is kept, and the backward pass recomputes the branch from it.
    """

    attends: ClassVar[bool] = False
    """True for attention, which some parameterizations weight separately."""

    def __init__(self) -> None:
        super().__init__()
        self.factor: Scalar = 1.0
        self.skip: Scalar = 1.0
        self.gradient: Scalar = 1.0
        self.recomputed = False

    def add(self, x: Tensor) -> Tensor:
        """Return x_K... with the branch added."""
        return scale_fwd(x, self.skip) + self.share(x)

    def share(self, x: Tensor, by: Multiply = scale_fwd) -> Tensor:
        """Return the branch's contribution to the stream."""
        y = scale_bwd(self._branch(scale_bwd(x, 1 / self.gradient, by)), self.gradient, by)
        return by(y, self.factor)

    def _branch(self, x: Tensor) -> Tensor:
        if not (self.recomputed and torch.is_grad_enabled()):
            return self(x)  # type: ignore[no-any-return]
        return checkpoint(self, x, use_reentrant=False, context_fn=self._contexts)  # type: ignore[no-any-return]

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._buffers_kept()

    @contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        """Restore buffers, such as running means, after a recomputed pass."""
        before = [buffer.clone() for buffer in self.buffers()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, old in zip(self.buffers(), before, strict=True):
                    buffer.copy_(old)


@dataclass(frozen=True)
class Tagged:
    """Parameter with its layer.

    Attributes:
        inside: True if the parameter is inside a residual branch.
    """

    name: str
    weight: nn.Parameter
    layer: Layer
    inside: bool


def tagged(model: nn.Module) -> Iterator[Tagged]:
    """Yield every parameter with its layer.

    Raises:
        ConfigError: parameters without a Layer have no role; all are named.
    """
    owned = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, Layer)}
    branches = [name for name, module in model.named_modules() if isinstance(module, Residual)]
    unowned = [name for name, weight in model.named_parameters() if id(weight) not in owned]
    if unowned:
        raise ConfigError(
            f"parameters without a role: {', '.join(unowned)}; a layer of hptransfer/training/layers.py must own each"
        )
    for name, weight in model.named_parameters():
        inside = any(name.startswith(f"{branch}.") for branch in branches)
        yield Tagged(name, weight, owned[id(weight)], inside)


def layers_by_name(model: nn.Module) -> dict[str, Layer]:
    """Return every layer that owns a parameter, by name."""
    return {item.name.removesuffix(".weight"): item.layer for item in tagged(model)}


def draw(weight: Tensor, *, name: str, start: str, stds: Sequence[float], seeds: Sequence[int]) -> None:
    """Draw initial weights in place, trial by trial.

    Each (seed, parameter) has its own random stream, so that a trial starts from the same weights in every stack.
    """
    with torch.no_grad():
        if start != "normal":
            weight.fill_(1.0 if start == "ones" else 0.0)
            return
        for index, (seed, std) in enumerate(zip(seeds, stds, strict=True)):
            stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            values = torch.randn(weight.shape[1:], generator=stream) * std
            weight[index] = values.to(weight)


def to_device(model: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Move a stack to a device.

    The parameterization's numbers move too and keep their type.
    """
    model.to(device, dtype)
    for module in model.modules():
        vars(module).update({name: value.to(device) for name, value in _numbers(module).items()})


def _numbers(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's plain tensors: numbers of the parameterization, one per trial."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def keep(model: nn.Module, positions: Sequence[int]) -> None:
    """Drop all trials of a stack except those at `positions`."""
    index = torch.tensor(list(positions))

    def kept(value: Any) -> Any:
        return value[index.to(value.device)].clone() if isinstance(value, Tensor) else value

    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, kept(buffer))
        if isinstance(module, Layer):
            module.weight = nn.Parameter(kept(module.weight.detach()))
        vars(module).update({name: kept(value) for name, value in _numbers(module).items()})
