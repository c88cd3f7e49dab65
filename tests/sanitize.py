"""The kernels under a sanitizer: `make sanitize`. Runs itself again with the sanitizer's library loaded first.

python -m tests.sanitize address    # AddressSanitizer and UndefinedBehaviorSanitizer
python -m tests.sanitize narrow     # the same two on registers of 256 bits, where this processor has wider ones
python -m tests.sanitize thread     # ThreadSanitizer, over the pool of threads
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

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
]


def main() -> int:
    """Run the check of the kind named on the command line.

    Returns:
        The exit status.
    """
    kind = sys.argv[1]
    library, names, flags = KINDS[kind]
    if os.environ.get("JACOBIANS_SANITIZED") != kind:
        path = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout.strip()
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
    from jacobians.kernels.native import gradient, jet, program, runner, tangent_kernel
    from tests.cases import network
    from tests.jacobians import test_second_order as second
    from tests.jacobians.test_quantity_methods import NATIVE, check

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
    jet.FEWEST_OPERATIONS = 1
    for jet.SUM_BYTES in (0, 2**18):  # a sum for each thread, and one for each slot
        for widths, N in (((3, 31, 33, 2), 33), ((30, 65, 64, 1), 130), ((5, 7), 70), ((1, 16, 16, 16, 1), 700)):
            for dtype in (torch.float32, torch.float64):
                for method in second.NATIVE:
                    second.check(method, *network(widths, batch=N, bias=True, dtype=dtype))


if __name__ == "__main__":
    sys.exit(main())
