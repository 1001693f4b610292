"""Products of stacks with own gradients, against PyTorch's."""

from collections.abc import Callable

import torch
from torch import Tensor

from hptransfer.training.layers import products


def torchs_products(x_KNI: Tensor, weight_KOI: Tensor) -> Tensor:
    return torch.bmm(x_KNI, weight_KOI.mT)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def both(operation: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return outputs and gradients of a loss with different weights per output."""
    y = operation(*inputs)
    return y, *torch.autograd.grad((y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum(), inputs)


def test_outputs_and_gradients_are_pytorchs() -> None:
    inputs = random(3, 5, 4), random(3, 2, 4)
    for found, expected in zip(both(products, *inputs), both(torchs_products, *inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(products, inputs)
    assert torch.autograd.gradgradcheck(products, inputs)


def test_a_weights_gradient_lies_as_the_weight_does() -> None:
    """PyTorch's gradient has another layout and is copied."""
    inputs = random(3, 5, 4), random(3, 2, 4)
    assert both(products, *inputs)[2].is_contiguous()
    assert not both(torchs_products, *inputs)[2].is_contiguous()


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = random(3, 5, 4).detach(), random(3, 2, 4)
    products(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert x.grad is None


def test_under_autocast_products_are_as_narrow_as_pytorchs() -> None:
    inputs = random(3, 5, 4, dtype=torch.float32), random(3, 2, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = products(*inputs), torchs_products(*inputs)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(one.float().square().sum(), inputs) for one in (y, expected)]
    for found, wanted in zip(*gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
