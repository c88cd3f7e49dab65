"""The kernels under a sanitizer: `make sanitize`. Runs itself again with the sanitizer's library loaded first.

python -m tests.sanitize address    # AddressSanitizer and UndefinedBehaviorSanitizer
python -m tests.sanitize narrow     # the same two on registers of 256 bits, where this processor has wider ones
python -m tests.sanitize thread     # ThreadSanitizer, over the pool of threads
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Any

KINDS = {
    "address": ("libasan.so", "address,undefined", ()),
    "narrow": ("libasan.so", "address,undefined", ("-mno-avx512f",)),
    "thread": ("libtsan.so", "thread", ()),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1",
    "OMP_NUM_THREADS": "1",  # torch's own threads are not what is looked at
}
SHAPES = [
    ((1, 1), None),
    ((7, 31, 33, 65), None),
    ((65, 33, 31, 7), 33),
    ((300, 301, 299, 2), None),
    ((2, 130, 129, 40), 70),
    ((12, 20, 2, 20, 12), 5),
    ((9, 300, 512, 310, 15), 21),
    ((512, 300, 7), 3),
]


def main() -> int:
    """Run the check of the kind named on the command line.

    Returns:
        The exit status.
    """
    kind = sys.argv[1]
    library, names, flags = KINDS[kind]
    if os.environ.get("JACOBIANS_SANITIZED") != kind:
        # Beside the library of C++: AddressSanitizer looks for `__cxa_throw` as it starts, and ends at torch's first exception else.
        ask = lambda name: subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout  # noqa: E731
        path = " ".join(ask(name).strip() for name in (library, "libstdc++.so.6"))
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, **OPTIONS, "LD_PRELOAD": path, "JACOBIANS_SANITIZED": kind, "JACOBIANS_CACHE": cache}
            return subprocess.run([sys.executable, "-m", "tests.sanitize", kind], env=environment, check=False).returncode
    _check(names, flags)
    print(f"{kind}: nothing found")
    return 0


def _check(names: str, flags: tuple[str, ...]) -> None:
    from jacobians.kernels.native import compiler

    os.environ.pop("LD_PRELOAD")  # not for the compiler
    compiler.FLAGS = (
        *(flag for flag in compiler.FLAGS if flag != "-O3"),
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        f"-fsanitize={names}",
        *flags,
    )
    import torch

    import jacobians as jac
    from jacobians.kernels.native import gradient, input_derivatives, program, runner, tangent_kernel
    from tests.cases import network
    from tests.jacobians import test_second_order as second
    from tests.jacobians.test_quantity_methods import NATIVE, check

    compiler.library().use_team(None, None, None)  # the pool, not what GNU compiled without the sanitizer
    torch.set_num_threads(4)
    program.FEWEST_OPERATIONS = program.FEWEST_BYTES = 1  # threads at every size
    for widths, batch in SHAPES:
        for dtype in (torch.float32, torch.float64):
            mlp, x = network(widths, batch=batch, dtype=dtype, bias=True, output_activation="sigmoid")
            exact = jac.jacobian(mlp, x, "reverse:eager")
            for mode in ("forward", "reverse", "mixed"):
                for lean in (False, True):
                    problem = jac.planning.plan.problem_of(mlp, x)
                    for _ in range(3):
                        _, J = runner.Runner(mlp, mode, problem, value=True, lean=lean)(x)
                    torch.testing.assert_close(J, exact, rtol=1e-4, atol=1e-5)
    gradient.FEWEST_OPERATIONS = gradient.FEWEST_BYTES = tangent_kernel.FEWEST_OPERATIONS = 1
    for gradient.TOGETHER_BYTES in (0, 2**60):
        for widths, N in (((7, 31, 33, 5), 1), ((65, 33, 31, 7), 33), ((3, 130, 4), 130), ((4, 3), 70)):
            for method in NATIVE:
                for loss in ("mse", "cross_entropy", "bce_with_logits"):
                    check(method, widths, N, jac.Loss(loss))
    input_derivatives.FEWEST_OPERATIONS = 1
    for input_derivatives.SUM_BYTES in (0, 2**18):  # a sum for each thread, and one for each slot
        for widths, N in (((3, 31, 33, 2), 33), ((30, 65, 64, 1), 130), ((5, 7), 70), ((1, 16, 16, 16, 1), 700)):
            for dtype in (torch.float32, torch.float64):
                for method in second.NATIVE:
                    second.check(method, *network(widths, batch=N, bias=True, dtype=dtype))
    for widths in ((5, 3), (5, 33, 17, 3)):
        _hostile(jac, torch, widths)


def _hostile(jac: Any, torch: Any, widths: tuple[int, ...]) -> None:
    """Call every public function with sizes, strides, dtypes and tensors that do not fit: answered or refused, nothing is read beyond."""
    D, P = widths[0], widths[-1]
    mlp = jac.MLP.random(widths=widths, bias=True)
    x = torch.randn(6, D)
    given = [x, x[0], x[:0], x[:1].expand(6, D), x.T.contiguous().T, x[::2], x.flip(0), torch._neg_view(x), x * 1e38, x * torch.nan]
    given += [
        x.double(),
        x.half(),
        x.long(),
        torch.randn(6, D + 1),
        torch.randn(6, D - 1),
        torch.randn(2, 3, D),
        torch.randn(6, D, device="meta"),
    ]
    targets = [
        torch.randn(6, P),
        torch.randn(1, P),
        torch.randn(6, P).T.contiguous().T,
        torch.zeros(6).long(),
        torch.full((6,), 99),
        torch.full((6,), -1),
    ]
    targets += [torch.randn(6, P + 1), torch.randn(6, P).double(), torch.randn(0, P), torch.randn(1, P).expand(6, P)]
    ones = [torch.ones_like(W) for W in mlp.parameters()]
    calls = [
        lambda t, f=f: f(mlp, t)
        for f in (jac.value_and_jacobian, jac.laplacian, jac.hessian, jac.hessian_diagonal, jac.jacobian_loss, jac.ntk)
    ]
    calls += [lambda t, m=m.name: jac.jacobian(mlp, t, m) for m in jac.methods("*:native")]
    calls += [
        lambda t: jac.jacobian(mlp, t, create_graph=True),
        lambda t: jac.jacobian(mlp, t, max_bytes=2**24),
        lambda t: jac.ntk(mlp, x, t),
    ]
    calls += [lambda t, f=f, v=v: f(mlp, t, v) for f in (jac.jvp, jac.vjp, jac.hvp) for v in (*given[:8], *targets)]
    for loss in ("mse", "l1", "cross_entropy", "bce_with_logits"):
        for target in targets:
            for f in (jac.gradient, jac.per_sample_gradients, jac.per_sample_gradient_norms):
                calls.append(lambda t, f=f, target=target, loss=loss: f(mlp, t, target, loss))
            for v in (ones, ones[::-1], ones[:1]):
                calls.append(lambda t, target=target, loss=loss, v=v: jac.ggn_product(mlp, t, target, loss, v))
    for weights in ([], [1.0], [1.0] * D, torch.ones(2, D), torch.ones(2, D - 1), torch.ones(D).double()):
        calls.append(lambda t, w=weights: jac.laplacian(mlp, t, weights=w))
    answered = 0
    for call in calls:
        for t in given:
            with contextlib.suppress(TypeError, ValueError, IndexError, RuntimeError, NotImplementedError):
                call(t)
                answered += 1
    print(f"{len(calls) * len(given)} calls with hostile inputs, {answered} answered", flush=True)


if __name__ == "__main__":
    sys.exit(main())
