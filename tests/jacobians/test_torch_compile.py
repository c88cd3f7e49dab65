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


def test_it_refuses_an_empty_batch():
    assert jac.find_method("reverse:torch.compile").unsupported(jac.Problem(widths=(3, 2), batch=0)) == "vmap refuses an empty batch"
