/* The tangent kernel from its factors: `Θ = Σ_l (C_l C_l'ᵀ) ∘ (h_{l-1}·h'_{l-1} + 1)`.
 *
 * First the factors: values and the cotangents of every output, in blocks of PANEL samples, one sample a lane. Such a block is at the same time
 * a panel of columns and a matrix of rows, so that nothing is moved: a tile of samples n of the one batch and PANEL samples n' of the other
 * takes, for each layer, the products of the values, and for each pair of outputs the products of the cotangents, multiplied by the former
 * before they leave the registers. The sum over the layers stays in the cache and passes through memory once, as the result. Where both
 * batches are one, tiles below the diagonal are mirrored.
 */

typedef struct {
    const ParameterLayout *chain;
    const KernelTiles *tiles;
    const REAL *const *weight, *const *bias;
    const REAL *x1, *x2; /* x2 is x1 where the kernel is symmetric */
    REAL *out, *factors1, *factors2, *work;
    atomic_long next_block, next_tile;
} NAME(Tiles);

INLINE int64_t NAME(count_in_block)(int64_t samples, int64_t block) {
    return samples - block * PANEL < PANEL ? samples - block * PANEL : PANEL;
}

/* A block of factors: values of all layers with x in front, slopes of the output, and for each output its cotangents in all hidden layers.
 * Several threads may share a block: rows of the evaluation, and then outputs. */
static void NAME(factors_of_block)(const NAME(Tiles) * t, const REAL *x, int64_t samples, int64_t block, REAL *factors, REAL *work, int thread,
                                   int threads) {
    const ParameterLayout *p = t->chain;
    const int64_t *width = p->widths, n = p->layers, P = width[n];
    int64_t count = NAME(count_in_block)(samples, block), side = NAME(lanes_for)(count), hidden = p->numbers - width[0] - P;
    NAME(Derivative) d = {.chain = p, .weight = t->weight, .bias = t->bias, .x = x};
    NAME(Block) b = {
        .d = &d, .first = block * PANEL, .count = count, .side = side, .h = factors, .slope = work,
        .spoiled = work + p->numbers * PANEL, .thread = thread, .threads = threads,
    };
    int64_t before = NAME(evaluate_block)(&b);
    const REAL *last = b.slope + before * side;
    REAL *output = factors + p->numbers * PANEL, *cotangents = output + P * PANEL;
    if (thread == 0) memcpy(output, last, P * side * sizeof(REAL));
    for (int64_t r = thread; r < P && n > 1; r += threads) {
        REAL *mine = cotangents + r * hidden * PANEL;
        int64_t at = hidden - width[n - 1]; /* where layer n - 1 stands among the hidden ones; its slopes stand `D` behind */
        const REAL *row = t->weight[n - 1] + r * width[n - 1];
        for (int64_t k = 0; k < width[n - 1]; k++)
            for (int64_t q = 0; q < side; q += LANES)
                NAME(store)(mine + (at + k) * side + q,
                            row[k] * NAME(load)(last + r * side + q) * NAME(load)(b.slope + (width[0] + at + k) * side + q));
        for (int64_t l = n - 2; l > 0; l--) {
            const REAL *C = mine + at * side;
            at -= width[l];
            NAME(Scale) by = {.each = b.slope + (width[0] + at) * side, .stride = side};
            NAME(times)(side, 0, width[l], width[l + 1], t->weight[l], 1, width[l], C, mine + at * side, &by);
        }
    }
}

/* Rows i0 … of block `i` against block `j`; against itself, a symmetric kernel, only from the diagonal on, as far as whole panels allow. */
static void NAME(one_tile)(const NAME(Tiles) * t, int64_t i, int64_t i0, int64_t rows, int64_t j, REAL *work) {
    const ParameterLayout *p = t->chain;
    const KernelTiles *g = t->tiles;
    const int64_t *width = p->widths, n = p->layers, P = width[n], outputs = g->trace ? 1 : P;
    int64_t side1 = NAME(lanes_for)(NAME(count_in_block)(g->first, i)), side2 = NAME(lanes_for)(NAME(count_in_block)(g->second, j));
    int diagonal = g->symmetric && i == j;
    int64_t skip = diagonal ? side2 - NAME(vectors_for)(side2 - i0) * LANES : 0;
    int64_t count = NAME(count_in_block)(g->second, j) - skip, side = side2 - skip, own = diagonal ? i0 - skip : 0;
    /* Tiles of the pairs of outputs lie a line more than their size apart: at a distance of 4 kB all would be in one set of the cache. */
    int64_t vectors = NAME(vectors_for)(side), filled = rows * side, area = filled + LANES, hidden = p->numbers - width[0] - P, N2 = g->second;
    const REAL *f1 = t->factors1 + i * g->block_numbers, *f2 = t->factors2 + j * g->block_numbers;
    const REAL *C1 = f1 + (p->numbers + P) * PANEL, *C2 = f2 + (p->numbers + P) * PANEL;
    REAL *total = work, *inner = total + outputs * outputs * (g->tile * PANEL + LANES);
    if (n == 1) memset(total, 0, outputs * outputs * area * sizeof(REAL));
    for (int64_t l = 0, at = 0, cotangents = 0; l < n; at += width[l], cotangents += width[l + 1], l++) {
        NAME(Scale) none = {0};
        NAME(panel)(vectors, rows, width[l], f1 + at * side1 + i0, 1, side1, f2 + at * side2 + skip, side2, inner, side, &none, 0, 0);
        for (int64_t q = 0; q < filled && t->bias[l]; q += LANES) NAME(store)(inner + q, NAME(load)(inner + q) + 1);
        if (l == n - 1) break;
        for (int64_t a = 0; a < P; a++)
            for (int64_t b = g->trace ? a : 0; b < (g->trace ? a + 1 : P); b++) {
                NAME(Scale) by = {.each = inner, .stride = side, .add = l > 0 || (g->trace && a > 0) ? ADD_SCALED : REPLACE};
                for (int v = 0; v < WIDEST; v++) by.lane[v] = v * LANES;
                NAME(panel)(vectors, rows, width[l + 1], C1 + a * hidden * PANEL + cotangents * side1 + i0, 1, side1,
                            C2 + b * hidden * PANEL + cotangents * side2 + skip, side2, g->trace ? total : total + (a * P + b) * area, side, &by, 0, 0);
            }
    }
    for (int64_t a = 0; a < P; a++) { /* the last layer: each output has a cotangent of its own alone */
        const REAL *s1 = f1 + p->numbers * PANEL + a * side1 + i0, *s2 = f2 + p->numbers * PANEL + a * side2 + skip;
        REAL *to = g->trace ? total : total + (a * P + a) * area;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t q = 0; q < side; q += LANES)
                NAME(store)(to + r * side + q,
                            NAME(load)(to + r * side + q) + s1[r] * NAME(load)(s2 + q) * NAME(load)(inner + r * side + q));
    }
    int64_t pairs = outputs * outputs, first = i * PANEL + i0, second = j * PANEL + skip;
    int64_t mirrored = !g->symmetric ? count : diagonal ? own + rows : 0; /* from this column on */
    if (pairs == 1) {
        for (int64_t r = 0; r < rows; r++) {
            REAL *to = t->out + (first + r) * N2 + second;
            int64_t c = own;
            for (; c + LANES <= count; c += LANES) NAME(stream)(to + c, NAME(load)(total + r * side + c));
            for (; c < count; c++) to[c] = total[r * side + c];
        }
        for (int64_t c = mirrored; c < count; c++) {
            REAL column[PANEL], *to = t->out + (second + c) * N2 + first;
            for (int64_t r = 0; r < rows; r++) column[r] = total[r * side + c];
            int64_t r = 0;
            for (; r + LANES <= rows; r += LANES) NAME(stream)(to + r, NAME(load)(column + r));
            for (; r < rows; r++) to[r] = column[r];
        }
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = own; c < count; c++) {
            REAL *to = t->out + ((first + r) * N2 + second + c) * pairs;
            for (int64_t q = 0; q < pairs; q++) to[q] = total[q * area + r * side + c];
        }
    for (int64_t c = mirrored; c < count; c++)
        for (int64_t r = 0; r < rows; r++) {
            REAL *to = t->out + ((second + c) * N2 + first + r) * pairs;
            for (int64_t b = 0; b < outputs; b++)
                for (int64_t a = 0; a < outputs; a++) to[b * outputs + a] = total[(a * outputs + b) * area + r * side + c];
        }
}

static void NAME(tiles)(void *argument, int thread, int threads) {
    NAME(Tiles) *t = argument;
    const KernelTiles *g = t->tiles;
    REAL *work = t->work + (int64_t)thread * g->work_of_thread;
    int64_t across = (g->second + PANEL - 1) / PANEL, down = (g->first + PANEL - 1) / PANEL, each = PANEL / g->tile;
    int64_t blocks = down + (g->symmetric ? 0 : across);
    int together = blocks < 2 * threads;
    for (long b = 0; b < blocks; b++) {
        if (!together && (b = atomic_fetch_add(&t->next_block, 1)) >= blocks) break;
        const REAL *x = b < down ? t->x1 : t->x2;
        REAL *factors = b < down ? t->factors1 + b * g->block_numbers : t->factors2 + (b - down) * g->block_numbers;
        NAME(factors_of_block)(t, x, b < down ? g->first : g->second, b < down ? b : b - down, factors, together ? t->work : work,
                               together ? thread : 0, together ? threads : 1);
        if (together) barrier(threads); /* the next block uses the same memory */
    }
    barrier(threads);
    for (long unit; (unit = atomic_fetch_add(&t->next_tile, 1)) < across * down * each;) {
        int64_t j = unit / (down * each), i = unit / each % down, i0 = unit % each * g->tile, count = NAME(count_in_block)(g->first, i);
        if ((g->symmetric && i > j) || i0 >= count) continue;
        NAME(one_tile)(t, i, i0, count - i0 < g->tile ? count - i0 : g->tile, j, work);
    }
    STREAMED(); /* before the other threads are told that this one is done */
}

/* Return 0, -1 where there is no memory, or -2 where an activation is unknown. The tile divides PANEL. x2 is null where it is x1. */
int NAME(tangent_kernel)(const ParameterLayout *chain, const KernelTiles *tiles, const REAL *const *weights, const REAL *const *biases, const REAL *x1,
                         const REAL *x2, REAL *out, int threads) {
    for (int64_t l = 0; l < chain->layers; l++)
        if (chain->activation[l].code < 0 || chain->activation[l].code >= ACTIVATION_COUNT) return -2;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int64_t down = (tiles->first + PANEL - 1) / PANEL * tiles->block_numbers;
    int64_t across = tiles->symmetric ? 0 : (tiles->second + PANEL - 1) / PANEL * tiles->block_numbers;
    REAL *work = workspace((down + across + tiles->work_of_thread * threads) * sizeof(REAL));
    if (!work) return -1;
    NAME(Tiles) t = {
        .chain = chain, .tiles = tiles, .weight = weights, .bias = biases, .x1 = x1, .x2 = x2, .out = out,
        .factors1 = work, .factors2 = tiles->symmetric ? work : work + down, .work = work + down + across,
    };
    run_on(threads, NAME(tiles), &t);
    return 0;
}
