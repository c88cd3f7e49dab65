"""The value y = f(x) alone: the unit in which automatic differentiation counts what a derivative costs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Prepare, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import sizes


def _cost(problem: Problem, mode: str) -> Cost:
    s = sizes(problem)
    flops = problem.N * 2 * (s.weights + s.neurons)
    return Cost(flops, problem.itemsize * (s.parameters + problem.N * (problem.D + problem.P)))


register_quantity(
    Quantity(
        "value",
        "Value",
        {"evaluation": "z_l = W_l h_{l-1} + b_l,  h_l = φ(z_l),  y = h_{L+1}"},
        _cost,
        lambda mlp, problem, inputs: (mlp(inputs[0]),),
        per_sample=True,
        relabelled=True,
        axes=(0,),
        call='(y,) = jac.plan(mlp, x, "{method}", quantity="value")(x)',
    )
)


def prepare_with(compiled: Callable[[MLP], Callable[[Tensor], Tensor]]) -> Prepare:
    """Make a method of a function of the network that returns a function of x."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        f = compiled(mlp)
        return Computation(lambda x: (None, (f(x),)))

    return prepare


readable("value/evaluation:eager", options=("steps",), summary="y = f(x), in torch")(prepare_with(lambda mlp: mlp))
