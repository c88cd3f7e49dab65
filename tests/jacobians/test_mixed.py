"""Mixed mode: the optimal order, carried out, and factored Jacobians."""

import pytest
import torch

import jacobians as jac
from jacobians.modes.bracketing import PER_SAMPLE, multiply_adds, optimal_bracketing
from tests import oracles
from tests.cases import TOLERANCE, WIDTHS, for_each, network, pairs


def brute_force(widths, batched, first=1, last=None):
    """The least cost over every tree of splits and both sides of every scaling, by plain recursion."""
    last = len(widths) - 1 if last is None else last
    if first == last:
        return 0
    rows, columns = widths[last], widths[first - 1]
    costs = []
    for at in range(first, last):
        parts = brute_force(widths, batched, first, at) + brute_force(widths, batched, at + 1, last)
        for scales_left in (True, False):
            shared = at == first if scales_left else at == last - 1  # the part that is not scaled is a single weight
            rate = PER_SAMPLE if batched and not shared else 1
            costs.append(parts + widths[at] * (rate * rows * columns + (rows if scales_left else columns)))
    return min(costs)


def cost_of(tree, widths, batched):
    """The cost of a tree, counted anew from its definition."""
    if tree is None:
        return 0
    rows, inner, columns = widths[tree.last], widths[tree.at], widths[tree.first - 1]
    shared = (tree.right if tree.scales_left else tree.left) is None
    rate = PER_SAMPLE if batched and not shared else 1
    own = inner * (rate * rows * columns + (rows if tree.scales_left else columns))
    return own + cost_of(tree.left, widths, batched) + cost_of(tree.right, widths, batched)


class TestBracketing:
    @pytest.mark.parametrize("batched", [False, True])
    @pytest.mark.parametrize("length", range(1, 9))
    def test_no_tree_is_cheaper(self, length, batched):
        generator = torch.Generator().manual_seed(length)
        for _ in range(12 if length < 7 else 4):
            widths = torch.randint(1, 30, (length + 1,), generator=generator).tolist()
            best = optimal_bracketing(widths, batched=batched)
            assert cost_of(best.tree, widths, batched) == brute_force(widths, batched)

    def test_a_bottleneck_saves_more_than_ten_times(self):
        widths = [256, 512, 8, 512, 256]
        one_mode = min(256 * (512 * 8 + 8 * 512 + 512 * 256), 256 * (256 * 512 + 512 * 8 + 8 * 512))
        best = optimal_bracketing(widths)
        assert best.mode == "mixed"
        assert 10 * best.multiply_adds < one_mode

    @pytest.mark.parametrize(
        ("widths", "mode"),
        [
            ([9, 9], "reverse"),
            ([1000, 1000, 1000, 1], "reverse"),
            ([1, 1000, 1000, 1000], "forward"),
            ([5] * 6, "reverse"),
            ([4, 9, 9, 30], "forward"),
        ],
    )
    @pytest.mark.parametrize("batched", [False, True])
    def test_the_two_modes_are_two_of_its_orders(self, widths, mode, batched):
        assert optimal_bracketing(widths, batched=batched).mode == mode

    def test_counts_by_hand(self):
        best = optimal_bracketing([2, 3, 5])
        assert best.multiply_adds == 5 * 3 * 2 + 3 * 2  # W_2 (S_1 W_1)
        assert multiply_adds(best.tree, [2, 3, 5], scaled=False) == 30

    def test_equal_segments_are_solved_alike(self):
        """The shortcut for repeated widths must not change the answer: the same chain, all widths made different by little."""
        uniform = optimal_bracketing([40, *[1000] * 12, 30])
        nearly = optimal_bracketing([40, *[1000 + i for i in range(12)], 30])
        assert uniform.mode == nearly.mode == "reverse"
        assert uniform.multiply_adds == pytest.approx(nearly.multiply_adds, rel=0.02)


class TestMixed:
    def test_is_the_mode_that_is_optimal(self):
        for widths, mode in (((1000, 50, 50, 1), jac.reverse), ((1, 50, 50, 1000), jac.forward)):
            mlp, x = network(widths)
            assert torch.equal(jac.mixed(mlp, x)[1], mode(mlp, x)[1])

    def test_bottlenecks(self):
        def check(widths, batch, output, activation):
            mlp, x = network(widths, batch=batch, activation=activation, output_activation=output, bias=True)
            assert optimal_bracketing(widths, batched=batch is not None).mode == "mixed" or len(widths) == 3
            y, J = jac.value_and_jacobian(mlp, x, "mixed")
            assert oracles.relative_error(J, oracles.autograd(mlp, x)) < 1e-12
            torch.testing.assert_close(y, mlp(x))

        shapes = (12, 20, 2, 20, 12), (9, 3, 11, 2, 13, 10), (30, 1, 30), (8, 8, 2, 8, 2, 8, 8)
        for_each(pairs(shapes, [None, 0, 1, 7], ["identity", "sigmoid"], ["tanh", "identity", "relu"]), check)

    def test_auto_takes_it_where_it_saves(self):
        mlp = jac.MLP.random(widths=(256, 512, 8, 512, 256))
        assert jac.plan(mlp, torch.ones(256)).method.startswith("mixed:")


class TestFactored:
    def test_products(self):
        def check(widths, batch, dtype):
            mlp, x = network(widths, batch=batch, dtype=dtype, bias=True, output_activation="tanh")
            J = jac.jacobian(mlp, x, factored=True)
            exact = oracles.autograd(mlp, x)
            r = min(widths[1:-1])
            assert (J.A.shape[-1], J.B.shape[-2], J.shape) == (r, r, tuple(exact.shape))
            assert oracles.relative_error(J.dense(), exact) < TOLERANCE[dtype]
            v, u = torch.randn(*x.shape, dtype=dtype), torch.randn(*x.shape[:-1], mlp.P, dtype=dtype)
            assert oracles.relative_error(J @ v, (exact @ v.double()[..., None]).squeeze(-1)) < 10 * TOLERANCE[dtype]
            assert oracles.relative_error(u @ J, (u.double()[..., None, :] @ exact).squeeze(-2)) < 10 * TOLERANCE[dtype]

        for_each(pairs([w for w in WIDTHS.values() if len(w) > 2], [None, 0, 1, 5], TOLERANCE), check)

    def test_several_at_once(self):
        mlp, x = network((6, 9, 2, 9, 5))
        J = jac.jacobian(mlp, x, factored=True)
        V, U = torch.randn(6, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
        torch.testing.assert_close(J @ V, J.dense() @ V)
        torch.testing.assert_close(U @ J, U @ J.dense())

    def test_the_factors_are_the_callers_own(self):
        mlp, x = network((6, 3, 5))
        before = [W.clone() for W in mlp.weights]
        J = jac.jacobian(mlp, x, factored=True)
        J.A.zero_()
        J.B.zero_()
        assert all(torch.equal(a, b) for a, b in zip(before, mlp.weights, strict=True))

    def test_differentiable(self):
        mlp, x = network((4, 6, 2, 6, 3))
        x.requires_grad_()
        J = jac.jacobian(mlp, x, factored=True, create_graph=True)
        (J @ torch.ones(4, dtype=torch.float64)).sum().backward()
        assert x.grad.abs().sum() > 0

    def test_refuses(self):
        mlp, x = network((4, 6, 3))
        with pytest.raises(ValueError, match="factored=True is computed by mixed mode, got method='forward'"):
            jac.jacobian(mlp, x, "forward", factored=True)
        mlp, x = network((4, 3))
        with pytest.raises(ValueError, match="without hidden layers has nothing to factor through"):
            jac.jacobian(mlp, x, factored=True)
