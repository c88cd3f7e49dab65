/* The modes: one sample by matrix-vector products or by a list of matrix products, a batch by blocks of samples. */

typedef struct {
    const Program *program;
    const REAL *const *weight; /* W_1 … W_n, each row-major (out, in), and the seed: W_1 again, or some of its columns */
    const REAL *const *bias;   /* b_1 … b_n or null */
    const REAL *x;
    REAL *J, *y; /* y may be null */
    REAL *work;
    atomic_long next; /* the next block or sample of a batch */
} NAME(Call);

INLINE void NAME(share)(int64_t rows, int thread, int threads, int64_t *from, int64_t *to) {
    int64_t each = (rows + 4 * threads - 1) / (4 * threads) * 4; /* in fours, as rows are taken */
    *from = each * thread < rows ? each * thread : rows;
    *to = *from + each < rows ? *from + each : rows;
}

/* Σ(x - x): zero, or NaN where x is not finite and has no Jacobian. */
INLINE REAL NAME(poison)(const REAL *x, int64_t n) {
    VECTOR total = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) total += NAME(load)(x + i) - NAME(load)(x + i);
    if (i < n) total += NAME(head)(x + i, n - i) - NAME(head)(x + i, n - i);
    return NAME(sum)(total);
}

/* h = φ(z + b) and its slope for rows from … to - 1 of layer l. */
static void NAME(finish_rows)(const Program *p, const REAL *const *bias, int64_t l, int64_t from, int64_t to, REAL *h, REAL *s, REAL spoiled) {
    if (bias[l])
        for (int64_t i = from; i < to; i++) h[i] += bias[l][i];
    NAME(activate)(p->activation + l, h + from, s + from, to - from);
    if (l == 0)
        for (int64_t i = from; i < to; i++) s[i] += spoiled;
}

/* One sample on some threads: where its parts lie in `work`, and the thread index. */
typedef struct {
    const Program *p;
    const REAL *const *weight, *const *bias;
    const REAL *x;
    REAL *J, *y;        /* y may be null */
    REAL *slope;        /* of all layers, one behind the other */
    REAL *last_slope;
    REAL *carried[2];   /* values and up to three tangents of two layers, `widest` apart */
    REAL *buffers;      /* of the algorithms behind the evaluation */
    int thread, threads;
} NAME(Sample);

/* Evaluate, keeping the slopes; up to three tangents, of column `first` of the seed on, are pushed beside the value, so that each weight is read once. With
 * tangents this is forward mode, and their columns of J are done. */
static void NAME(push)(const NAME(Sample) * one, int64_t first, int64_t tangents) {
    const Program *p = one->p;
    const int64_t *width = p->widths, n = p->layers, D = width[0], columns = p->columns, widest = p->widest;
    const REAL *seed = one->weight[n];
    int whole = one->y || p->scaled_output; /* whether the last layer is evaluated */
    REAL spoiled = NAME(poison)(one->x, D);
    const REAL *h = one->x;
    int64_t ldt = 0, from, to; /* ldt: distance of the tangents behind h */
    for (int64_t l = 0, at = 0; l < n; at += width[l + 1], l++) {
        NAME(share)(width[l + 1], one->thread, one->threads, &from, &to);
        REAL *out = one->carried[l % 2], *s = one->slope + at;
        const REAL *W = one->weight[l], *v[4] = {h, h + ldt, h + 2 * ldt, h + 3 * ldt};
        int64_t in = width[l];
        int last = l == n - 1, evaluated = !last || whole;
        int64_t beside = l > 0 ? tangents : 0;
        if (evaluated) NAME(matrix_vectors)(1 + beside, from, to, in, W, v, out, widest);
        else if (beside) NAME(matrix_vectors)(beside, from, to, in, W, v + 1, out + widest, widest);
        if (evaluated) NAME(finish_rows)(p, one->bias, l, from, to, out, s, spoiled);
        if (l == 0)
            for (int64_t i = from; i < to && tangents; i++)
                for (int64_t d = 0; d < tangents; d++) out[(1 + d) * widest + i] = seed[i * columns + first + d] * s[i];
        else if (!last || p->scaled_output)
            for (int64_t d = 1; d <= tangents; d++)
                for (int64_t i = from; i < to; i++) out[d * widest + i] *= s[i];
        if (last && tangents)
            for (int64_t i = from; i < to; i++)
                for (int64_t d = 0; d < tangents; d++) one->J[i * columns + first + d] = out[(1 + d) * widest + i];
        if (last && one->y)
            for (int64_t i = from; i < to; i++) one->y[i] = out[i];
        h = out;
        ldt = widest;
        barrier(one->threads);
    }
}

/* Reverse mode with up to four cotangents, of y[first] on, summed over the rows of each weight. Every thread keeps the rows it had in the evaluation, and
 * so finds part of them in its own cache; each sums its rows, and the next layer adds up the sums of the threads. */
static void NAME(pull)(const NAME(Sample) * one, int64_t first, int64_t count) {
    const Program *p = one->p;
    const int64_t *width = p->widths, n = p->layers, columns = p->columns, P = width[n], widest = p->widest;
    const REAL *const *W = one->weight, *seed = one->weight[n];
    int thread = one->thread, threads = one->threads;
    int64_t from, to;
    REAL *sums[2] = {one->buffers, one->buffers + 4 * widest * threads};
    REAL *u = one->buffers + 8 * widest * threads + 4 * widest * thread;
    for (int64_t l = n - 2, at = p->slopes - P - width[n - 1]; l >= 0; at -= width[l], l--) {
        int64_t out = width[l + 1], in = l > 0 ? width[l] : columns;
        NAME(share)(out, thread, threads, &from, &to);
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = from; i < to; i++) {
                REAL g = 0;
                if (l == n - 2) g = W[n - 1][(first + r) * out + i] * (p->scaled_output ? one->last_slope[first + r] : 1);
                else
                    for (int t = 0; t < threads; t++) g += sums[(l + 1) % 2][(t * 4 + r) * widest + i];
                u[r * widest + i] = g * one->slope[at + i];
            }
        if (threads == 1 && l == 0) {
            NAME(vectors_matrix)(count, from, to, in, seed, u, widest, one->J + first * columns, columns);
            return;
        }
        NAME(vectors_matrix)(count, from, to, in, l > 0 ? W[l] : seed, u, widest, sums[l % 2] + thread * 4 * widest, widest);
        barrier(threads);
    }
    NAME(share)(columns, thread, threads, &from, &to);
    for (int64_t r = 0; r < count; r++)
        for (int64_t k = from; k < to; k++) {
            REAL g = 0;
            for (int t = 0; t < threads; t++) g += sums[0][(t * 4 + r) * widest + k];
            one->J[(first + r) * columns + k] = g;
        }
}

/* Any order of products: carry out the steps, slopes multiplied in while a tile is in registers. */
static void NAME(multiply)(const NAME(Sample) * one) {
    const Program *p = one->p;
    int thread = one->thread, threads = one->threads;
    int64_t from, to;
    REAL *private = one->buffers + p->buffers + (int64_t)thread * p->private;
    for (int64_t number = 0; number < p->steps; number++) {
        const Step *step = p->step + number;
        const REAL *a = step->a_weight >= 0 ? one->weight[step->a_weight] : one->buffers + step->a_buffer;
        REAL *c = step->c_buffer >= 0 ? one->buffers + step->c_buffer : one->J;
        const REAL *rows = step->row_slope >= 0 ? one->slope + step->row_slope : NULL;
        const REAL *columns = step->column_slope >= 0 ? one->slope + step->column_slope : NULL;
        if (step->inner == 0) { /* a scaled copy */
            NAME(share)(step->rows, thread, threads, &from, &to);
            for (int64_t i = from; i < to; i++)
                for (int64_t j = 0; j < step->columns; j++)
                    c[i * step->columns + j] = a[i * step->columns + j] * (rows ? rows[i] : 1) * (columns ? columns[j] : 1);
        } else {
            const REAL *b = step->b_weight >= 0 ? one->weight[step->b_weight] : one->buffers + step->b_buffer;
            NAME(Scale) scale = {.rows = rows, .columns = columns};
            int64_t panels = (step->columns + PANEL - 1) / PANEL;
            int64_t chunks = panels % threads == 0 || panels >= 6 * threads ? 1 : threads;
            for (int64_t unit = 0; unit < panels * chunks; unit++) {
                if (unit * threads / (panels * chunks) != thread) continue;
                NAME(share)(step->rows, unit % chunks, chunks, &from, &to);
                if (from < to)
                    NAME(product_panel)(to - from, step->columns, step->inner, a + from * step->inner, step->inner, 1, b, step->columns,
                                        c + from * step->columns, step->columns, scale, from, unit / chunks * PANEL, private,
                                        private + step->inner * PANEL);
            }
        }
        barrier(threads);
    }
}

static void NAME(one)(NAME(Call) * call, const REAL *x, REAL *J, REAL *y, REAL *work, int thread, int threads) {
    const Program *p = call->program;
    NAME(Sample) one = {
        .p = p, .weight = call->weight, .bias = call->bias, .x = x, .J = J, .y = y, .thread = thread, .threads = threads,
        .slope = work,
        .last_slope = work + p->slopes - p->widths[p->layers],
        .carried = {work + p->slopes, work + p->slopes + 4 * p->widest},
        .buffers = work + p->slopes + 8 * p->widest,
    };
    int64_t columns = p->columns, P = p->widths[p->layers];
    if (p->kind == TANGENTS) {
        for (int64_t d = 0; d < columns; d += 3) NAME(push)(&one, d, columns - d < 3 ? columns - d : 3);
        return;
    }
    NAME(push)(&one, 0, 0);
    if (p->kind == PRODUCTS) NAME(multiply)(&one);
    for (int64_t r = 0; r < P && p->kind == COTANGENTS; r += 4) {
        if (r > 0) barrier(threads); /* the sums of the last four have been read */
        NAME(pull)(&one, r, P - r < 4 ? P - r : 4);
    }
}

static void NAME(one_on_all)(void *argument, int thread, int threads) {
    NAME(Call) *call = argument;
    NAME(one)(call, call->x, call->J, call->y, call->work, thread, threads);
}

/* A batch, one whole sample after the other on each thread. */
static void NAME(sample_by_sample)(void *argument, int thread, int threads) {
    NAME(Call) *call = argument;
    const Program *p = call->program;
    int64_t D = p->widths[0], P = p->widths[p->layers];
    REAL *work = call->work + (int64_t)thread * p->work_of_thread;
    for (long n; (n = atomic_fetch_add(&call->next, 1)) < p->samples;)
        NAME(one)(call, call->x + n * D, call->J + n * P * p->columns, call->y ? call->y + n * P : NULL, work, 0, 1);
}

/* A block of samples: numbers of one neuron lie side by side, one sample a lane. All layers and all tangents or cotangents of the
 * block, or one of the equal parts of these, are done before the next block, so that what is carried stays in the cache. */
static void NAME(block)(NAME(Call) * call, int64_t first, int64_t count, int64_t part, REAL *work) {
    const Program *p = call->program;
    const int64_t *width = p->widths, n = p->layers, D = width[0], columns = p->columns, P = width[n], widest = p->widest;
    const REAL *const *W = call->weight, *const *bias = call->bias, *seed = W[n];
    int64_t side = NAME(lanes_for)(count);
    int whole = call->y || p->scaled_output;
    REAL *slope = work, *carried[2] = {work + p->slopes * side, work + p->slopes * side + widest * MOST_SIDE};
    REAL *spare = work + p->slopes * side + 2 * widest * MOST_SIDE;
    REAL *last_slope = slope + (p->slopes - P) * side;
    const REAL *x = call->x + first * D;
    REAL *J = call->J + first * P * columns;
    NAME(Scale) none = {0};

    REAL *h = carried[1];
    REAL spoiled[MOST_SIDE] = {0};
    if (count < side) memset(h, 0, D * side * sizeof(REAL));
    for (int64_t s = 0; s < count; s++) spoiled[s] = NAME(poison)(x + s * D, D);
    for (int64_t d0 = 0; d0 < D; d0 += LANES) /* turned in squares that fit the first cache */
        for (int64_t s = 0; s < count; s++)
            for (int64_t d = d0; d < d0 + LANES && d < D; d++) h[d * side + s] = x[s * D + d];
    for (int64_t l = 0, at = 0; l < n; at += width[l + 1], l++) {
        int64_t out = width[l + 1];
        REAL *z = carried[l % 2], *s = slope + at * side;
        if (l == n - 1 && !whole) break;
        NAME(times)(side, 0, out, width[l], W[l], width[l], 1, h, z, &none);
        if (bias[l])
            for (int64_t i = 0; i < out; i++)
                for (int64_t q = 0; q < side; q++) z[i * side + q] += bias[l][i];
        NAME(activate)(p->activation + l, z, s, out * side);
        if (l == 0)
            for (int64_t i = 0; i < out; i++)
                for (int64_t q = 0; q < side; q++) s[i * side + q] += spoiled[q];
        h = z;
    }
    if (call->y && part == 0)
        for (int64_t s = 0; s < count; s++)
            for (int64_t i = 0; i < P; i++) call->y[(first + s) * P + i] = h[i * side + s];

    int64_t seeds = p->kind == FORWARD_BLOCKS ? columns : P, from = seeds * part / p->parts, to = seeds * (part + 1) / p->parts;
    NAME(Scale) by_last = {0};
    if (p->scaled_output) by_last = (NAME(Scale)){.each = last_slope, .stride = side};
    if (n == 1) {
        for (int64_t s = 0; s < count; s++)
            for (int64_t i = 0; i < P && part == 0; i++)
                for (int64_t d = 0; d < columns; d++) J[(s * P + i) * columns + d] = seed[i * columns + d] * last_slope[i * side + s];
        return;
    }
    if (p->kind == FORWARD_BLOCKS) {
        for (int64_t d = from, some; d < to; d += some) {
            REAL *t = carried[0];
            some = to - d < p->group ? to - d : p->group;
            for (int64_t i = 0; i < width[1]; i++)
                for (int64_t e = 0; e < some; e++)
                    for (int64_t q = 0; q < side; q++) t[(i * some + e) * side + q] = seed[i * columns + d + e] * slope[i * side + q];
            for (int64_t l = 1, at = width[1]; l < n; at += width[l + 1], l++) {
                NAME(Scale) by = {.each = slope + at * side, .stride = side};
                NAME(times)(some * side, 0, width[l + 1], width[l], W[l], width[l], 1, t, carried[l % 2], l < n - 1 ? &by : &by_last);
                t = carried[l % 2];
            }
            for (int64_t s = 0; s < count; s++)
                for (int64_t i = 0; i < P; i++)
                    for (int64_t e = 0; e < some; e++) J[(s * P + i) * columns + d + e] = t[(i * some + e) * side + s];
        }
        return;
    }
    for (int64_t r = from, some; r < to; r += some) {
        int64_t at = p->slopes - P - width[n - 1];
        REAL *g = carried[(n - 1) % 2];
        some = to - r < p->group ? to - r : p->group;
        int64_t lanes = some * side;
        for (int64_t k = 0; k < width[n - 1]; k++)
            for (int64_t e = 0; e < some; e++)
                for (int64_t q = 0; q < side; q++)
                    g[k * lanes + e * side + q] = W[n - 1][(r + e) * width[n - 1] + k] * slope[(at + k) * side + q];
        if (by_last.each)
            for (int64_t k = 0; k < width[n - 1]; k++)
                for (int64_t e = 0; e < lanes; e++) g[k * lanes + e] *= last_slope[r * side + e];
        for (int64_t l = n - 2; l > 0; l--) {
            at -= width[l];
            NAME(Scale) by = {.each = slope + at * side, .stride = side};
            NAME(times)(lanes, 0, width[l], width[l + 1], W[l], 1, width[l], g, carried[l % 2], &by);
            g = carried[l % 2];
        }
        if (columns >= LANES && !NAME(few_sets)(columns, width[1])) { /* the last product in the layout of J: a row per sample */
            for (int64_t j = 0; j < columns; j += PANEL)
                for (int64_t e = 0; e < some; e++)
                    NAME(product_panel)(count, columns, width[1], g + e * side, 1, lanes, seed, columns, J + (r + e) * columns, P * columns,
                                        none, 0, j, spare, spare + widest * PANEL);
        } else {
            REAL *out = carried[0] == g ? carried[1] : carried[0];
            NAME(times)(lanes, 0, columns, width[1], seed, 1, columns, g, out, &none);
            for (int64_t d0 = 0; d0 < columns; d0 += LANES)
                for (int64_t s = 0; s < count; s++)
                    for (int64_t e = 0; e < some; e++)
                        for (int64_t d = d0; d < d0 + LANES && d < columns; d++) J[(s * P + r + e) * columns + d] = out[d * lanes + e * side + s];
        }
    }
}

static void NAME(block_by_block)(void *argument, int thread, int threads) {
    NAME(Call) *call = argument;
    const Program *p = call->program;
    int64_t size = p->block;
    REAL *work = call->work + (int64_t)thread * p->work_of_thread;
    for (int64_t b; (b = atomic_fetch_add(&call->next, 1)) / p->parts * size < p->samples;) {
        int64_t first = b / p->parts * size, left = p->samples - first;
        NAME(block)(call, first, left < size ? left : size, b % p->parts, work);
    }
}

/* Compute J, and y where it is not null. Return 0, -1 where there is no memory, or -2 where an activation is unknown. */
int NAME(jacobian)(const Program *program, const REAL *const *weights, const REAL *const *biases, const REAL *x, REAL *J, REAL *y, int threads) {
    for (int64_t l = 0; l < program->layers; l++)
        if (program->activation[l].code < 0 || program->activation[l].code >= ACTIVATION_COUNT) return -2;
    int shared = program->samples < 0;
    REAL *work = workspace((program->work + program->work_of_thread * threads) * sizeof(REAL));
    if (!work) return -1;
    NAME(Call) call = {program, weights, biases, x, J, y, work, 0};
    Task task = shared ? NAME(one_on_all) : program->kind >= FORWARD_BLOCKS ? NAME(block_by_block) : NAME(sample_by_sample);
    run_on(threads, task, &call);
    return 0;
}

/* Write φ(z) into z and φ'(z) into s: for tests of the elementary functions alone. */
int NAME(elementary)(const Activation *activation, REAL *z, REAL *s, int64_t n) {
    if (activation->code < 0 || activation->code >= ACTIVATION_COUNT) return -2;
    NAME(activate)(activation, z, s, n);
    return 0;
}

/* The most samples of a block, and the numbers of a vector. */
int NAME(panel_width)(void) { return PANEL; }
int NAME(vector_width)(void) { return LANES; }

typedef struct {
    const REAL *p;
    int64_t n, passes;
    REAL *sums; /* one a thread */
} NAME(Reading);

static void NAME(read_share)(void *argument, int thread, int threads) {
    NAME(Reading) *reading = argument;
    int64_t each = reading->n / threads / (8 * LANES) * (8 * LANES), from = each * thread;
    VECTOR total[8] = {0};
    for (int64_t pass = 0; pass < reading->passes; pass++)
        for (int64_t i = from; i < from + each; i += 8 * LANES) {
            total[0] += NAME(load)(reading->p + i);
            total[1] += NAME(load)(reading->p + i + LANES);
            total[2] += NAME(load)(reading->p + i + 2 * LANES);
            total[3] += NAME(load)(reading->p + i + 3 * LANES);
            total[4] += NAME(load)(reading->p + i + 4 * LANES);
            total[5] += NAME(load)(reading->p + i + 5 * LANES);
            total[6] += NAME(load)(reading->p + i + 6 * LANES);
            total[7] += NAME(load)(reading->p + i + 7 * LANES);
        }
    reading->sums[thread] = NAME(sum)(total[0] + total[1] + total[2] + total[3] + total[4] + total[5] + total[6] + total[7]);
}

/* Read n numbers `passes` times, each thread its own share: what memory can give at best. */
REAL NAME(read_all)(const REAL *p, int64_t n, int64_t passes, int threads) {
    REAL sums[MOST_THREADS] = {0}, total = 0;
    NAME(Reading) reading = {p, n, passes, sums};
    run_on(threads, NAME(read_share), &reading);
    for (int t = 0; t < MOST_THREADS; t++) total += sums[t];
    return total;
}

typedef struct {
    int64_t passes;
    REAL *sums; /* one a thread */
} NAME(Multiplying);

/* Multiply-adds that do not wait for each other: more than latency times units (10 at most), and with two constants no more than
   there are registers, which AVX2 has 16 of: one that spills is no ceiling. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { NAME(CHAINS) = 12 };
#else
enum { NAME(CHAINS) = 16 };
#endif

static void NAME(multiply_share)(void *argument, int thread, int threads) {
    NAME(Multiplying) *work = argument;
    VECTOR total[NAME(CHAINS)], factor = NAME(all)((REAL)0.999), term = NAME(all)((REAL)0.001);
    UNROLL for (int i = 0; i < NAME(CHAINS); i++) total[i] = NAME(all)((REAL)(i + 2)); /* 1 stays 1, and a compiler takes it out of the loop */
    for (int64_t pass = 0; pass < work->passes; pass++) UNROLL for (int i = 0; i < NAME(CHAINS); i++) total[i] = total[i] * factor + term;
    VECTOR all = {0};
    UNROLL for (int i = 0; i < NAME(CHAINS); i++) all += total[i];
    work->sums[thread] = NAME(sum)(all);
}

/* Multiply and add in registers, `passes` times a loop on each thread: what arithmetic can give at best. Returns the operations. */
int64_t NAME(multiply_add)(int64_t passes, int threads) {
    REAL sums[MOST_THREADS] = {0};
    NAME(Multiplying) work = {passes, sums};
    run_on(threads, NAME(multiply_share), &work);
    int64_t took_part = 0;
    for (int t = 0; t < MOST_THREADS; t++) took_part += sums[t] != 0;
    return took_part * passes * NAME(CHAINS) * LANES * 2;
}
