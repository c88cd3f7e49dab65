"""`torch.compile` of the library's transforms: on few networks, for each takes seconds to compile."""

import pytest

import jacobians as jac
from tests import oracles
from tests.cases import network


@pytest.mark.parametrize(("method", "batch"), [("reverse:torch.compile", 5), ("forward:torch.compile", None)])
def test_the_peer_at_its_best_is_right_and_follows_the_weights(method, batch):
    mlp, x = network((3, 5, 2), batch=batch, bias=True)
    why_not = jac.find_method(method).unsupported(jac.Problem(widths=(3, 5, 2), batch=batch))
    if why_not:
        pytest.skip(why_not)
    plan = jac.plan(mlp, x, method, value=True)
    y, J = plan(x)
    assert oracles.relative_error(J, oracles.autograd(mlp, x)) < 1e-12
    assert oracles.relative_error(y, mlp(x)) < 1e-12
    assert not J.requires_grad
    mlp.weights[0].mul_(1.5)
    assert oracles.relative_error(plan(x)[1], oracles.autograd(mlp, x)) < 1e-12


@pytest.mark.long
def test_a_compiled_step_through_the_kernels_is_right_and_follows_the_weights():
    mlp, x = network((2, 5, 5, 1), batch=6, bias=True)
    problem = jac.Problem(widths=(2, 5, 5, 1), batch=6, quantity="laplacian_gradient")
    if why_not := jac.find_method("laplacian_gradient/forward:torch.compile").unsupported(problem):
        pytest.skip(why_not)
    directions = x.new_ones(1, 2)
    plan, plain = (
        jac.plan(mlp, x, name, quantity="laplacian_gradient", others=(directions,)) for name in ("forward:torch.compile", "forward:eager")
    )
    for _ in range(2):
        for found, expected in zip(plan(x, directions), plain(x, directions), strict=True):
            assert oracles.relative_error(found, expected) < 1e-12
        mlp.weights[0].mul_(1.5)
    assert "torch.compile" not in jac.plan(mlp, x, quantity="laplacian_gradient", others=(directions,)).method


def test_it_refuses_an_empty_batch():
    assert jac.find_method("reverse:torch.compile").unsupported(jac.Problem(widths=(3, 2), batch=0)) == "vmap refuses an empty batch"
