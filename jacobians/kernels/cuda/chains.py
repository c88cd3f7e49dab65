"""The whole chain of a block of samples in one launch, in Triton.

Streams of a block stand one below the other as the rows of one matrix, (BN · S, K): for the pushed chain the value, D tangents and where it
is wanted the Laplacian; for the pulled chain P cotangents. A layer is one product with a weight that all programs read from the second
cache, and an elementwise step in registers; nothing between layers passes through memory but, for the pulled chain, the slopes.

Weights are read where they stand: `addresses` holds those of W_1, …, W_{L+1}, then of the biases, 0 for none; `widths` the sizes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jacobians.kernels.cuda.elementary import DOT, phi


@triton.jit
def _weight(addresses, widths, layer, K: tl.constexpr, UNPADDED: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Read W of a layer between hidden neurons, padded with zeros to (K, K): (in, out), or as it stands, (out, in).

    UNPADDED: all hidden layers have K neurons and their weights begin at multiples of 16 bytes, so that four numbers are read at once.
    """
    W = tl.load(addresses + layer).to(tl.pointer_type(tl.float32))
    i, o = tl.arange(0, K), tl.arange(0, K)
    if UNPADDED:
        W = tl.multiple_of(W, 16)
        if TRANSPOSED:
            return tl.load(W + o[None, :] * K + i[:, None])
        return tl.load(W + o[:, None] * K + i[None, :])
    n_in, n_out = tl.load(widths + layer), tl.load(widths + layer + 1)
    if TRANSPOSED:
        return tl.load(W + o[None, :] * n_in + i[:, None], mask=(o[None, :] < n_out) & (i[:, None] < n_in), other=0.0)
    return tl.load(W + o[:, None] * n_in + i[None, :], mask=(o[:, None] < n_out) & (i[None, :] < n_in), other=0.0)


@triton.jit
def _bias(addresses, widths, layer, layers, K: tl.constexpr):
    """Read the bias of a layer, zeros where there is none: said of each place, for the interpreter takes one truth for all as a number."""
    at = tl.load(addresses + layers + layer)
    o = tl.arange(0, K)
    return tl.load(at.to(tl.pointer_type(tl.float32)) + o, mask=(o < tl.load(widths + layer + 1)) & (o * 0 + at != 0), other=0.0)


@triton.jit
def _first(x, addresses, widths, layers, n, N, D: tl.constexpr, K: tl.constexpr, BN: tl.constexpr):
    """Return z of the first layer, (BN, K), and Σ(x - x), which is NaN where x is not finite."""
    W = tl.load(addresses).to(tl.pointer_type(tl.float32))
    o = tl.arange(0, K)
    z = tl.zeros((BN, K), tl.float32) + _bias(addresses, widths, 0, layers, K)[None, :]
    spoiled = tl.zeros((BN,), tl.float32)
    out = tl.load(widths + 1)
    if D <= 16:
        for d in range(D):
            at = tl.load(x + n * D + d, mask=n < N, other=0.0)
            z += at[:, None] * tl.load(W + o * D + d, mask=o < out, other=0.0)[None, :]
            spoiled += at - at
    else:
        for d0 in range(0, D, 32):
            i = d0 + tl.arange(0, 32)
            tile = tl.load(x + n[:, None] * D + i[None, :], mask=(n[:, None] < N) & (i[None, :] < D), other=0.0)
            Wt = tl.load(W + o[None, :] * D + i[:, None], mask=(o[None, :] < out) & (i[:, None] < D), other=0.0)
            z += tl.dot(tile, Wt, input_precision=DOT)
            spoiled += tl.sum(tile - tile, axis=1)
    return z, spoiled


@triton.jit
def pushed(
    x, weights, addresses, widths, y, J, laplacian, N, a, b, scale, a_out, b_out, scale_out,
    layers: tl.constexpr, D: tl.constexpr, P: tl.constexpr, K: tl.constexpr, UNPADDED: tl.constexpr, S: tl.constexpr, BN: tl.constexpr,
    TP: tl.constexpr, CODE: tl.constexpr, CODE_OUT: tl.constexpr, SECOND: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """Push value, tangents and with SECOND the Laplacian `Σ_d w_d ∂²/∂x_d²` of BN samples through all layers.

    Shapes: x (N, D), weights (D,) of the Laplacian, y (N, P), J (N, P, D), laplacian (N, P). S ≥ 1 + D (2 + D with SECOND) and K ≥ every
    hidden width are powers of two, TP is the width of a tile of outputs.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    stream = tl.arange(0, S)
    k = tl.arange(0, K)
    z, spoiled = _first(x, addresses, widths, layers, n, N, D, K, BN)
    W = tl.load(addresses).to(tl.pointer_type(tl.float32))
    tangent = (stream >= 1) & (stream <= D)
    # (S, K): row 1 + d is the tangent of z by x_d, the same for all samples
    first = tl.load(W + k[None, :] * D + (stream[:, None] - 1), mask=tangent[:, None] & (k[None, :] < tl.load(widths + 1)), other=0.0)
    by = tl.load(weights + stream - 1, mask=tangent, other=0.0) if SECOND else tl.zeros((S,), tl.float32)
    h, s, c = phi(z, a, b, scale, CODE)
    s += spoiled[:, None]
    X = tl.where(stream[None, :, None] == 0, h[:, None, :], s[:, None, :] * first[None, :, :])
    if SECOND:
        of_first = tl.sum(by[:, None] * first * first, axis=0)
        X = tl.where(stream[None, :, None] == D + 1, (c * of_first[None, :])[:, None, :], X)
    for layer in range(1, layers - 1):
        Z = tl.dot(tl.reshape(X, (BN * S, K)), _weight(addresses, widths, layer, K, UNPADDED, True), input_precision=DOT)
        Z = tl.reshape(Z, (BN, S, K))
        z = tl.sum(tl.where(stream[None, :, None] == 0, Z, 0.0), axis=1) + _bias(addresses, widths, layer, layers, K)[None, :]
        h, s, c = phi(z, a, b, scale, CODE)
        X = s[:, None, :] * Z
        if SECOND:
            squares = tl.sum(by[None, :, None] * Z * Z, axis=1)
            X += tl.where(stream[None, :, None] == D + 1, (c * squares)[:, None, :], 0.0)
        X = tl.where(stream[None, :, None] == 0, h[:, None, :], X)
    last = layers - 1
    W = tl.load(addresses + last).to(tl.pointer_type(tl.float32))
    at_bias = tl.load(addresses + layers + last)
    n_in = tl.load(widths + last)
    for p0 in range(0, P, TP):
        p = p0 + tl.arange(0, TP)
        Wp = tl.load(W + p[None, :] * n_in + k[:, None], mask=(p[None, :] < P) & (k[:, None] < n_in), other=0.0)
        Z_out = tl.reshape(tl.dot(tl.reshape(X, (BN * S, K)), Wp, input_precision=DOT), (BN, S, TP))
        bias = tl.load(at_bias.to(tl.pointer_type(tl.float32)) + p, mask=(p < P) & (p * 0 + at_bias != 0), other=0.0)
        z_out = tl.sum(tl.where(stream[None, :, None] == 0, Z_out, 0.0), axis=1) + bias[None, :]
        h_out, s_out, c_out = phi(z_out, a_out, b_out, scale_out, CODE_OUT)
        there = (n[:, None] < N) & (p[None, :] < P)
        if VALUE:
            tl.store(y + n[:, None] * P + p[None, :], h_out, mask=there)
        U = s_out[:, None, :] * Z_out
        at = J + n[:, None, None] * (P * D) + p[None, None, :] * D + (stream[None, :, None] - 1)
        tl.store(at, U, mask=there[:, None, :] & tangent[None, :, None])
        if SECOND:
            squares_out = tl.sum(by[None, :, None] * Z_out * Z_out, axis=1)
            q = tl.sum(tl.where(stream[None, :, None] == D + 1, U, 0.0), axis=1) + c_out * squares_out
            tl.store(laplacian + n[:, None] * P + p[None, :], q, mask=there)


@triton.jit
def pulled(
    x, addresses, widths, slopes, y, J, N, a, b, scale, a_out, b_out, scale_out,
    layers: tl.constexpr, D: tl.constexpr, P: tl.constexpr, K: tl.constexpr, UNPADDED: tl.constexpr, S: tl.constexpr, BN: tl.constexpr,
    TD: tl.constexpr, CODE: tl.constexpr, CODE_OUT: tl.constexpr, VALUE: tl.constexpr, EVALUATED: tl.constexpr,
):  # fmt: skip
    """Evaluate BN samples, keeping slopes in `slopes` (layers - 1, N, K), and pull S of the P cotangents back to x.

    Programs of one block of samples and other cotangents evaluate it each for itself, and write the same slopes. S is a power of two, TD
    the width of a tile of inputs; EVALUATED says whether the output layer is.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, K)
    z, spoiled = _first(x, addresses, widths, layers, n, N, D, K, BN)
    h, s, _ = phi(z, a, b, scale, CODE)
    row = n[:, None] * K + k[None, :]
    s += spoiled[:, None]
    tl.store(slopes + row, s, mask=n[:, None] < N)
    for layer in range(1, layers - 1):
        z = tl.dot(h, _weight(addresses, widths, layer, K, UNPADDED, True), input_precision=DOT)
        h, s, _ = phi(z + _bias(addresses, widths, layer, layers, K)[None, :], a, b, scale, CODE)
        tl.store(slopes + layer * N * K + row, s, mask=n[:, None] < N)
    tl.debug_barrier()  # slopes are read back by whichever thread holds that place
    last = layers - 1
    W = tl.load(addresses + last).to(tl.pointer_type(tl.float32))
    W1 = tl.load(addresses).to(tl.pointer_type(tl.float32))
    at_bias = tl.load(addresses + layers + last)
    n_in, n_first = tl.load(widths + last), tl.load(widths + 1)
    p = tl.program_id(1) * S + tl.arange(0, S)
    rows = tl.load(W + p[:, None] * n_in + k[None, :], mask=(p[:, None] < P) & (k[None, :] < n_in), other=0.0)
    C = rows[None, :, :] * s[:, None, :]  # (BN, S, K)
    if EVALUATED:
        bias = tl.load(at_bias.to(tl.pointer_type(tl.float32)) + p, mask=(p < P) & (p * 0 + at_bias != 0), other=0.0)
        z_out = tl.sum(rows[None, :, :] * h[:, None, :], axis=2) + bias[None, :]
        value, slope, _bend = phi(z_out, a_out, b_out, scale_out, CODE_OUT)
        C = C * slope[:, :, None]
        if VALUE:
            tl.store(y + n[:, None] * P + p[None, :], value, mask=(n[:, None] < N) & (p[None, :] < P))
    at_slopes = slopes + n[:, None, None] * K + k[None, None, :]  # in the layout of C: nothing is moved between threads
    for back in range(1, layers - 1):
        layer = layers - 1 - back
        C = tl.dot(tl.reshape(C, (BN * S, K)), _weight(addresses, widths, layer, K, UNPADDED, False), input_precision=DOT)
        C = tl.reshape(C, (BN, S, K)) * tl.load(at_slopes + (layer - 1) * N * K, mask=n[:, None, None] < N, other=0.0)
    for d0 in range(0, D, TD):
        d = d0 + tl.arange(0, TD)
        tile = tl.load(W1 + k[:, None] * D + d[None, :], mask=(k[:, None] < n_first) & (d[None, :] < D), other=0.0)
        out = tl.reshape(tl.dot(tl.reshape(C, (BN * S, K)), tile, input_precision=DOT), (BN, S, TD))
        at = J + n[:, None, None] * (P * D) + p[None, :, None] * D + d[None, None, :]
        tl.store(at, out, mask=(n[:, None, None] < N) & (p[None, :, None] < P) & (d[None, None, :] < D))


@triton.jit
def _add_tile(at, tile, rows, columns, n_columns, n_rows_there, n_columns_there):
    """Add a tile to a matrix of n_columns columns that begins at `at`."""
    there = (rows[:, None] < n_rows_there) & (columns[None, :] < n_columns_there)
    place = at + rows[:, None] * n_columns + columns[None, :]
    tl.store(place, tl.load(place, mask=there, other=0.0) + tile, mask=there)


@triton.jit
def _add_row(mine, offset, values, columns, n_columns):
    """Add to a bias, where there is one."""
    there = (columns < n_columns) & (columns * 0 + offset >= 0)
    place = mine + offset + columns
    tl.store(place, tl.load(place, mask=there, other=0.0) + values, mask=there)


@triton.jit
def _cotangent(y, target, n, p, N, P: tl.constexpr, LOSS: tl.constexpr, CLASSES: tl.constexpr):
    """Return the loss of each sample, unreduced, and its derivative by y, (BN, TP): 0 beyond N and P."""
    there = (n[:, None] < N) & (p[None, :] < P)
    if CLASSES:
        t = tl.where(p[None, :] == tl.load(target + n, mask=n < N, other=-1)[:, None], 1.0, 0.0)
    else:
        t = tl.load(target + n[:, None] * P + p[None, :], mask=there, other=0.0)
    if LOSS == 0:  # mse
        each, C = (y - t) * (y - t), 2.0 * (y - t)
    elif LOSS == 1:  # l1
        each, C = tl.abs(y - t), tl.where(y > t, 1.0, tl.where(y < t, -1.0, y - t))  # 0 at the kink, NaN where it is none
    elif LOSS == 2:  # bce_with_logits
        e = tl.exp(-tl.abs(y))
        each, C = tl.maximum(y, 0.0) - y * t + tl.log(1.0 + e), tl.where(y >= 0, 1.0, e) / (1.0 + e) - t
    else:  # cross_entropy
        z = tl.where(p[None, :] < P, y, float("-inf"))
        most = tl.max(z, axis=1)
        e = tl.exp(z - most[:, None])
        total = tl.sum(e, axis=1)
        weight = tl.sum(tl.where(there, t, 0.0), axis=1)  # of all classes: one, unless the target is no distribution
        each = t * (most[:, None] + tl.log(total)[:, None] - y)
        C = e / total[:, None] * weight[:, None] - t
    return tl.sum(tl.where(there, each, 0.0), axis=1), tl.where(there, C, 0.0)


@triton.jit
def differentiated(
    x, target, addresses, widths, offsets, kept, partial, N, blocks, size, factor, a, b, scale, a_out, b_out, scale_out,
    layers: tl.constexpr, D: tl.constexpr, P: tl.constexpr, K: tl.constexpr, UNPADDED: tl.constexpr, TP: tl.constexpr, BN: tl.constexpr,
    TD: tl.constexpr, CODE: tl.constexpr, CODE_OUT: tl.constexpr, LOSS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Evaluate blocks of BN samples, pull the cotangent of the loss back, and sum `∂L/∂W_l = C_lᵀ h_{l-1}` up, program by program.

    `kept` (2, layers - 1, N, K) takes values and slopes; `partial` (programs, size), zeros at first, the derivatives in the order of the
    parameters with the loss behind them; `offsets` says where each weight, then each bias begins (-1 for none). A program takes every
    so-manieth block, so its sums stay in the second cache, and nothing is added by two at once: the same call gives the same bits.
    """
    k, p = tl.arange(0, K), tl.arange(0, TP)
    mine = partial + tl.program_id(0) * size
    last = layers - 1
    slopes = kept + (layers - 1) * N * K
    W = tl.load(addresses + last).to(tl.pointer_type(tl.float32))
    at_bias = tl.load(addresses + layers + last)
    n_in, n_first = tl.load(widths + last), tl.load(widths + 1)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        n = block * BN + tl.arange(0, BN)
        row = n[:, None] * K + k[None, :]
        inside = (n[:, None] < N) & (k[None, :] < K)
        z, spoiled = _first(x, addresses, widths, layers, n, N, D, K, BN)
        h, s, _ = phi(z, a, b, scale, CODE)
        s += spoiled[:, None]
        tl.store(kept + row, h, mask=inside)
        tl.store(slopes + row, s, mask=inside)
        for layer in range(1, layers - 1):
            z = tl.dot(h, _weight(addresses, widths, layer, K, UNPADDED, True), input_precision=DOT)
            h, s, _ = phi(z + _bias(addresses, widths, layer, layers, K)[None, :], a, b, scale, CODE)
            tl.store(kept + layer * N * K + row, h, mask=inside)
            tl.store(slopes + layer * N * K + row, s, mask=inside)
        tl.debug_barrier()  # they are read back by whichever thread holds that place
        rows = tl.load(W + p[:, None] * n_in + k[None, :], mask=(p[:, None] < P) & (k[None, :] < n_in), other=0.0)
        bias = tl.load(at_bias.to(tl.pointer_type(tl.float32)) + p, mask=(p < P) & (p * 0 + at_bias != 0), other=0.0)
        z_out = tl.dot(h, tl.trans(rows), input_precision=DOT) + bias[None, :]
        y, slope, _bend = phi(z_out, a_out, b_out, scale_out, CODE_OUT)
        each, C_out = _cotangent(y, target, n, p, N, P, LOSS, CLASSES)
        C_out = tl.where((n[:, None] < N) & (p[None, :] < P), C_out * factor * slope, 0.0)
        at_loss = mine + size - 1
        tl.store(at_loss, tl.load(at_loss) + factor * tl.sum(each, axis=0))
        dW_out = tl.dot(tl.trans(C_out), h, input_precision=DOT)
        _add_tile(mine + tl.load(offsets + last), dW_out, p, k, n_in, P, n_in)
        _add_row(mine, tl.load(offsets + layers + last), tl.sum(C_out, axis=0), p, P)
        C = tl.dot(C_out, rows, input_precision=DOT) * s
        for back in range(1, layers - 1):
            layer = layers - 1 - back
            before = tl.load(kept + (layer - 1) * N * K + row, mask=inside, other=0.0)
            into, out = tl.load(widths + layer), tl.load(widths + layer + 1)
            dW = tl.dot(tl.trans(C), before, input_precision=DOT)
            _add_tile(mine + tl.load(offsets + layer), dW, k, k, into, out, into)
            _add_row(mine, tl.load(offsets + layers + layer), tl.sum(C, axis=0), k, out)
            C = tl.dot(C, _weight(addresses, widths, layer, K, UNPADDED, False), input_precision=DOT)
            C *= tl.load(slopes + (layer - 1) * N * K + row, mask=inside, other=0.0)
        for d0 in range(0, D, TD):
            d = d0 + tl.arange(0, TD)
            tile = tl.load(x + n[:, None] * D + d[None, :], mask=(n[:, None] < N) & (d[None, :] < D), other=0.0)
            dW_first = tl.dot(tl.trans(C), tile, input_precision=DOT)
            _add_tile(mine + tl.load(offsets), dW_first, k, d, D, n_first, D)
        _add_row(mine, tl.load(offsets + layers), tl.sum(C, axis=0), k, n_first)
        tl.debug_barrier()  # before the next block's sums are added in the same places


@triton.jit
def there_and_back(
    x, addresses, widths, offsets, kept, partial, N, blocks, size, factor, a, b, scale, a_out, b_out, scale_out,
    layers: tl.constexpr, D: tl.constexpr, P: tl.constexpr, K: tl.constexpr, UNPADDED: tl.constexpr, S: tl.constexpr, BN: tl.constexpr,
    TP: tl.constexpr, CODE: tl.constexpr, CODE_OUT: tl.constexpr,
):  # fmt: skip
    """Push value and tangents of BN samples through all layers, take the sum of squares of J times `factor`, and pull its derivative back.

    With X the rows that leave a layer and Z those that enter its activation, `Z_l = X_{l-1} W_lᵀ`, `X_l = φ'(z) Z_l` for tangents: back go
    `Z̄_d = φ' X̄_d` and `z̄ = φ' h̄ + φ'' Σ_d X̄_d Z_d`, and `∂L/∂W_l = Z̄_lᵀ X_{l-1}`. `kept` (layers - 1, N, S, K) takes Z; the rest is as in
    `differentiated`.
    """
    k, stream = tl.arange(0, K), tl.arange(0, S)
    value, tangent = stream[None, :, None] == 0, (stream >= 1) & (stream <= D)
    mine = partial + tl.program_id(0) * size
    last = layers - 1
    W = tl.load(addresses + last).to(tl.pointer_type(tl.float32))
    W1 = tl.load(addresses).to(tl.pointer_type(tl.float32))
    at_bias = tl.load(addresses + layers + last)
    n_in, n_first = tl.load(widths + last), tl.load(widths + 1)
    # (S, K): row 1 + d is the tangent of z by x_d, the same for all samples
    column = W1 + k[None, :] * D + (stream[:, None] - 1)
    first = tl.load(column, mask=tangent[:, None] & (k[None, :] < n_first), other=0.0)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        n = block * BN + tl.arange(0, BN)
        row = (n[:, None, None] * S + stream[None, :, None]) * K + k[None, None, :]
        inside = (n[:, None, None] < N) & (stream[None, :, None] < S) & (k[None, None, :] < K)
        z, spoiled = _first(x, addresses, widths, layers, n, N, D, K, BN)
        Z = tl.where(value, z[:, None, :], first[None, :, :])
        tl.store(kept + row, Z, mask=inside)
        h, s, c = phi(z, a, b, scale, CODE)
        s += spoiled[:, None]
        X = tl.where(value, h[:, None, :], s[:, None, :] * Z)
        for layer in range(1, layers - 1):
            Z = tl.dot(tl.reshape(X, (BN * S, K)), _weight(addresses, widths, layer, K, UNPADDED, True), input_precision=DOT)
            Z = tl.reshape(Z, (BN, S, K))
            z = tl.sum(tl.where(value, Z, 0.0), axis=1) + _bias(addresses, widths, layer, layers, K)[None, :]
            Z = tl.where(value, z[:, None, :], Z)
            tl.store(kept + layer * N * S * K + row, Z, mask=inside)
            h, s, c = phi(z, a, b, scale, CODE)
            X = tl.where(value, h[:, None, :], s[:, None, :] * Z)
        tl.debug_barrier()  # they are read back by whichever thread holds that place
        X_flat = tl.reshape(X, (BN * S, K))
        back_X = tl.zeros((BN * S, K), tl.float32)
        squares = tl.zeros((BN,), tl.float32)
        for p0 in range(0, P, TP):
            p = p0 + tl.arange(0, TP)
            rows = tl.load(W + p[:, None] * n_in + k[None, :], mask=(p[:, None] < P) & (k[None, :] < n_in), other=0.0)
            Z_out = tl.reshape(tl.dot(X_flat, tl.trans(rows), input_precision=DOT), (BN, S, TP))
            bias = tl.load(at_bias.to(tl.pointer_type(tl.float32)) + p, mask=(p < P) & (p * 0 + at_bias != 0), other=0.0)
            z_out = tl.sum(tl.where(value, Z_out, 0.0), axis=1) + bias[None, :]
            _y, s_out, c_out = phi(z_out, a_out, b_out, scale_out, CODE_OUT)
            there = (n[:, None, None] < N) & tangent[None, :, None] & (p[None, None, :] < P)
            J = tl.where(there, s_out[:, None, :] * Z_out, 0.0)
            squares += tl.sum(tl.sum(J * J, axis=2), axis=1)
            back_J = 2.0 * factor * J
            back_z = c_out * tl.sum(back_J * Z_out, axis=1)
            back_Z = tl.reshape(tl.where(value, back_z[:, None, :], s_out[:, None, :] * back_J), (BN * S, TP))
            dW_out = tl.dot(tl.trans(back_Z), X_flat, input_precision=DOT)
            _add_tile(mine + tl.load(offsets + last), dW_out, p, k, n_in, P, n_in)
            _add_row(mine, tl.load(offsets + layers + last), tl.sum(back_z, axis=0), p, P)
            back_X += tl.dot(back_Z, rows, input_precision=DOT)
        at_loss = mine + size - 1
        tl.store(at_loss, tl.load(at_loss) + factor * tl.sum(squares, axis=0))
        for back in range(1, layers - 1):
            layer = layers - 1 - back
            into, out = tl.load(widths + layer), tl.load(widths + layer + 1)
            back_X3 = tl.reshape(back_X, (BN, S, K))
            back_z = s * tl.sum(tl.where(value, back_X3, 0.0), axis=1) + c * tl.sum(tl.where(value, 0.0, back_X3 * Z), axis=1)
            back_Z = tl.reshape(tl.where(value, back_z[:, None, :], s[:, None, :] * back_X3), (BN * S, K))
            Z = tl.load(kept + (layer - 1) * N * S * K + row, mask=inside, other=0.0)
            h, s, c = phi(tl.sum(tl.where(value, Z, 0.0), axis=1), a, b, scale, CODE)
            X_flat = tl.reshape(tl.where(value, h[:, None, :], s[:, None, :] * Z), (BN * S, K))
            dW = tl.dot(tl.trans(back_Z), X_flat, input_precision=DOT)
            _add_tile(mine + tl.load(offsets + layer), dW, k, k, into, out, into)
            _add_row(mine, tl.load(offsets + layers + layer), tl.sum(back_z, axis=0), k, out)
            back_X = tl.dot(back_Z, _weight(addresses, widths, layer, K, UNPADDED, False), input_precision=DOT)
        s += spoiled[:, None]
        back_X3 = tl.reshape(back_X, (BN, S, K))
        back_z = s * tl.sum(tl.where(value, back_X3, 0.0), axis=1) + c * tl.sum(tl.where(value, 0.0, back_X3 * Z), axis=1)
        at_x = x + n[:, None] * D + (stream[None, :] - 1)
        x_d = tl.load(at_x, mask=(n[:, None] < N) & tangent[None, :], other=0.0)
        # W_1 is the tangents of the input itself, and what the value is multiplied by.
        dW_first = tl.sum(s[:, None, :] * back_X3 + x_d[:, :, None] * back_z[:, None, :], axis=0)
        place = mine + tl.load(offsets) + k[None, :] * D + (stream[:, None] - 1)
        mask = tangent[:, None] & (k[None, :] < n_first)
        tl.store(place, tl.load(place, mask=mask, other=0.0) + dW_first, mask=mask)
        _add_row(mine, tl.load(offsets + layers), tl.sum(back_z, axis=0), k, n_first)
        tl.debug_barrier()  # before the next block's sums are added in the same places
