"""Losses: torch's values, autograd's derivatives, published formulas, and no overflow."""

import pytest
import torch
import torch.nn.functional as F

import jacobians as jac
from jacobians.network.losses import REDUCTIONS, RULES, loss_of
from jacobians.quantities.parameters import TORCH


def sample(name, shape=(7, 5), dtype=torch.float64, indices=False):
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(shape, generator=generator, dtype=dtype)
    if name == "bce":
        y = torch.sigmoid(y)
    if indices:
        return y, torch.randint(shape[-1], shape[:-1], generator=generator)
    target = torch.rand(shape, generator=generator, dtype=dtype)
    return y, target / target.sum(-1, keepdim=True) if name == "cross_entropy" else target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(7, 5), (5,), (1, 1)])
@pytest.mark.parametrize(("name", "indices"), [*((name, False) for name in RULES), ("cross_entropy", True)])
def test_value_and_cotangent_are_torchs(name, indices, shape, reduction):
    y, target = sample(name, shape, indices=indices)
    loss = jac.Loss(name, reduction, scale=0.5)
    leaf = y.clone().requires_grad_()
    exact = 0.5 * TORCH[name](leaf, target, reduction=reduction)
    torch.testing.assert_close(loss.value(y, target), exact.detach())
    (cotangent,) = torch.autograd.grad(exact.sum(), leaf)
    torch.testing.assert_close(loss.cotangent(y, target), cotangent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["bce_with_logits", "cross_entropy"])
def test_saturated_logits_do_not_overflow(name, dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 88.0]], dtype=dtype)
    target = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=dtype)
    loss = jac.Loss(name, "sum")
    assert torch.isfinite(loss.value(z, target))
    assert torch.isfinite(loss.cotangent(z, target)).all()
    torch.testing.assert_close(loss.value(z, target), TORCH[name](z, target, reduction="sum"))


def test_a_wrong_certainty_costs_a_hundred():
    y, target = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(jac.Loss("bce", "none").value(y, target), F.binary_cross_entropy(y, target, reduction="none"))
    assert torch.isfinite(jac.Loss("bce").cotangent(y, target)).all()


def test_at_the_kink_of_l1_the_slope_is_zero():
    assert jac.Loss("l1", "sum").cotangent(torch.zeros(2), torch.zeros(2)).tolist() == [0.0, 0.0]


class TestPublishedFormulas:
    """As the course works that this project grew from write them."""

    def test_mse_over_two(self):
        """`MSE = SSE / (2NC)`, with slope (y - t) / (NC)."""
        y, target = sample("mse")
        loss = jac.Loss("mse", scale=0.5)
        torch.testing.assert_close(loss.value(y, target), ((y - target) ** 2).sum() / (2 * y.numel()))
        torch.testing.assert_close(loss.cotangent(y, target), (y - target) / y.numel())

    def test_cross_entropy_with_softmax(self):
        """`∂L/∂z = (p - y) / N`."""
        z, target = sample("cross_entropy", indices=True)
        p, y = torch.softmax(z, -1), F.one_hot(target, 5).double()
        torch.testing.assert_close(jac.Loss("cross_entropy").cotangent(z, target), (p - y) / len(z))

    def test_binary_cross_entropy(self):
        """`∂L/∂ŷ = (ŷ - y) / (K ŷ (1 - ŷ))`."""
        y, target = sample("bce", (6,))
        torch.testing.assert_close(jac.Loss("bce").cotangent(y, target), (y - target) / (6 * y * (1 - y)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jac.Loss("mae"), ValueError, "unknown loss 'mae'; choose from mse, l1"),
        (lambda: jac.Loss(3), TypeError, "loss must be a name or a Loss"),
        (lambda: jac.Loss("mse", "avg"), ValueError, "unknown reduction 'avg'; choose from mean, sum, none"),
        (lambda: jac.Loss("mse", scale="2"), TypeError, "scale must be a number"),
        (lambda: jac.Loss("mse", scale=float("inf")), ValueError, "scale must be finite"),
        (lambda: jac.Loss("mse").value(torch.ones(2, 3), torch.ones(3)), ValueError, r"shape of y, \(2, 3\), got \(3,\)"),
        (lambda: jac.Loss("mse").value(torch.ones(2), torch.ones(2).double()), TypeError, "target must be torch.float32"),
        (lambda: jac.Loss("mse").value(torch.ones(2), [1, 2]), TypeError, "convert it with torch.as_tensor"),
        (lambda: jac.Loss("cross_entropy").value(torch.ones(2, 3), torch.tensor([0, 3])), ValueError, r"lie in 0 … 2, got 0 … 3"),
        (lambda: jac.Loss("cross_entropy").value(torch.ones(2, 3), torch.tensor([0])), ValueError, r"must have shape \(2,\)"),
        (lambda: jac.Loss("cross_entropy").value(torch.ones(2, 3), torch.tensor([0, 1]).int()), TypeError, "must be torch.int64"),
    ],
)
def test_bad_losses_and_targets(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_loss_is_itself_and_says_what_it_is():
    loss = jac.Loss("l1", "sum", 2)
    assert loss_of(loss) is loss
    assert repr(loss) == "Loss('l1', reduction='sum', scale=2)"
