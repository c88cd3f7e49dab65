"""Hypothesis: any shape, dtype, stride and weight scale."""

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jacobians as jac
from tests import oracles
from tests.cases import ACTIVATIONS, OURS, TOLERANCE

# In float32 a kink or a steep function would turn rounding into a real difference; exp of exp of exp overflows.
SMOOTH = ("tanh", "sigmoid", "softplus", "gelu", "silu", "softsign", "identity")
ACTIVATIONS_OF = {torch.float32: SMOOTH, torch.float64: tuple(name for name in ACTIVATIONS if name != "exp")}
widths = st.lists(st.integers(1, 12), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    widths=widths,
    batch=st.one_of(st.none(), st.integers(0, 7)),
    kind=st.sampled_from(list(TOLERANCE)).flatmap(
        lambda dtype: st.tuples(st.just(dtype), st.sampled_from(ACTIVATIONS_OF[dtype]), st.sampled_from(ACTIVATIONS_OF[dtype]))
    ),
    layout=st.sampled_from(["contiguous", "sliced", "strided", "transposed", "expanded"]),
    init=st.sampled_from(["xavier", "orthogonal"]),
    method=st.sampled_from(OURS),
    seed=st.integers(0, 1000),
)
def test_any_problem(widths, batch, kind, layout, init, method, seed):
    dtype, activation, output = kind
    mlp = jac.MLP.random(widths=widths, activation=activation, output_activation=output, bias=True, init=init, seed=seed, dtype=dtype)
    drawn = torch.randn(*(() if batch is None else (batch,)), widths[0], dtype=dtype, generator=torch.Generator().manual_seed(seed))
    x = lay_out(drawn, layout)
    copy = x.clone()
    J = jac.jacobian(mlp, x, method=method)
    exact = oracles.autograd(mlp, x)
    assert J.shape == exact.shape
    scale = torch.linalg.vector_norm(exact)
    # The slope 1 - y² of a saturated output is rounded as 1 is, however small it comes out.
    rounding = torch.finfo(dtype).eps * math.prod(float(torch.linalg.vector_norm(W.double())) for W in mlp.weights)
    assert torch.linalg.vector_norm(J.double() - exact) <= TOLERANCE[dtype] * scale + rounding
    assert torch.equal(x, copy)


def lay_out(x, layout):
    """The same numbers in memory that is not contiguous."""
    if layout == "sliced":
        return torch.cat([x, x], dim=-1)[..., : x.shape[-1]]
    if layout == "strided":
        return torch.stack([x, x], dim=-1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return x.mT.contiguous().mT if x.ndim == 2 else x.clone()
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x
