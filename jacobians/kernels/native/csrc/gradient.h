/* Derivatives of a loss with respect to all parameters: a gradient, a Gauss-Newton product, or the norms of each sample's own gradient.
 *
 * A batch is taken in blocks, numbers of one neuron side by side, one sample a lane: evaluate the block keeping values and slopes, pull the
 * cotangent of the loss back, and add `C_l h_{l-1}ᵀ` of the block to what is there. Where the parameters are few, each thread takes blocks of
 * its own and has a sum of its own; where they are many, all threads work on one larger block and share out the rows of each product, so that
 * every weight is read, and every sum written, by one of them. Each thread does the same in each call: a result depends on nothing but the
 * number of threads. One sample is taken by matrix-vector products, the rows shared out.
 */

typedef struct {
    const ParameterLayout *chain;
    const REAL *const *weight, *const *bias;
    const REAL *x, *target, *v; /* v: tangent of the parameters, of a Gauss-Newton product */
    const int64_t *classes;     /* instead of target */
    REAL *out, *gx;             /* parameters one behind the other, or a number a sample; gx may be null */
    REAL *velocity;             /* of an update, or null */
    REAL *work;                 /* shared, and then that of the threads, one behind the other */
    double *losses;             /* of each thread */
} NAME(Derivative);

/* A block of samples in the lanes first … first + side - 1, of which `count` are there, and who of its threads this is. */
typedef struct {
    const NAME(Derivative) * d;
    int64_t first, count, side;
    REAL *h, *slope, *tangent, *cotangent[2], *turned, *spoiled; /* of all threads of the block */
    REAL *packed, *spare;                                        /* of this one */
    int thread, threads;
} NAME(Block);

enum { NAME(SAMPLES_AT_ONCE) = 512 }; /* that a product sums over */

/* Place a block in memory. What is private lies behind what is shared. */
static NAME(Block) NAME(block_in)(const NAME(Derivative) * d, REAL *shared, REAL *private, int64_t side, int thread, int threads) {
    const ParameterLayout *p = d->chain;
    int64_t values = p->numbers * side, widest = p->widest * side;
    NAME(Block) b = {.d = d, .side = side, .thread = thread, .threads = threads};
    b.h = shared;
    b.slope = b.h + values;
    b.cotangent[0] = b.slope + values;
    b.cotangent[1] = b.cotangent[0] + widest;
    b.turned = b.cotangent[1] + widest;
    b.spoiled = b.turned + widest;
    b.tangent = b.spoiled + side;
    b.packed = private;
    b.spare = private + NAME(SAMPLES_AT_ONCE) * PANEL;
    return b;
}

INLINE void NAME(share_rows)(const NAME(Block) * b, int64_t rows, int64_t *from, int64_t *to) {
    int64_t each = (rows + 6 * b->threads - 1) / (6 * b->threads) * 6; /* in sixes, as most tiles take rows */
    *from = each * b->thread < rows ? each * b->thread : rows;
    *to = *from + each < rows ? *from + each : rows;
}

INLINE void NAME(share_lanes)(const NAME(Block) * b, int64_t *from, int64_t *to) {
    int64_t vectors = b->side / LANES;
    *from = vectors * b->thread / b->threads * LANES;
    *to = vectors * (b->thread + 1) / b->threads * LANES;
}

/* The softmax of y in the lanes from … to - 1: p is written, and the logarithm of its denominator, with the largest y. */
static void NAME(softmax)(const REAL *y, int64_t P, int64_t side, int64_t from, int64_t to, REAL *p, REAL *log_total) {
    for (int64_t q = from; q < to; q += LANES) {
        VECTOR most = NAME(load)(y + q), total = NAME(all)(0), e;
        for (int64_t i = 1; i < P; i++) {
            VECTOR v = NAME(load)(y + i * side + q);
            most = NAME(choose)(v > most, v, most);
        }
        for (int64_t i = 0; i < P; i++) {
            NAME(exp_minus_1)(NAME(load)(y + i * side + q) - most, &e);
            NAME(store)(p + i * side + q, e);
            total += e;
        }
        VECTOR inverse = (REAL)1 / total;
        for (int64_t i = 0; i < P; i++) NAME(store)(p + i * side + q, NAME(load)(p + i * side + q) * inverse);
        for (int i = 0; i < LANES; i++) log_total[q + i] = MATH(log)(total[i]) + most[i];
    }
}

/* The loss of the samples in the lanes from … to - 1, and its cotangent C (P × side); in a Gauss-Newton product C is the second derivative
 * times `push`, the tangent of y. `turned` and `log_total` are scratch. Lanes without a sample get 0. */
static double NAME(loss_of_lanes)(const NAME(Derivative) * d, const REAL *y, const REAL *push, int64_t first, int64_t count, int64_t side,
                                  int64_t from, int64_t to, REAL *C, REAL *turned, REAL *log_total) {
    const ParameterLayout *p = d->chain;
    int64_t P = p->widths[p->layers], last = to < count ? to : count;
    double total = 0;
    REAL factor = (REAL)p->factor;
    if (d->target)
        for (int64_t i0 = 0; i0 < P; i0 += LANES)
            for (int64_t s = from; s < to; s++)
                for (int64_t i = i0; i < i0 + LANES && i < P; i++) turned[i * side + s] = s < last ? d->target[(first + s) * P + i] : 0;
    if (p->loss == LOSS_cross_entropy) {
        NAME(softmax)(y, P, side, from, to, C, log_total);
        for (int64_t s = from; s < to; s++) {
            REAL mass = d->target ? 0 : 1, mean = 0;
            for (int64_t i = 0; i < P && d->target; i++) mass += turned[i * side + s];
            if (s >= last)
                for (int64_t i = 0; i < P; i++) C[i * side + s] = 0;
            else if (p->kind == GAUSS_NEWTON) { /* (diag p - p pᵀ) push, times the sum of the target */
                for (int64_t i = 0; i < P; i++) mean += C[i * side + s] * push[i * side + s];
                for (int64_t i = 0; i < P; i++) C[i * side + s] *= factor * mass * (push[i * side + s] - mean);
            } else if (d->classes) {
                int64_t k = d->classes[first + s];
                total += log_total[s] - y[k * side + s];
                C[k * side + s] -= 1;
                for (int64_t i = 0; i < P; i++) C[i * side + s] *= factor;
            } else
                for (int64_t i = 0; i < P; i++) {
                    REAL t = turned[i * side + s];
                    if (t != 0) total += t * (log_total[s] - y[i * side + s]);
                    C[i * side + s] = factor * (C[i * side + s] * mass - t);
                }
        }
        return total * p->factor;
    }
    VECTOR sum = NAME(all)(0), one, two, value;
    for (int64_t i = 0; i < P; i++)
        for (int64_t q = from; q < to; q += LANES) {
            int64_t at = i * side + q;
            VECTOR a = NAME(load)(y + at), t = NAME(load)(turned + at);
            switch (p->loss) {
#define CASE(name)                                         \
    case LOSS_##name:                                      \
        value = NAME(loss_##name)(a, t, &one, &two);       \
        break;
                LOSSES(CASE)
#undef CASE
            default: value = one = two = NAME(all)(0);
            }
            VECTOR c = (p->kind == GAUSS_NEWTON ? two * NAME(load)(push + at) : one) * factor;
            for (int j = 0; j < LANES && q + LANES > last; j++)
                if (q + j >= last) c[j] = value[j] = 0;
            NAME(store)(C + at, c);
            sum += value;
        }
    for (int j = 0; j < LANES; j++) total += sum[j];
    return total * p->factor;
}

/* Evaluate the block: values, slopes, and the tangents of a Gauss-Newton product. Return where y stands. */
static int64_t NAME(evaluate_block)(const NAME(Block) * b) {
    const NAME(Derivative) *d = b->d;
    const ParameterLayout *p = d->chain;
    const int64_t *width = p->widths, n = p->layers, D = width[0];
    int64_t side = b->side, from, to, at = D, before = 0;
    const REAL *x = d->x + b->first * D;
    NAME(Scale) none = {0}, adding = {.add = ADD_SCALED};
    NAME(share_lanes)(b, &from, &to);
    for (int64_t s = from; s < to; s++) b->spoiled[s] = s < b->count ? NAME(poison)(x + s * D, D) : 0;
    for (int64_t d0 = 0; d0 < D; d0 += LANES)
        for (int64_t s = from; s < to; s++)
            for (int64_t i = d0; i < d0 + LANES && i < D; i++) b->h[i * side + s] = s < b->count ? x[s * D + i] : 0;
    barrier(b->threads);
    for (int64_t l = 0; l < n; l++) {
        int64_t in = width[l], out = width[l + 1];
        const REAL *h = b->h + before * side;
        REAL *z = b->h + at * side, *s = b->slope + at * side, *v = b->tangent + at * side;
        NAME(share_rows)(b, out, &from, &to);
        NAME(times)(side, from, to, in, d->weight[l], in, 1, h, z, &none);
        if (d->bias[l])
            for (int64_t i = from; i < to; i++)
                for (int64_t q = i * side; q < (i + 1) * side; q += LANES) NAME(store)(z + q, NAME(load)(z + q) + d->bias[l][i]);
        NAME(activate)(p->activation + l, z + from * side, s + from * side, (to - from) * side);
        for (int64_t i = from; i < to && l == 0; i++)
            for (int64_t q = 0; q < side; q += LANES) NAME(store)(s + i * side + q, NAME(load)(s + i * side + q) + NAME(load)(b->spoiled + q));
        if (p->kind == GAUSS_NEWTON) {
            NAME(times)(side, from, to, in, d->v + p->at_weight[l], in, 1, h, v, &none);
            if (l > 0) NAME(times)(side, from, to, in, d->weight[l], in, 1, b->tangent + before * side, v, &adding);
            for (int64_t i = from; i < to; i++) {
                REAL bias = d->bias[l] ? d->v[p->at_bias[l] + i] : 0;
                for (int64_t q = i * side; q < (i + 1) * side; q += LANES) NAME(store)(v + q, (NAME(load)(v + q) + bias) * NAME(load)(s + q));
            }
        }
        before = at;
        at += out;
        barrier(b->threads);
    }
    return before;
}

/* ‖C_l‖² (‖h_{l-1}‖² + 1) of each sample, added to `squares`. */
static void NAME(add_squares)(const NAME(Block) * b, int64_t out, int64_t in, int biased, const REAL *C, const REAL *h, REAL *squares) {
    int64_t from, to;
    NAME(share_lanes)(b, &from, &to);
    for (int64_t q = from; q < to; q += LANES) {
        VECTOR c2 = NAME(all)(0), h2 = NAME(all)(biased), v;
        for (int64_t i = 0; i < out; i++) v = NAME(load)(C + i * b->side + q), c2 += v * v;
        for (int64_t i = 0; i < in; i++) v = NAME(load)(h + i * b->side + q), h2 += v * v;
        NAME(store)(squares + q, NAME(load)(squares + q) + c2 * h2);
    }
}

/* Rows of C hᵀ and of the sum of C, added to (or written over) the derivatives by a weight and its bias. h is (count, in), a row a sample. */
static void NAME(add_derivatives)(const NAME(Block) * b, int64_t l, const REAL *C, const REAL *h, REAL *to, int add) {
    const ParameterLayout *p = b->d->chain;
    int64_t in = p->widths[l], side = b->side, from, last;
    NAME(share_rows)(b, p->widths[l + 1], &from, &last);
    for (int64_t s = 0; s < b->count && from < last; s += NAME(SAMPLES_AT_ONCE)) {
        int64_t some = b->count - s < NAME(SAMPLES_AT_ONCE) ? b->count - s : NAME(SAMPLES_AT_ONCE);
        NAME(Scale) plain = {.add = add || s > 0 ? ADD_SCALED : REPLACE};
        for (int64_t j = 0; j < in; j += PANEL)
            NAME(product_panel)(last - from, in, some, C + from * side + s, side, 1, h + s * in, in, to + p->at_weight[l] + from * in, in, plain,
                                0, j, b->packed, b->spare);
    }
    for (int64_t i = from; i < last && b->d->bias[l]; i++) {
        VECTOR total = NAME(all)(0);
        for (int64_t q = 0; q < side; q += LANES) total += NAME(load)(C + i * side + q);
        REAL *bias = to + p->at_bias[l] + i;
        *bias = NAME(sum)(total) + (add ? *bias : 0);
    }
}

static double NAME(derivative_of_block)(const NAME(Block) * b, REAL *to, int add) {
    const NAME(Derivative) *d = b->d;
    const ParameterLayout *p = d->chain;
    const int64_t *width = p->widths, n = p->layers, D = width[0], P = width[n];
    int64_t side = b->side, from, last, before = NAME(evaluate_block)(b);
    /* A linear output has slopes of one. */
    REAL *C = b->cotangent[0], *log_total = b->cotangent[1], *squares = b->spoiled;
    const REAL *slope = b->slope + before * side;
    NAME(share_lanes)(b, &from, &last);
    double loss = NAME(loss_of_lanes)(d, b->h + before * side, b->tangent + before * side, b->first, b->count, side, from, last, C, b->turned,
                                      log_total);
    for (int64_t i = 0; i < P; i++)
        for (int64_t q = i * side + from; q < i * side + last; q += LANES) NAME(store)(C + q, NAME(load)(C + q) * NAME(load)(slope + q));
    memset(squares + from, 0, (last - from) * sizeof(REAL)); /* what it held has been added to the slopes */
    barrier(b->threads);
    for (int64_t l = n - 1, turn = 1; l >= 0; l--, turn = 1 - turn) {
        int64_t in = width[l], out = width[l + 1];
        before -= in; /* where the value that enters layer l stands */
        const REAL *h = b->h + before * side, *rows = d->x + b->first * D;
        NAME(share_rows)(b, in, &from, &last);
        if (p->kind == NORMS) NAME(add_squares)(b, out, in, d->bias[l] != NULL, C, h, squares);
        else {
            if (l > 0) {
                for (int64_t i0 = from; i0 < last; i0 += LANES)
                    for (int64_t s = 0; s < b->count; s++)
                        for (int64_t i = i0; i < i0 + LANES && i < last; i++) b->turned[s * in + i] = h[i * side + s];
                rows = b->turned;
                barrier(b->threads);
            }
            NAME(add_derivatives)(b, l, C, rows, to, add);
        }
        if (l == 0 && !d->gx) break;
        NAME(Scale) by = {.each = l > 0 ? b->slope + before * side : NULL, .stride = side};
        NAME(times)(side, from, last, out, d->weight[l], 1, in, C, b->cotangent[turn], &by);
        C = b->cotangent[turn];
        barrier(b->threads);
    }
    NAME(share_lanes)(b, &from, &last);
    for (int64_t s = from; s < last && s < b->count; s++) {
        for (int64_t i = 0; i < D && d->gx; i++) d->gx[(b->first + s) * D + i] = C[i * side + s];
        if (p->kind == NORMS) to[b->first + s] = MATH(sqrt)(squares[s]);
    }
    barrier(b->threads);
    return loss;
}

/* θ -= rate (μ v + g + λ θ) for numbers from … to - 1 of one parameter; without a velocity μ is 0. */
INLINE void NAME(update)(const ParameterLayout *p, REAL *theta, REAL *velocity, const REAL *g, int64_t n) {
    REAL rate = (REAL)p->rate, momentum = (REAL)p->momentum, decay = (REAL)p->decay;
    for (int64_t i = 0; i < n; i++) {
        REAL step = g[i] + decay * theta[i];
        if (velocity) velocity[i] = step = momentum * velocity[i] + step;
        theta[i] -= rate * step;
    }
}

static void NAME(update_all)(const NAME(Derivative) * d, const REAL *g, int thread, int threads) {
    const ParameterLayout *p = d->chain;
    int64_t from, to;
    for (int64_t l = 0; l < p->layers; l++) {
        int64_t in = p->widths[l], out = p->widths[l + 1];
        NAME(share)(out, thread, threads, &from, &to);
        REAL *v = d->velocity ? d->velocity + p->at_weight[l] : NULL;
        NAME(update)(p, (REAL *)d->weight[l] + from * in, v ? v + from * in : NULL, g + p->at_weight[l] + from * in, (to - from) * in);
        if (!d->bias[l]) continue;
        v = d->velocity ? d->velocity + p->at_bias[l] : NULL;
        NAME(update)(p, (REAL *)d->bias[l] + from, v ? v + from : NULL, g + p->at_bias[l] + from, to - from);
    }
}

/* All threads on one block after the other. */
static void NAME(derivative_together)(void *argument, int thread, int threads) {
    const NAME(Derivative) *d = argument;
    const ParameterLayout *p = d->chain;
    REAL *private = d->work + p->work + (int64_t)thread * p->work_of_thread;
    double loss = 0;
    for (int64_t first = 0; first < p->samples; first += p->block) {
        int64_t count = p->samples - first < p->block ? p->samples - first : p->block;
        NAME(Block) b = NAME(block_in)(d, d->work, private, NAME(lanes_for)(count), thread, threads);
        b.first = first;
        b.count = count;
        loss += NAME(derivative_of_block)(&b, d->out, first > 0);
    }
    d->losses[thread] = loss;
    if (p->rate != 0) NAME(update_all)(d, d->out, thread, threads);
}

/* Each thread on blocks of its own; the sums of the threads are added up in the end. */
static void NAME(derivative_apart)(void *argument, int thread, int threads) {
    const NAME(Derivative) *d = argument;
    const ParameterLayout *p = d->chain;
    REAL *mine = d->work + (int64_t)thread * p->work_of_thread, *behind = mine + (p->kind == NORMS ? 0 : p->parameters);
    REAL *shared = behind + (SPARE_ROWS + NAME(SAMPLES_AT_ONCE)) * PANEL;
    int64_t blocks = (p->samples + p->block - 1) / p->block;
    int64_t begin = blocks * thread / threads, end = blocks * (thread + 1) / threads;
    REAL *to = p->kind == NORMS || thread == 0 ? d->out : mine;
    double loss = 0;
    for (int64_t i = begin; i < end; i++) {
        int64_t left = p->samples - i * p->block, count = left < p->block ? left : p->block;
        NAME(Block) b = NAME(block_in)(d, shared, behind, NAME(lanes_for)(count), 0, 1);
        b.first = i * p->block;
        b.count = count;
        loss += NAME(derivative_of_block)(&b, to, i > begin);
    }
    d->losses[thread] = loss;
    if (p->kind == NORMS) return;
    if (begin == end) memset(to, 0, p->parameters * sizeof(REAL));
    barrier(threads);
    int64_t each = (p->parameters + threads - 1) / threads, from = each * thread, last = from + each < p->parameters ? from + each : p->parameters;
    for (int t = 1; t < threads; t++) {
        const REAL *sum = d->work + (int64_t)t * p->work_of_thread;
        for (int64_t i = from; i < last; i++) d->out[i] += sum[i];
    }
    if (p->rate != 0) {
        barrier(threads);
        NAME(update_all)(d, d->out, thread, threads);
    }
}

/* One sample: rows of each weight are shared out, in the evaluation and on the way back. Values and slopes of all layers stand one behind
 * the other, then the sums of the threads for what is pulled back. */
static void NAME(derivative_of_one)(void *argument, int thread, int threads) {
    const NAME(Derivative) *d = argument;
    const ParameterLayout *p = d->chain;
    const int64_t *width = p->widths, n = p->layers, D = width[0], P = width[n];
    int64_t from, to, at = D, before = 0;
    REAL *values = d->work, *slopes = values + p->numbers + LANES, *cotangents = slopes + p->numbers + LANES;
    REAL *sums = cotangents + p->widest + LANES;
    REAL *y = sums + p->widest * threads + 4 * P * LANES * thread, *C = y + 3 * P * LANES;
    REAL spoiled = NAME(poison)(d->x, D), log_total[LANES];
    const REAL *h = d->x;
    for (int64_t l = 0; l < n; l++) {
        int64_t in = width[l], out = width[l + 1];
        NAME(share)(out, thread, threads, &from, &to);
        REAL *z = values + at, *s = slopes + at;
        NAME(matrix_vectors)(1, from, to, in, d->weight[l], &h, z, 0);
        if (d->bias[l])
            for (int64_t i = from; i < to; i++) z[i] += d->bias[l][i];
        NAME(activate)(p->activation + l, z + from, s + from, to - from);
        for (int64_t i = from; i < to && l == 0; i++) s[i] += spoiled;
        barrier(threads);
        h = z;
        before = at;
        at += out;
    }
    /* The loss is that of a block with one sample, computed by every thread for itself. */
    memset(y, 0, P * LANES * sizeof(REAL));
    for (int64_t i = 0; i < P; i++) y[i * LANES] = h[i];
    double loss = NAME(loss_of_lanes)(d, y, NULL, 0, 1, LANES, 0, LANES, y + P * LANES, y + 2 * P * LANES, log_total);
    for (int64_t i = 0; i < P; i++) C[i] = y[(P + i) * LANES] * slopes[before + i];
    d->losses[thread] = thread ? 0 : loss;
    for (int64_t l = n - 1; l >= 0; l--) {
        int64_t in = width[l], out = width[l + 1];
        const REAL *W = d->weight[l], *c = l == n - 1 ? C : cotangents;
        before -= in;
        h = l == 0 ? d->x : values + before;
        NAME(share)(out, thread, threads, &from, &to);
        int pulled = l > 0 || d->gx;
        if (pulled) NAME(vectors_matrix)(1, from, to, in, W, c, 0, sums + thread * p->widest, 0);
        for (int64_t i = from; i < to; i++) {
            REAL *row = d->out + p->at_weight[l] + i * in, by = c[i];
            for (int64_t j = 0; j < in; j++) row[j] = by * h[j];
            if (d->bias[l]) d->out[p->at_bias[l] + i] = by;
        }
        barrier(threads);
        if (!pulled) break;
        REAL *next = l == 0 ? d->gx : cotangents;
        NAME(share)(in, thread, threads, &from, &to);
        for (int64_t k = from; k < to; k++) {
            REAL g = 0;
            for (int t = 0; t < threads; t++) g += sums[t * p->widest + k];
            next[k] = l == 0 ? g : g * slopes[before + k];
        }
        barrier(threads);
    }
    if (p->rate != 0) NAME(update_all)(d, d->out, thread, threads);
}

/* Compute the gradient (or update the parameters by it, where the rate is not 0), the Gauss-Newton product, or the norms. `out` may be null
 * where the parameters are updated. Return 0, -1 where there is no memory, -2 where an activation or the loss is unknown, or -3
 * where a class index is out of range. */
int NAME(gradient)(const ParameterLayout *chain, const REAL *const *weights, const REAL *const *biases, const REAL *x, const void *target, const REAL *v,
                   REAL *out, REAL *gx, REAL *loss, REAL *velocity, int threads) {
    for (int64_t l = 0; l < chain->layers; l++)
        if (chain->activation[l].code < 0 || chain->activation[l].code >= ACTIVATION_COUNT) return -2;
    if (chain->loss < 0 || chain->loss >= LOSS_COUNT) return -2;
    const int64_t *classes = chain->classes ? target : NULL, P = chain->widths[chain->layers];
    for (int64_t s = 0; s < chain->samples && classes; s++)
        if (classes[s] < 0 || classes[s] >= P) return -3;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int64_t scratch = out ? 0 : (chain->parameters + 15) / 16 * 16;
    REAL *work = workspace((chain->work + chain->work_of_thread * threads + scratch) * sizeof(REAL));
    if (!work) return -1;
    double losses[MOST_THREADS] = {0};
    NAME(Derivative) d = {
        .chain = chain, .weight = weights, .bias = biases, .x = x, .v = v, .out = out ? out : work, .gx = gx,
        .velocity = velocity, .work = work + scratch, .losses = losses,
        .target = classes ? NULL : target, .classes = classes,
    };
    Task task = chain->together ? NAME(derivative_together) : NAME(derivative_apart);
    run_on(threads, chain->kind == GRADIENT && chain->samples == 1 ? NAME(derivative_of_one) : task, &d);
    double total = 0;
    for (int t = 0; t < threads; t++) total += losses[t];
    if (loss) *loss = (REAL)total;
    return 0;
}
