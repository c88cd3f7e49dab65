/* Laplacians, Hessians, and the pullback through them and through a Jacobian to the parameters. The derivation stands in docs/maths.md.
 *
 * A batch is taken in blocks, numbers of one neuron side by side, one sample a lane, as everywhere. Of each layer the value h and the
 * derivatives s = φ'(z), c = φ''(z), t = φ'''(z) are kept; what is pushed or pulled is
 *
 *   tangents      U^d = ∂z/∂x_d,   T^d = s U^d                            pushed, one d after the other
 *   Laplacians    r^m = Σ_d w_md ∂²z/∂x_d²,   q^m = c Σ_d w_md (U^d)² + s r^m      pushed behind all tangents
 *   cotangents    A_p = ∂y_p/∂h,   B_p = s A_p                            pulled, one p after the other
 *
 * and the way back gathers what reaches s and c before the value itself is pulled back:
 *
 *   ∂L/∂z = s ∂L/∂h + c ∂L/∂s + t ∂L/∂c
 *
 * The blocks are cut into slots that threads take as they come, each with a sum of its own for the derivatives by the parameters, in rows
 * padded to whole vectors: a result is the same whoever computed which slot.
 */

typedef struct {
    const SecondOrder *layout;
    const REAL *const *weight, *const *bias;
    const REAL *x, *directions;     /* directions: w, one row a Laplacian */
    REAL *y, *J, *laplacian, *hessian; /* results, each of which may be null */
    const REAL *gy, *gJ, *gl;       /* cotangents of y, J and the Laplacians, each of which may be null */
    REAL *out, *gx;                 /* derivatives by the parameters one behind the other, and by x; either may be null */
    const REAL *target;             /* of J, for the loss of a Jacobian; null for zero */
    REAL *kept;                     /* of all blocks: what a push leaves for the way back, or null */
    double *losses;                 /* of each slot */
    REAL *sums, *work;              /* of each slot; of each thread */
    atomic_long next;               /* the next slot */
} NAME(SecondOrderCall);

/* The lanes of a block in memory: places are numbers of the first array, one behind the other, `side` lanes each. */
typedef struct {
    const NAME(SecondOrderCall) * call;
    const SecondOrder *p;
    int64_t first, count, side;
    REAL *x;                   /* D */
    REAL *h, *s, *c, *t;       /* of each neuron */
    REAL *U;                   /* of each neuron and each tangent that is kept */
    REAL *squares, *r, *gq;    /* of each neuron and each Laplacian: Σ_d w_d (U^d)², r, ∂L/∂q */
    REAL *gs, *gc;             /* ∂L/∂s, ∂L/∂c */
    REAL *A;                   /* of each neuron */
    REAL *carried[2], *turned; /* of the widest layer; turned: a row a sample */
    REAL *sum;                 /* derivatives by the parameters, of this thread */
    double loss;
} NAME(SecondOrderBlock);

INLINE int64_t NAME(padded)(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* Place a block: what a push may leave for the way back in `kept`, the rest in `work`; what a kind of call does not need is not there.
 * Returns the numbers it takes in `work`, and in *leaves those of what may be kept. */
static int64_t NAME(place_block)(const NAME(SecondOrderCall) * call, REAL *kept, REAL *work, int64_t count, NAME(SecondOrderBlock) * b, int64_t *leaves) {
    const SecondOrder *p = call->layout;
    int64_t side = NAME(lanes_for)(count), all = p->numbers * side, M = p->laplacians;
    int back = p->kind == SECOND_ORDER_BACK_FORWARD || p->kind == SECOND_ORDER_BACK_REVERSE;
    *b = (NAME(SecondOrderBlock)){.call = call, .p = p, .count = count, .side = side};
    REAL *at = p->keeps ? kept : work;
#define PLACE(name, size) b->name = at, at += (size)
    PLACE(x, p->widths[0] * side);
    PLACE(h, all);
    PLACE(s, all);
    PLACE(c, all);
    if (p->kind != SECOND_ORDER_BACK_REVERSE) PLACE(U, all * (p->kind == SECOND_ORDER_PUSH && !p->keeps ? 1 : p->widths[0]));
    if (M) {
        PLACE(squares, all * M);
        PLACE(r, all * M);
        if (back || p->keeps) PLACE(t, all);
    }
    *leaves = at - (p->keeps ? kept : work);
    if (p->keeps) at = work;
    PLACE(carried[0], p->widest * side);
    PLACE(carried[1], p->widest * side);
    if (p->kind == SECOND_ORDER_BACK_REVERSE || p->kind == SECOND_ORDER_HESSIAN) PLACE(A, all);
    if (p->kind == SECOND_ORDER_HESSIAN) PLACE(turned, (int64_t)p->widths[0] * p->widths[0] * side);
    if (back) {
        PLACE(gs, all);
        PLACE(turned, NAME(padded)(p->widest) * side);
        if (M) {
            PLACE(gq, all * M);
            PLACE(gc, all);
        }
    }
#undef PLACE
    return at - work;
}

/* Numbers from rows of `width`, `stride` apart with `step` between the numbers of a row, to lanes; lanes without a sample get zeros. */
static void NAME(to_lanes)(const NAME(SecondOrderBlock) * b, const REAL *rows, int64_t stride, int64_t step, int64_t width, REAL *lanes) {
    int64_t side = b->side;
    if (b->count < side) memset(lanes, 0, width * side * sizeof(REAL));
    if (step == 1 && b->count == side && width >= LANES) {
        for (int64_t i = 0; i + LANES <= width; i += LANES)
            for (int64_t q = 0; q < side; q += LANES) {
                VECTOR v[LANES];
                UNROLL for (int k = 0; k < LANES; k++) v[k] = NAME(load)(rows + (q + k) * stride + i);
                NAME(transpose)(v);
                UNROLL for (int k = 0; k < LANES; k++) NAME(store)(lanes + (i + k) * side + q, v[k]);
            }
        for (int64_t i = width / LANES * LANES; i < width; i++)
            for (int64_t s = 0; s < side; s++) lanes[i * side + s] = rows[s * stride + i];
        return;
    }
    for (int64_t i0 = 0; i0 < width; i0 += LANES)
        for (int64_t s = 0; s < b->count; s++)
            for (int64_t i = i0; i < i0 + LANES && i < width; i++) lanes[i * side + s] = rows[s * stride + i * step];
}

static void NAME(from_lanes)(const NAME(SecondOrderBlock) * b, const REAL *lanes, int64_t width, REAL *rows, int64_t stride, int64_t step) {
    for (int64_t i0 = 0; i0 < width; i0 += LANES)
        for (int64_t s = 0; s < b->count; s++)
            for (int64_t i = i0; i < i0 + LANES && i < width; i++) rows[s * stride + i * step] = lanes[i * b->side + s];
}

/* Lanes of `width` neurons, times those of `by` where it is not null, to rows of samples, padded to whole vectors with zeros. */
INLINE void NAME(turn_times)(const NAME(SecondOrderBlock) * b, const REAL *lanes, const REAL *by, int64_t width) {
    int64_t side = b->side, ld = NAME(padded)(width);
    for (int64_t q = 0; q < side; q += LANES)
        for (int64_t i = 0; i < width; i += LANES) {
            VECTOR v[LANES];
            if (i + LANES <= width) {
                UNROLL for (int k = 0; k < LANES; k++) v[k] = NAME(load)(lanes + (i + k) * side + q);
                if (by) UNROLL for (int k = 0; k < LANES; k++) v[k] *= NAME(load)(by + (i + k) * side + q);
            } else
                for (int k = 0; k < LANES; k++) {
                    v[k] = i + k < width ? NAME(load)(lanes + (i + k) * side + q) : NAME(all)(0);
                    if (by && i + k < width) v[k] *= NAME(load)(by + (i + k) * side + q);
                }
            NAME(transpose)(v);
            UNROLL for (int k = 0; k < LANES; k++) NAME(store)(b->turned + (q + k) * ld + i, v[k]);
        }
}

static void NAME(turn)(const NAME(SecondOrderBlock) * b, const REAL *lanes, int64_t width) { NAME(turn_times)(b, lanes, NULL, width); }
static void NAME(turn_product)(const NAME(SecondOrderBlock) * b, const REAL *lanes, const REAL *by, int64_t width) {
    NAME(turn_times)(b, lanes, by, width);
}

/* Rows of samples as they stand in memory, to rows padded to whole vectors. */
static void NAME(pad_rows)(const NAME(SecondOrderBlock) * b, const REAL *rows, int64_t stride, int64_t width) {
    int64_t ld = NAME(padded)(width);
    for (int64_t s = 0; s < b->count; s++) {
        memcpy(b->turned + s * ld, rows + s * stride, width * sizeof(REAL));
        memset(b->turned + s * ld + width, 0, (ld - width) * sizeof(REAL));
    }
}

/* Add C hᵀ, summed over samples, to the derivatives by W_l: C in lanes, h as the rows in `turned`. */
static void NAME(add_outer)(const NAME(SecondOrderBlock) * b, int64_t l, const REAL *C) {
    const SecondOrder *p = b->p;
    int64_t ld = NAME(padded)(p->widths[l]);
    NAME(Scale) adding = {.add = ADD_SCALED};
    for (int64_t j = 0; j < ld; j += PANEL) {
        int64_t left = ld - j, vectors = left >= PANEL ? WIDEST : left >= 2 * LANES ? 2 : 1;
        NAME(panel)(vectors, p->widths[l + 1], b->count, C, b->side, 1, b->turned + j, ld, b->sum + p->at_padded[l] + j, ld, &adding, 0, 0);
        if (vectors * LANES < left && left < PANEL) { /* three vectors: two and one */
            j += vectors * LANES;
            NAME(panel)(1, p->widths[l + 1], b->count, C, b->side, 1, b->turned + j, ld, b->sum + p->at_padded[l] + j, ld, &adding, 0, 0);
        }
    }
}

INLINE REAL NAME(lane_sum)(const REAL *lanes, int64_t side) {
    VECTOR total = NAME(all)(0);
    for (int64_t q = 0; q < side; q += LANES) total += NAME(load)(lanes + q);
    return NAME(sum)(total);
}

/* C = W B or Wᵀ B for the lanes of a block. */
INLINE void NAME(lanes_product)(const NAME(SecondOrderBlock) * b, int64_t l, int transposed, const REAL *B, REAL *C, const REAL *each) {
    int64_t in = b->p->widths[l], out = b->p->widths[l + 1];
    NAME(Scale) scale = {.each = each, .stride = b->side};
    NAME(times)(b->side, 0, transposed ? in : out, transposed ? out : in, b->call->weight[l], transposed ? 1 : in, transposed ? in : 1, B, C, &scale);
}

/* Elementwise over n numbers, a whole number of vectors: i is the place. */
#define EACH(n) for (int64_t i = 0, each_n = (n); i < each_n; i += LANES)
#define AT(array) NAME(load)((array) + i)
#define PUT(array, value) NAME(store)((array) + i, value)

/* Evaluate the block: h, s, c, and t where it is there. */
static void NAME(second_evaluate)(const NAME(SecondOrderBlock) * b) {
    const SecondOrder *p = b->p;
    const REAL *x = b->call->x + b->first * p->widths[0], *h = b->x;
    int64_t side = b->side, D = p->widths[0];
    REAL spoiled[MOST_SIDE] = {0};
    for (int64_t s = 0; s < b->count; s++) spoiled[s] = NAME(poison)(x + s * D, D);
    NAME(to_lanes)(b, x, D, 1, D, b->x);
    for (int64_t l = 0, at = 0; l < p->layers; at += p->widths[l + 1] * side, l++) {
        int64_t out = p->widths[l + 1];
        NAME(lanes_product)(b, l, 0, h, b->h + at, NULL);
        h = b->h + at;
        for (int64_t k = 0; k < out && b->call->bias[l]; k++) {
            REAL bias = b->call->bias[l][k];
            for (int64_t q = k * side; q < (k + 1) * side; q += LANES) NAME(store)(b->h + at + q, NAME(load)(b->h + at + q) + bias);
        }
        NAME(activate_and_bend)(p->activation + l, b->h + at, b->s + at, b->c + at, b->t ? b->t + at : NULL, out * side);
        for (int64_t k = 0; k < out && l == 0; k++)
            for (int64_t q = 0; q < side; q += LANES)
                NAME(store)(b->s + k * side + q, NAME(load)(b->s + k * side + q) + NAME(load)(spoiled + q));
    }
    if (b->call->y) NAME(from_lanes)(b, h, p->widths[p->layers], b->call->y + b->first * p->widths[p->layers], p->widths[p->layers], 1);
}

/* Push the tangent by x_d: U of each layer, and what it adds to the squares of each Laplacian. */
static void NAME(second_tangent)(const NAME(SecondOrderBlock) * b, int64_t d, REAL *U) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, D = p->widths[0], P = p->widths[p->layers];
    REAL *T = b->carried[0];
    for (int64_t l = 0, at = 0; l < p->layers; at += p->widths[l + 1] * side, l++) {
        int64_t n = p->widths[l + 1] * side;
        const REAL *s = b->s + at;
        REAL *u = U + at;
        if (l == 0)
            for (int64_t k = 0; k < p->widths[1]; k++) {
                VECTOR w = NAME(all)(b->call->weight[0][k * D + d]);
                for (int64_t q = k * side; q < (k + 1) * side; q += LANES) NAME(store)(u + q, w);
            }
        else NAME(lanes_product)(b, l, 0, T, u, NULL);
        T = b->carried[l % 2];
        if (!p->laplacians) EACH(n) PUT(T, AT(u) * AT(s));
        for (int64_t m = 0; m < p->laplacians; m++) {
            REAL w = b->call->directions[m * D + d], *squares = b->squares + m * p->numbers * side + at;
            EACH(n) {
                VECTOR v = AT(u);
                PUT(squares, (d == 0 ? NAME(all)(0) : AT(squares)) + w * v * v);
                if (m == 0) PUT(T, v * AT(s));
            }
        }
    }
    if (b->call->J) NAME(from_lanes)(b, T, P, b->call->J + b->first * P * D + d, P * D, D);
}

/* q of layer l and Laplacian m, from its squares and r. */
INLINE void NAME(second_q)(const NAME(SecondOrderBlock) * b, int64_t m, int64_t at, int64_t n, int first, REAL *q) {
    const REAL *squares = b->squares + m * b->p->numbers * b->side + at, *r = b->r + m * b->p->numbers * b->side + at;
    const REAL *s = b->s + at, *c = b->c + at;
    if (first) EACH(n) PUT(q, AT(c) * AT(squares));
    else EACH(n) PUT(q, AT(c) * AT(squares) + AT(s) * AT(r));
}

static void NAME(second_laplacian)(const NAME(SecondOrderBlock) * b, int64_t m) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, P = p->widths[p->layers], M = p->laplacians;
    REAL *q = b->carried[0];
    for (int64_t l = 0, at = 0; l < p->layers; at += p->widths[l + 1] * side, l++) {
        if (l > 0) NAME(lanes_product)(b, l, 0, q, b->r + m * p->numbers * side + at, NULL);
        q = b->carried[l % 2];
        NAME(second_q)(b, m, at, p->widths[l + 1] * side, l == 0, q);
    }
    if (b->call->laplacian) NAME(from_lanes)(b, q, P, b->call->laplacian + b->first * P * M + m, P * M, M);
}

/* Pull the cotangent of y_p back: A of each hidden layer. */
static void NAME(second_cotangent)(const NAME(SecondOrderBlock) * b, int64_t p_) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, n = p->layers, at = (p->numbers - p->widths[n]) * side;
    const REAL *last = b->s + at + p_ * side;
    REAL *B = b->carried[0];
    for (int64_t l = n - 1; l > 0; l--) {
        int64_t in = p->widths[l], size = in * side;
        at -= size;
        REAL *A = b->A + at;
        if (l == n - 1)
            for (int64_t k = 0; k < in; k++) {
                REAL w = b->call->weight[l][p_ * in + k];
                for (int64_t q = 0; q < side; q += LANES) NAME(store)(A + k * side + q, w * NAME(load)(last + q));
            }
        else NAME(lanes_product)(b, l, 1, B, A, NULL);
        B = b->carried[l % 2];
        if (l > 1) EACH(size) PUT(B, AT(A) * AT(b->s + at));
    }
}

/* H[p, d, e] = Σ_k A_k c_k U_k^d U_k^e over all neurons; those of the output itself are y_p alone. */
static void NAME(second_hessian)(const NAME(SecondOrderBlock) * b, int64_t p_) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, D = p->widths[0], P = p->widths[p->layers], hidden = p->numbers - P;
    REAL *g = b->A, *H = b->turned;
    NAME(second_cotangent)(b, p_);
    EACH(hidden * side) PUT(g, AT(b->A) * AT(b->c));
    const REAL *c_last = b->c + (hidden + p_) * side;
    for (int64_t d0 = 0; d0 < D; d0 += 4)
        for (int64_t e0 = 0; e0 <= d0; e0 += 4)
            for (int64_t q = 0; q < side; q += LANES) {
                int64_t some = D - d0 < 4 ? D - d0 : 4;
                const REAL *u[4], *v[4];
                VECTOR total[4][4], ud[4], ue[4];
                /* rows beyond the last repeat it, and are not stored */
                UNROLL for (int a = 0; a < 4; a++) u[a] = b->U + (d0 + (a < some ? a : some - 1)) * p->numbers * side + q;
                UNROLL for (int a = 0; a < 4; a++) v[a] = b->U + (e0 + a < D ? e0 + a : D - 1) * p->numbers * side + q;
                UNROLL for (int a = 0; a < 4; a++) UNROLL for (int e = 0; e < 4; e++) total[a][e] = NAME(all)(0);
                for (int64_t k = 0; k < hidden; k++) {
                    VECTOR by = NAME(load)(g + k * side + q);
                    UNROLL for (int a = 0; a < 4; a++) ud[a] = by * NAME(load)(u[a] + k * side);
                    UNROLL for (int a = 0; a < 4; a++) ue[a] = NAME(load)(v[a] + k * side);
                    UNROLL for (int a = 0; a < 4; a++) UNROLL for (int e = 0; e < 4; e++) total[a][e] += ud[a] * ue[e];
                }
                VECTOR by = NAME(load)(c_last + q);
                UNROLL for (int a = 0; a < 4; a++) UNROLL for (int e = 0; e < 4; e++)
                    total[a][e] += by * NAME(load)(u[a] + (hidden + p_) * side) * NAME(load)(v[e] + (hidden + p_) * side);
                UNROLL for (int a = 0; a < 4; a++) UNROLL for (int e = 0; e < 4; e++)
                    if (d0 + a < D && e0 + e < D) {
                        NAME(store)(H + ((d0 + a) * D + e0 + e) * side + q, total[a][e]);
                        NAME(store)(H + ((e0 + e) * D + d0 + a) * side + q, total[a][e]);
                    }
            }
    NAME(from_lanes)(b, H, D * D, b->call->hessian + (b->first * P + p_) * D * D, P * D * D, 1);
}

/* Back through Laplacian m: ∂L/∂q of each layer, and what reaches s, c and the weights. */
static void NAME(second_laplacian_back)(const NAME(SecondOrderBlock) * b, int64_t m) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, n = p->layers, P = p->widths[n], M = p->laplacians, at = p->numbers * side;
    const REAL *squares = b->squares + m * p->numbers * side, *r = b->r + m * p->numbers * side;
    REAL *gq = b->gq + m * p->numbers * side;
    for (int64_t l = n - 1; l >= 0; l--) {
        int64_t size = p->widths[l + 1] * side, before = at - size - p->widths[l] * side;
        at -= size;
        REAL *g = gq + at, *gr = b->carried[0];
        if (l == n - 1) NAME(to_lanes)(b, b->call->gl + b->first * P * M + m, P * M, M, P, g);
        EACH(size) PUT(b->gc + at, AT(b->gc + at) + AT(g) * AT(squares + at));
        if (l == 0) break; /* r is zero there */
        EACH(size) {
            VECTOR v = AT(g);
            PUT(b->gs + at, AT(b->gs + at) + v * AT(r + at));
            PUT(gr, v * AT(b->s + at));
        }
        if (b->sum) {
            NAME(second_q)(b, m, before, p->widths[l] * side, l == 1, b->carried[1]);
            NAME(turn)(b, b->carried[1], p->widths[l]);
            NAME(add_outer)(b, l, gr);
        }
        NAME(lanes_product)(b, l, 1, gr, gq + before, NULL);
    }
}

/* The loss of entries of J: `by` Σ (J - target)² is added to that of the block, and J in lanes gives way to its cotangent. Lanes without a
 * sample count nothing. `rows` are those of the target, or null; `scratch` has the size of J. */
static void NAME(second_loss)(NAME(SecondOrderBlock) * b, const REAL *rows, int64_t stride, int64_t step, int64_t width, REAL *J, REAL *scratch) {
    REAL by = (REAL)b->p->penalty;
    VECTOR total = NAME(all)(0);
    if (rows) {
        NAME(to_lanes)(b, rows, stride, step, width, scratch);
        EACH(width * b->side) PUT(J, AT(J) - AT(scratch));
    }
    for (int64_t k = 0; k < width && b->count < b->side; k++) memset(J + k * b->side + b->count, 0, (b->side - b->count) * sizeof(REAL));
    EACH(width * b->side) {
        VECTOR v = AT(J);
        total += v * v;
        PUT(J, 2 * by * v);
    }
    b->loss += b->p->penalty * NAME(sum)(total);
}

/* Back through the tangent by x_d. */
static void NAME(second_tangent_back)(NAME(SecondOrderBlock) * b, int64_t d) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, n = p->layers, D = p->widths[0], P = p->widths[n], at = p->numbers * side, M = b->call->gl ? p->laplacians : 0;
    const REAL *U = b->U + d * p->numbers * side;
    REAL *gT = b->carried[0], *gU = b->carried[1];
    if (p->penalty != 0) {
        int64_t last = at - P * side;
        EACH(P * side) PUT(gT, AT(U + last) * AT(b->s + last));
        NAME(second_loss)(b, b->call->target ? b->call->target + b->first * P * D + d : NULL, P * D, D, P, gT, gU);
    } else if (b->call->gJ) NAME(to_lanes)(b, b->call->gJ + b->first * P * D + d, P * D, D, P, gT);
    else memset(gT, 0, P * side * sizeof(REAL));
    for (int64_t l = n - 1; l >= 0; l--) {
        int64_t size = p->widths[l + 1] * side, before = at - size - p->widths[l] * side;
        at -= size;
        const REAL *gq0 = M ? b->gq + at : gT;
        REAL w0 = M ? 2 * b->call->directions[d] : 0;
        EACH(size) {
            VECTOR g = AT(gT), u = AT(U + at);
            PUT(b->gs + at, AT(b->gs + at) + g * u);
            g *= AT(b->s + at);
            if (w0 != 0) g += w0 * AT(gq0) * AT(b->c + at) * u;
            PUT(gU, g);
        }
        for (int64_t m = 1; m < M; m++) {
            REAL w = 2 * b->call->directions[m * D + d];
            const REAL *gq = b->gq + m * p->numbers * side + at;
            if (w != 0) EACH(size) PUT(gU, AT(gU) + w * AT(gq) * AT(b->c + at) * AT(U + at));
        }
        if (l == 0) {
            int64_t ld = NAME(padded)(D);
            for (int64_t k = 0; k < p->widths[1] && b->sum; k++) b->sum[p->at_padded[0] + k * ld + d] += NAME(lane_sum)(gU + k * side, side);
            break;
        }
        if (b->sum) {
            NAME(turn_product)(b, U + before, b->s + before, p->widths[l]); /* T, which entered */
            NAME(add_outer)(b, l, gU);
        }
        NAME(lanes_product)(b, l, 1, gU, gT, NULL);
    }
}

/* Back through row p of a Jacobian computed in reverse mode: what was pulled is pushed, from the input on. */
static void NAME(second_cotangent_back)(NAME(SecondOrderBlock) * b, int64_t p_) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, n = p->layers, D = p->widths[0], P = p->widths[n], row_of_J = b->first * P * D + p_ * D;
    REAL *B = b->carried[0], *R = b->carried[1];
    NAME(second_cotangent)(b, p_);
    if (p->penalty != 0) {
        EACH(p->widths[1] * side) PUT(R, AT(b->A) * AT(b->s));
        NAME(lanes_product)(b, 0, 1, R, B, NULL);
        NAME(second_loss)(b, b->call->target ? b->call->target + row_of_J : NULL, P * D, 1, D, B, b->turned);
        NAME(turn)(b, B, D);
    } else {
        NAME(to_lanes)(b, b->call->gJ + row_of_J, P * D, 1, D, B);
        if (b->sum) NAME(pad_rows)(b, b->call->gJ + row_of_J, P * D, D);
    }
    NAME(lanes_product)(b, 0, 0, B, R, NULL);
    if (b->sum) {
        EACH(p->widths[1] * side) PUT(B, AT(b->A) * AT(b->s));
        NAME(add_outer)(b, 0, B);
    }
    for (int64_t l = 0, at = 0; l < n - 1; l++) { /* R is what reaches B of layer l */
        int64_t width = p->widths[l + 1], size = width * side, next = at + size;
        EACH(size) {
            VECTOR g = AT(R);
            PUT(b->gs + at, AT(b->gs + at) + g * AT(b->A + at));
            PUT(B, g * AT(b->s + at)); /* what reaches A */
        }
        if (l == n - 2) {
            const REAL *last = b->s + next + p_ * side, *W = b->call->weight[l + 1] + p_ * width;
            REAL *gs = b->gs + next + p_ * side, *row = b->sum ? b->sum + p->at_padded[l + 1] + p_ * NAME(padded)(width) : NULL;
            for (int64_t k = 0; k < width; k++) {
                VECTOR total = NAME(all)(0), w = NAME(all)(W[k]);
                for (int64_t q = 0; q < side; q += LANES) {
                    VECTOR g = NAME(load)(B + k * side + q);
                    total += g * NAME(load)(last + q);
                    NAME(store)(gs + q, NAME(load)(gs + q) + g * w);
                }
                if (row) row[k] += NAME(sum)(total);
            }
            break;
        }
        if (b->sum) NAME(turn)(b, B, width);
        NAME(lanes_product)(b, l + 1, 0, B, R, NULL);
        if (b->sum) {
            EACH(p->widths[l + 2] * side) PUT(B, AT(b->A + next) * AT(b->s + next));
            NAME(add_outer)(b, l + 1, B);
        }
        at = next;
    }
}

/* Back through the value: last of all, when everything that reaches s and c is known. */
static void NAME(second_value_back)(const NAME(SecondOrderBlock) * b) {
    const SecondOrder *p = b->p;
    int64_t side = b->side, n = p->layers, D = p->widths[0], P = p->widths[n], at = p->numbers * side;
    REAL *gh = b->carried[0], *gz = b->carried[1];
    if (b->call->gy) NAME(to_lanes)(b, b->call->gy + b->first * P, P, 1, P, gh);
    else memset(gh, 0, P * side * sizeof(REAL));
    for (int64_t l = n - 1; l >= 0; l--) {
        int64_t out = p->widths[l + 1], size = out * side;
        at -= size;
        EACH(size) PUT(gz, AT(gh) * AT(b->s + at) + AT(b->gs + at) * AT(b->c + at));
        if (b->gc) EACH(size) PUT(gz, AT(gz) + AT(b->gc + at) * AT(b->t + at));
        if (b->sum) {
            if (l > 0) NAME(turn)(b, b->h + at - p->widths[l] * side, p->widths[l]);
            else NAME(pad_rows)(b, b->call->x + b->first * D, D, D);
            NAME(add_outer)(b, l, gz);
            REAL *bias = b->sum + p->at_padded[l] + out * NAME(padded)(p->widths[l]);
            for (int64_t k = 0; k < out && b->call->bias[l]; k++) bias[k] += NAME(lane_sum)(gz + k * side, side);
        }
        if (l == 0 && !b->call->gx) break;
        NAME(lanes_product)(b, l, 1, gz, gh, NULL);
    }
    if (b->call->gx) NAME(from_lanes)(b, gh, D, b->call->gx + b->first * D, D, 1);
}

static void NAME(second_of_block)(NAME(SecondOrderBlock) * b) {
    const SecondOrder *p = b->p;
    int64_t D = p->widths[0], P = p->widths[p->layers], all = p->numbers * b->side;
    int back = p->kind == SECOND_ORDER_BACK_FORWARD || p->kind == SECOND_ORDER_BACK_REVERSE;
    if (!(back && p->keeps)) {
        NAME(second_evaluate)(b);
        for (int64_t d = 0; d < D && b->U; d++) NAME(second_tangent)(b, d, b->U + (p->kind == SECOND_ORDER_PUSH && !p->keeps ? 0 : d * all));
        for (int64_t m = 0; m < p->laplacians; m++) NAME(second_laplacian)(b, m);
    }
    if (p->kind == SECOND_ORDER_HESSIAN)
        for (int64_t r = 0; r < P; r++) NAME(second_hessian)(b, r);
    if (!back) return;
    memset(b->gs, 0, all * sizeof(REAL));
    int through_J = b->call->gJ || p->penalty != 0;
    if (p->kind == SECOND_ORDER_BACK_REVERSE) {
        for (int64_t r = 0; r < P && through_J; r++) NAME(second_cotangent_back)(b, r);
    } else {
        if (b->gc) memset(b->gc, 0, all * sizeof(REAL));
        for (int64_t m = 0; m < p->laplacians && b->call->gl; m++) NAME(second_laplacian_back)(b, m);
        for (int64_t d = 0; d < D && (through_J || b->call->gl); d++) NAME(second_tangent_back)(b, d);
    }
    NAME(second_value_back)(b);
}

/* Take slots until there are none. */
static void NAME(second_slots)(void *argument, int thread, int threads) {
    NAME(SecondOrderCall) *call = argument;
    const SecondOrder *p = call->layout;
    REAL *mine = call->work + (int64_t)thread * p->work_of_thread;
    int64_t blocks = (p->samples + p->block - 1) / p->block;
    (void)threads;
    for (long slot; (slot = atomic_fetch_add(&call->next, 1)) < p->slots;) {
        int64_t begin = blocks * slot / p->slots, end = blocks * (slot + 1) / p->slots;
        REAL *sum = call->out ? call->sums + slot * p->parameters_padded : NULL;
        double loss = 0;
        if (sum) memset(sum, 0, p->parameters_padded * sizeof(REAL));
        for (int64_t i = begin; i < end; i++) {
            int64_t left = p->samples - i * p->block, leaves;
            NAME(SecondOrderBlock) b;
            NAME(place_block)(call, call->kept ? call->kept + i * p->kept_of_block : NULL, mine, left < p->block ? left : p->block, &b, &leaves);
            b.first = i * p->block;
            b.sum = sum;
            NAME(second_of_block)(&b);
            loss += b.loss;
        }
        call->losses[slot] = loss;
    }
}

/* Add up the sums of the slots, in their order, each thread a share of the rows. */
static void NAME(second_sum)(void *argument, int thread, int threads) {
    const NAME(SecondOrderCall) *call = argument;
    const SecondOrder *p = call->layout;
    for (int64_t l = 0; l < p->layers; l++) {
        int64_t in = p->widths[l], out = p->widths[l + 1], ld = NAME(padded)(in), from, to;
        NAME(share)(out, thread, threads, &from, &to);
        for (int64_t k = from; k < to; k++) {
            REAL *row = call->out + p->at_weight[l] + k * in;
            for (int64_t slot = 0; slot < p->slots; slot++) {
                const REAL *of = call->sums + slot * p->parameters_padded + p->at_padded[l];
                for (int64_t j = 0; j < in; j++) row[j] = (slot ? row[j] : 0) + of[k * ld + j];
                if (call->bias[l]) {
                    REAL *bias = call->out + p->at_bias[l] + k;
                    *bias = (slot ? *bias : 0) + of[out * ld + k];
                }
            }
        }
    }
}

/* The numbers that a block takes of a thread's memory, and in *leaves those of what a push may leave for the way back. */
int64_t NAME(second_order_numbers)(const SecondOrder *layout, int64_t count, int64_t *leaves) {
    NAME(SecondOrderCall) call = {.layout = layout};
    NAME(SecondOrderBlock) b;
    return NAME(place_block)(&call, NULL, NULL, count, &b, leaves);
}

/* Compute y, J, Laplacians and Hessians, or pull cotangents of y, J and Laplacians (or of the loss of J) back to the parameters and x.
 * `given` are directions, cotangents of y, J and the Laplacians, and the target of J; `results` are y, J, Laplacians, Hessian, derivatives by
 * the parameters and by x, and what is kept; each may be null. Return 0, -1 where there is no memory, or -2 where an activation is
 * unknown. */
int NAME(second_order)(const SecondOrder *layout, const REAL *const *weights, const REAL *const *biases, const REAL *x, const REAL *const *given,
              REAL *const *results, REAL *loss, int threads) {
    for (int64_t l = 0; l < layout->layers; l++)
        if (layout->activation[l].code < 0 || layout->activation[l].code >= ACTIVATION_COUNT) return -2;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int64_t sums = layout->slots * layout->parameters_padded;
    REAL *work = workspace((sums + layout->work_of_thread * threads) * sizeof(REAL));
    if (!work) return -1;
    double losses[MOST_SLOTS] = {0}, total = 0;
    NAME(SecondOrderCall) call = {
        .layout = layout, .weight = weights, .bias = biases, .x = x, .directions = given[0], .gy = given[1], .gJ = given[2], .gl = given[3],
        .target = given[4], .y = results[0], .J = results[1], .laplacian = results[2], .hessian = results[3], .out = results[4],
        .gx = results[5], .kept = results[6], .losses = losses, .sums = work, .work = work + sums,
    };
    run_shared_out(threads, NAME(second_slots), &call);
    if (call.out) run_on(sums > ALONE_NUMBERS ? threads : 1, NAME(second_sum), &call);
    for (int64_t slot = 0; slot < layout->slots; slot++) total += losses[slot];
    if (loss) *loss = (REAL)total;
    return 0;
}

/* out = factor in, on this thread: torch would wake threads of its own for it, which then spin where ours want to run. */
void NAME(scaled)(const REAL *in, double factor, REAL *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = (REAL)factor * in[i];
}
#undef EACH
#undef AT
#undef PUT
