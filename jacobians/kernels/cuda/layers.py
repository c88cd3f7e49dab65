"""One layer of a few rows in one launch, in Triton: products of a wide matrix and few vectors, at the speed at which the matrix is read.

Rows are those of samples, S to a sample: the value and behind it its tangents, or P cotangents. A weight is read once, by as many
programs as the card has room for, and what is elementwise is done in the same launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jacobians.kernels.cuda.elementary import DOT, phi


@triton.jit
def pushed_layer(
    X, W, bias, out, slopes, y, J, n_in, n_out, N, D, a, b, scale,
    S: tl.constexpr, BN: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
    CODE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, KEEP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Push the value and D tangents of N samples through BO neurons of a layer.

    Shapes: X (N, S, n_in), or x (N, D) in the FIRST layer, whose tangents are unit vectors; out (N, S, n_out), y (N, n_out) and
    J (N, n_out, D) in the LAST one instead; `slopes` (N, n_out) where they are to be KEPT. S > D and BN ≥ N are powers of two.
    """
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    row = tl.arange(0, BN * S)
    n, stream = row // S, row % S
    total = tl.zeros((BN * S, BO), tl.float32)
    for i0 in range(0, n_in, BI):
        i = i0 + tl.arange(0, BI)
        w = tl.load(W + o[:, None] * n_in + i[None, :], mask=(o[:, None] < n_out) & (i[None, :] < n_in), other=0.0)
        there = (n[:, None] < N) & (i[None, :] < n_in)
        if FIRST:
            x = tl.load(X + n[:, None] * n_in + i[None, :], mask=there & (stream[:, None] == 0), other=0.0)
            x += tl.where((stream[:, None] > 0) & (stream[:, None] - 1 == i[None, :]), 1.0, 0.0)
        else:
            x = tl.load(X + row[:, None] * n_in + i[None, :], mask=there & (stream[:, None] <= D), other=0.0)
        total += tl.sum(x[:, None, :] * w[None, :, :], axis=2)
    Z = tl.reshape(total, (BN, S, BO))
    streams, samples = tl.arange(0, S), tl.arange(0, BN)
    value = streams[None, :, None] == 0
    z = tl.sum(tl.where(value, Z, 0.0), axis=1)
    if BIAS:
        z += tl.load(bias + o, mask=o < n_out, other=0.0)[None, :]
    h, s, _bend = phi(z, a, b, scale, CODE)
    if FIRST:
        s += z - z  # NaN where x is not finite
    inside = (samples[:, None] < N) & (o[None, :] < n_out)
    if KEEP:
        tl.store(slopes + samples[:, None] * n_out + o[None, :], s, mask=inside)
    if LAST:
        tl.store(y + samples[:, None] * n_out + o[None, :], h, mask=inside)
        at = J + (samples[:, None, None] * n_out + o[None, None, :]) * D + (streams[None, :, None] - 1)
        tl.store(at, s[:, None, :] * Z, mask=inside[:, None, :] & (streams[None, :, None] >= 1) & (streams[None, :, None] <= D))
    else:
        at = out + (samples[:, None, None] * S + streams[None, :, None]) * n_out + o[None, None, :]
        tl.store(at, tl.where(value, h[:, None, :], s[:, None, :] * Z), mask=inside[:, None, :] & (streams[None, :, None] <= D))


@triton.jit
def pulled_layer(
    C, slopes, W, out, n_out, n_in, rows, P, parts, each,
    R: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Pull cotangents back through a layer: of `each` neurons of it, to BI neurons before it.

    Shapes: C (parts, rows, n_out) is a sum that is still to be taken, unit vectors in the FIRST call; `slopes` (N, n_out); out
    (programs along the neurons, rows, n_in) is such a sum again. A row is cotangent p of sample n, n P + p; R ≥ rows is a power of two.
    """
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    part = tl.program_id(1)
    row = tl.arange(0, R)
    total = tl.zeros((R, BI), tl.float32)
    for o0 in range(0, each, BO):
        o = part * each + o0 + tl.arange(0, BO)
        there = (row[:, None] < rows) & (o[None, :] < n_out)
        if FIRST:
            c = tl.where(row[:, None] % P == o[None, :], 1.0, 0.0)
        else:
            c = tl.zeros((R, BO), tl.float32)
            for before in range(parts):
                c += tl.load(C + (before * rows + row[:, None]) * n_out + o[None, :], mask=there, other=0.0)
        c *= tl.load(slopes + (row[:, None] // P) * n_out + o[None, :], mask=there, other=0.0)
        w = tl.load(W + o[:, None] * n_in + i[None, :], mask=(o[:, None] < n_out) & (i[None, :] < n_in), other=0.0)
        if R >= 16:  # left to itself, Triton makes a product of this sum from 16 rows on, and computes it in tf32
            total = tl.dot(c, w, total, input_precision=DOT)
        else:
            total += tl.sum(c[:, :, None] * w[None, :, :], axis=1)
    at = out + (part * rows + row[:, None]) * n_in + i[None, :]
    tl.store(at, total, mask=(row[:, None] < rows) & (i[None, :] < n_in))
