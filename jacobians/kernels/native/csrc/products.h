/* Matrix products: panels of columns that stay in the first cache, and matrix-vector products that read a weight once. */

/* What is done to a tile of the product before it is stored. */
typedef struct {
    const REAL *rows;    /* scale row i by rows[i] */
    const REAL *columns; /* scale column j by columns[j] */
    const REAL *each;    /* scale element (i, j) by each[i * stride + lane[v]], the vectors of j beginning there */
    int64_t stride, lane[WIDEST];
    int add;             /* add to what is there: ADD_SCALED the scaled product, ADD_THEN_SCALE before scaling */
} NAME(Scale);

/* C[0:ROWS, 0:VECTORS*LANES] = A B: A(i, k) = a[i row + k step], B(k, j) = b[k ldb + j]. ROWS and VECTORS are constants where this is
 * inlined, the loops over them are unrolled, and each accumulator is a register. */
INLINE void NAME(tile)(const int ROWS, const int VECTORS, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b, int64_t ldb,
                       REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    VECTOR total[MOST_ROWS][WIDEST], right[WIDEST];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int v = 0; v < VECTORS; v++) total[i][v] = (VECTOR){0};
    for (int64_t k = 0; k < inner; k++, b += ldb) {
        UNROLL for (int v = 0; v < VECTORS; v++) right[v] = NAME(load)(b + v * LANES);
        UNROLL for (int i = 0; i < ROWS; i++) {
            VECTOR left = NAME(all)(a[i * row + k * step]);
            UNROLL for (int v = 0; v < VECTORS; v++) total[i][v] += left * right[v];
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int v = 0; v < VECTORS; v++) {
        VECTOR t = total[i][v];
        if (scale->add == ADD_THEN_SCALE) t += NAME(load)(c + i * ldc + v * LANES);
        if (scale->rows) t *= scale->rows[i0 + i];
        if (scale->columns) t *= NAME(load)(scale->columns + j0 + v * LANES);
        if (scale->each) t *= NAME(load)(scale->each + (i0 + i) * scale->stride + scale->lane[v]);
        if (scale->add == ADD_SCALED) t += NAME(load)(c + i * ldc + v * LANES);
        NAME(store)(c + i * ldc + v * LANES, t);
    }
}

/* All rows of a panel, MOST at a time and then 3, 2 and 1. */
INLINE void NAME(rows_of_tiles)(const int MOST, const int VECTORS, int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step,
                                const REAL *b, int64_t ldb, REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    int64_t i = 0;
    for (; i + MOST <= rows; i += MOST)
        NAME(tile)(MOST, VECTORS, inner, a + i * row, row, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);
    for (; i + 3 <= rows; i += 3) NAME(tile)(3, VECTORS, inner, a + i * row, row, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);
    for (; i + 2 <= rows; i += 2) NAME(tile)(2, VECTORS, inner, a + i * row, row, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);
    for (; i < rows; i++) NAME(tile)(1, VECTORS, inner, a + i * row, row, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);
}

/* One function per width of a panel, and in it one loop per layout of A: either step or row is 1. */
static __attribute__((noinline)) void NAME(tiles_1)(int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b,
                                                    int64_t ldb, REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    if (step == 1) NAME(rows_of_tiles)(TALL_TILE, 1, rows, inner, a, row, 1, b, ldb, c, ldc, scale, i0, j0);
    else NAME(rows_of_tiles)(TALL_TILE, 1, rows, inner, a, 1, step, b, ldb, c, ldc, scale, i0, j0);
}
static __attribute__((noinline)) void NAME(tiles_2)(int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b,
                                                    int64_t ldb, REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    if (step == 1) NAME(rows_of_tiles)(MIDDLE_TILE, 2, rows, inner, a, row, 1, b, ldb, c, ldc, scale, i0, j0);
    else NAME(rows_of_tiles)(MIDDLE_TILE, 2, rows, inner, a, 1, step, b, ldb, c, ldc, scale, i0, j0);
}
#if WIDEST == 4
static __attribute__((noinline)) void NAME(tiles_4)(int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b,
                                                    int64_t ldb, REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    if (step == 1) NAME(rows_of_tiles)(WIDE_TILE, 4, rows, inner, a, row, 1, b, ldb, c, ldc, scale, i0, j0);
    else NAME(rows_of_tiles)(WIDE_TILE, 4, rows, inner, a, 1, step, b, ldb, c, ldc, scale, i0, j0);
}
#endif

/* The product of `rows` rows with one panel of `width` columns, a full number of vectors: 1, 2 or 4. Either row or step is 1. */
static void NAME(panel)(int64_t vectors, int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b, int64_t ldb,
                        REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    if (vectors == 1) NAME(tiles_1)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
    else if (vectors == 2) NAME(tiles_2)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
#if WIDEST == 4
    else NAME(tiles_4)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
#endif
}

INLINE int64_t NAME(vectors_for)(int64_t columns) { return columns <= LANES ? 1 : columns <= 2 * LANES ? 2 : WIDEST; }

/* Lanes for some samples: full panels, and one, two or WIDEST vectors for the rest. */
INLINE int64_t NAME(lanes_for)(int64_t count) {
    int64_t rest = count % PANEL;
    return count - rest + (rest ? NAME(vectors_for)(rest) * LANES : 0);
}

/* Whether numbers a step apart share so few sets of the cache that blocks of them are to be copied together. */
INLINE int NAME(few_sets)(int64_t step, int64_t inner) { return step * sizeof(REAL) % 2048 == 0 && inner >= 2 * FAR_INNER; }

/* Rows from … to - 1 of C = A B for all lanes of a block: a group of rows at a time, so that A passes through the cache once; a very long inner
 * dimension is cut, so that the part of B at hand stays in the second cache. Of the scales only `each`, whose rows repeat. */
static void NAME(times)(int64_t side, int64_t from, int64_t to, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *B, REAL *c,
                        const NAME(Scale) * scale) {
    int far = step > 1 && NAME(few_sets)(step, inner);
    int64_t cut = far ? FAR_INNER : inner > LONGEST_INNER ? LONGEST_INNER / 4 : inner;
    REAL together[FAR_INNER * ROWS_AT_ONCE];
    for (int64_t i = from; i < to; i += ROWS_AT_ONCE)
        for (int64_t k = 0; k < inner; k += cut) {
            int64_t some = inner - k < cut ? inner - k : cut, rows = to - i < ROWS_AT_ONCE ? to - i : ROWS_AT_ONCE;
            const REAL *left = a + i * row + k * step;
            for (int64_t q = 0; q < some && far; q++) {
                const REAL *next = left + (q + 16) * step;
                for (int64_t v = 0; v < rows; v += 64 / (int64_t)sizeof(REAL)) __builtin_prefetch(next + v);
                __builtin_prefetch(next + rows - 1);
                if (rows == ROWS_AT_ONCE)
                    UNROLL for (int v = 0; v < ROWS_AT_ONCE; v += LANES) NAME(store)(together + q * ROWS_AT_ONCE + v, NAME(load)(left + q * step + v));
                else memcpy(together + q * ROWS_AT_ONCE, left + q * step, rows * sizeof(REAL));
            }
            NAME(Scale) here = {.add = k > 0 || scale->add ? ADD_THEN_SCALE : REPLACE};
            if (k + some == inner) here.each = scale->each, here.stride = scale->stride;
            for (int64_t j = 0; j < side; j += PANEL) {
                for (int64_t v = 0; v < WIDEST && here.each; v++) here.lane[v] = (j + v * LANES) % here.stride;
                NAME(panel)(NAME(vectors_for)(side - j), rows, some, far ? together : left, row, far ? ROWS_AT_ONCE : step, B + k * side + j, side,
                            c + i * side + j, side, &here, i, 0);
            }
        }
}

/* Columns j0 … of C = A B, at most one panel; B is row-major. `packed` holds inner x panel numbers, `spare` rows x panel. Panels are
 * copied together where they are reused by many rows, are ragged, or lie a multiple of 2 kB apart and so in few sets of the cache. */
static void NAME(product_panel)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b,
                                int64_t ldb, REAL *c, int64_t ldc, NAME(Scale) scale, int64_t i0, int64_t j0, REAL *packed, REAL *spare) {
    int64_t width = columns - j0 < PANEL ? columns - j0 : PANEL;
    int64_t vectors = NAME(vectors_for)(width), full = vectors * LANES;
    const REAL *right = b + j0;
    REAL padded_columns[PANEL];
    if (width < full || rows > 64 || (rows > 24 && ldb * sizeof(REAL) % 2048 == 0)) {
        for (int64_t k = 0; k < inner; k++) {
            __builtin_prefetch(right + (k + 16) * ldb);
            for (int64_t v = 0; v < vectors; v++) {
                int64_t rest = width - v * LANES;
                NAME(store)(packed + k * full + v * LANES, rest >= LANES ? NAME(load)(right + k * ldb + v * LANES)
                                                           : rest > 0    ? NAME(head)(right + k * ldb + v * LANES, rest)
                                                                         : NAME(all)(0));
            }
        }
        right = packed;
        ldb = full;
    }
    if (width == full) {
        NAME(panel)(vectors, rows, inner, a, row, step, right, ldb, c + j0, ldc, &scale, i0, j0);
        return;
    }
    if (scale.columns) {
        memset(padded_columns, 0, sizeof padded_columns);
        memcpy(padded_columns, scale.columns + j0, width * sizeof(REAL));
        scale.columns = padded_columns - j0;
    }
    int add = scale.add;
    scale.add = 0;
    for (int64_t i = 0; i < rows; i += SPARE_ROWS) {
        int64_t some = rows - i < SPARE_ROWS ? rows - i : SPARE_ROWS;
        NAME(panel)(vectors, some, inner, a + i * row, row, step, right, ldb, spare, full, &scale, i0 + i, j0);
        for (int64_t r = 0; r < some; r++) {
            REAL *out = c + (i + r) * ldc + j0;
            if (add)
                for (int64_t j = 0; j < width; j++) out[j] += spare[r * full + j];
            else memcpy(out, spare + r * full, width * sizeof(REAL));
        }
    }
}

/* out[r ldo + i] = Σ_k W[i, k] v_r[k] for ROWS rows of W and COUNT vectors at once: W is read once, whatever COUNT. */
INLINE void NAME(dots)(const int ROWS, const int COUNT, int64_t n, const REAL *w, const REAL *const *vectors, REAL *out, int64_t ldo) {
    VECTOR total[4][4], right[4];
    const REAL *vector[4];
    UNROLL for (int r = 0; r < COUNT; r++) vector[r] = vectors[r];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int r = 0; r < COUNT; r++) total[i][r] = (VECTOR){0};
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        UNROLL for (int r = 0; r < COUNT; r++) right[r] = NAME(load)(vector[r] + k);
        UNROLL for (int i = 0; i < ROWS; i++) {
            VECTOR left = NAME(load)(w + i * n + k);
            UNROLL for (int r = 0; r < COUNT; r++) total[i][r] += left * right[r];
        }
    }
    if (k < n) {
        UNROLL for (int r = 0; r < COUNT; r++) right[r] = NAME(head)(vector[r] + k, n - k);
        UNROLL for (int i = 0; i < ROWS; i++) {
            VECTOR left = NAME(head)(w + i * n + k, n - k);
            UNROLL for (int r = 0; r < COUNT; r++) total[i][r] += left * right[r];
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int r = 0; r < COUNT; r++) out[r * ldo + i] = NAME(sum)(total[i][r]);
}

INLINE void NAME(rows_of_dots)(const int COUNT, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *const *v, REAL *out,
                               int64_t ldo) {
    int64_t i = from;
    for (; i + 4 <= to; i += 4) NAME(dots)(4, COUNT, n, w + i * n, v, out + i, ldo);
    for (; i < to; i++) NAME(dots)(1, COUNT, n, w + i * n, v, out + i, ldo);
}

static void NAME(matrix_vectors)(int count, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *const *v, REAL *out, int64_t ldo) {
    switch (count) {
    case 1: NAME(rows_of_dots)(1, from, to, n, w, v, out, ldo); break;
    case 2: NAME(rows_of_dots)(2, from, to, n, w, v, out, ldo); break;
    case 3: NAME(rows_of_dots)(3, from, to, n, w, v, out, ldo); break;
    default: NAME(rows_of_dots)(4, from, to, n, w, v, out, ldo);
    }
}

/* g_r[k] (+)= Σ_i u_r[i] W[i, k] over ROWS rows of W, for COUNT cotangents u_r. */
INLINE void NAME(combine)(const int ROWS, const int COUNT, int64_t n, const REAL *w, const REAL *u, int64_t ldu, REAL *g, int64_t ldg,
                          int first) {
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        VECTOR left[4];
        UNROLL for (int i = 0; i < ROWS; i++) left[i] = NAME(load)(w + i * n + k);
        UNROLL for (int r = 0; r < COUNT; r++) {
            VECTOR total = first ? NAME(all)(0) : NAME(load)(g + r * ldg + k);
            UNROLL for (int i = 0; i < ROWS; i++) total += left[i] * u[r * ldu + i];
            NAME(store)(g + r * ldg + k, total);
        }
    }
    for (; k < n; k++)
        UNROLL for (int r = 0; r < COUNT; r++) {
            REAL total = first ? 0 : g[r * ldg + k];
            UNROLL for (int i = 0; i < ROWS; i++) total += w[i * n + k] * u[r * ldu + i];
            g[r * ldg + k] = total;
        }
}

/* g_r = Σ_i u_r[i] W[i, :] over rows from … to - 1, last row first: those the evaluation has just read are still in the cache. */
INLINE void NAME(rows_combined)(const int COUNT, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *u, int64_t ldu, REAL *g,
                                int64_t ldg) {
    int first = 1;
    int64_t i = to;
    for (; i - 4 >= from; i -= 4, first = 0) NAME(combine)(4, COUNT, n, w + (i - 4) * n, u + i - 4, ldu, g, ldg, first);
    for (; i - 1 >= from; i--, first = 0) NAME(combine)(1, COUNT, n, w + (i - 1) * n, u + i - 1, ldu, g, ldg, first);
    if (first)
        for (int r = 0; r < COUNT; r++) memset(g + r * ldg, 0, n * sizeof(REAL));
}

static void NAME(vectors_matrix)(int count, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *u, int64_t ldu, REAL *g, int64_t ldg) {
    switch (count) {
    case 1: NAME(rows_combined)(1, from, to, n, w, u, ldu, g, ldg); break;
    case 2: NAME(rows_combined)(2, from, to, n, w, u, ldu, g, ldg); break;
    case 3: NAME(rows_combined)(3, from, to, n, w, u, ldu, g, ldg); break;
    default: NAME(rows_combined)(4, from, to, n, w, u, ldu, g, ldg);
    }
}
