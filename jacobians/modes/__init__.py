"""The mathematics: Jacobians by forward, reverse and mixed mode, in readable torch."""

from jacobians.modes.bracketing import Bracketing, optimal_bracketing
from jacobians.modes.factored import FactoredJacobian, factored
from jacobians.modes.forward import forward
from jacobians.modes.mixed import mixed
from jacobians.modes.reverse import reverse

__all__ = ["Bracketing", "FactoredJacobian", "factored", "forward", "mixed", "optimal_bracketing", "reverse"]
