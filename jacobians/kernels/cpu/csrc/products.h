/* Matrix products: panels of columns that stay in the first cache, and matrix-vector products that read a weight once. */

/* What is done to a tile of the product before it is stored. */
typedef struct {
    const REAL *rows;    /* scale row i by rows[i] */
    const REAL *columns; /* scale column j by columns[j] */
    const REAL *each;    /* scale element (i, j) by each[i * stride + j] */
    int64_t stride;
} NAME(Scale);

/* C[0:ROWS, 0:VECTORS*LANES] = A B: A(i, k) = a[i row + k step], B(k, j) = b[k ldb + j]. One accumulator per row and vector. */
#define LOAD_RIGHT(v, ...) VECTOR right##v = NAME(load)(b + v * LANES);
#define BEGIN(i, v) VECTOR total##i##_##v = {0};
#define ADD(i, v) total##i##_##v += left * right##v;
#define ADD_ROW(i, AND)                                                                                                 \
    {                                                                                                                   \
        VECTOR left = NAME(all)(a[i * row + k * step]);                                                                 \
        AND(i, ADD)                                                                                                     \
    }
#define FINISH(i, v)                                                                                                    \
    {                                                                                                                   \
        VECTOR t = total##i##_##v;                                                                                      \
        if (scale->rows) t *= scale->rows[i0 + i];                                                                      \
        if (scale->columns) t *= NAME(load)(scale->columns + j0 + v * LANES);                                           \
        if (scale->each) t *= NAME(load)(scale->each + (i0 + i) * scale->stride + v * LANES);                           \
        NAME(store)(c + i * ldc + v * LANES, t);                                                                        \
    }
#define TILE(ROWS, VECTORS)                                                                                             \
    static inline __attribute__((always_inline)) void NAME(tile_##ROWS##_##VECTORS)(                                    \
        int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b, int64_t ldb, REAL *c, int64_t ldc,      \
        const NAME(Scale) * scale, int64_t i0, int64_t j0) {                                                            \
        PAIRS(ROWS, VECTORS, BEGIN)                                                                                     \
        for (int64_t k = 0; k < inner; k++, b += ldb) {                                                                 \
            TIMES_##VECTORS(LOAD_RIGHT) TIMES_##ROWS(ADD_ROW, AND_##VECTORS)                                            \
        }                                                                                                               \
        PAIRS(ROWS, VECTORS, FINISH)                                                                                    \
    }

#define TILES_(VECTORS, MOST)                                                                                           \
    TILE(1, VECTORS)                                                                                                    \
    TILE(2, VECTORS)                                                                                                    \
    TILE(3, VECTORS)                                                                                                    \
    TILE(MOST, VECTORS)                                                                                                 \
    static __attribute__((noinline)) void NAME(tiles_##VECTORS)(                                                        \
        int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b, int64_t ldb, REAL *c,     \
        int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {                                               \
        int64_t i = 0;                                                                                                  \
        if (step == 1) {                                                                                                \
            for (; i + MOST <= rows; i += MOST)                                                                         \
                NAME(tile_##MOST##_##VECTORS)(inner, a + i * row, row, 1, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0); \
            for (; i + 3 <= rows; i += 3)                                                                               \
                NAME(tile_3_##VECTORS)(inner, a + i * row, row, 1, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);        \
            for (; i + 2 <= rows; i += 2)                                                                               \
                NAME(tile_2_##VECTORS)(inner, a + i * row, row, 1, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);        \
            for (; i < rows; i++)                                                                                       \
                NAME(tile_1_##VECTORS)(inner, a + i * row, row, 1, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);        \
        } else {                                                                                                        \
            for (; i + MOST <= rows; i += MOST)                                                                         \
                NAME(tile_##MOST##_##VECTORS)(inner, a + i, 1, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);      \
            for (; i + 3 <= rows; i += 3)                                                                               \
                NAME(tile_3_##VECTORS)(inner, a + i, 1, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);             \
            for (; i + 2 <= rows; i += 2)                                                                               \
                NAME(tile_2_##VECTORS)(inner, a + i, 1, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0);             \
            for (; i < rows; i++) NAME(tile_1_##VECTORS)(inner, a + i, 1, step, b, ldb, c + i * ldc, ldc, scale, i0 + i, j0); \
        }                                                                                                               \
    }
#define TILES(VECTORS, MOST) TILES_(VECTORS, MOST)
TILES(1, TALL_TILE)
TILES(2, MIDDLE_TILE)
TILES(4, WIDE_TILE)

/* The product of `rows` rows with one panel of `width` columns, a full number of vectors: 1, 2 or 4. Either row or step is 1. */
static void NAME(panel)(int64_t vectors, int64_t rows, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b, int64_t ldb,
                        REAL *c, int64_t ldc, const NAME(Scale) * scale, int64_t i0, int64_t j0) {
    if (vectors == 1) NAME(tiles_1)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
    else if (vectors == 2) NAME(tiles_2)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
    else NAME(tiles_4)(rows, inner, a, row, step, b, ldb, c, ldc, scale, i0, j0);
}

static inline int64_t NAME(vectors_for)(int64_t columns) { return columns <= LANES ? 1 : columns <= 2 * LANES ? 2 : WIDEST; }

/* Columns j0 … of C = A B, at most one panel; B is row-major. `packed` holds inner x panel numbers, `spare` rows x panel. Panels are
 * copied together where they are reused by many rows, are ragged, or lie a multiple of 2 kB apart and so in few sets of the cache. */
static void NAME(product_panel)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t row, int64_t step, const REAL *b,
                                int64_t ldb, REAL *c, int64_t ldc, NAME(Scale) scale, int64_t i0, int64_t j0, REAL *packed, REAL *spare) {
    int64_t width = columns - j0 < PANEL ? columns - j0 : PANEL;
    int64_t vectors = NAME(vectors_for)(width), full = vectors * LANES;
    const REAL *right = b + j0;
    REAL padded_columns[PANEL];
    if (width < full || rows > 64 || (rows > 24 && ldb * sizeof(REAL) % 2048 == 0)) {
        for (int64_t k = 0; k < inner; k++)
            for (int64_t v = 0; v < vectors; v++) {
                int64_t rest = width - v * LANES;
                NAME(store)(packed + k * full + v * LANES, rest >= LANES ? NAME(load)(right + k * ldb + v * LANES)
                                                           : rest > 0    ? NAME(head)(right + k * ldb + v * LANES, rest)
                                                                         : NAME(all)(0));
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
    for (int64_t i = 0; i < rows; i += SPARE_ROWS) {
        int64_t some = rows - i < SPARE_ROWS ? rows - i : SPARE_ROWS;
        NAME(panel)(vectors, some, inner, a + i * row, row, step, right, ldb, spare, full, &scale, i0 + i, j0);
        for (int64_t r = 0; r < some; r++) memcpy(c + (i + r) * ldc + j0, spare + r * full, width * sizeof(REAL));
    }
}

/* out[r ldo + i] = Σ_k W[i, k] v_r[k] for ROWS rows and COUNT vectors at once: W is read once, whatever COUNT. */
#define LOAD_VECTOR(r, ...) VECTOR right##r = NAME(load)(vector##r + k);
#define LOAD_HEAD(r, ...) VECTOR right##r = NAME(head)(vector##r + k, n - k);
#define NAME_VECTOR(r, ...) const REAL *vector##r = vectors[r];
#define DOT_ROW(i, AND)                                                                                                 \
    {                                                                                                                   \
        VECTOR left = NAME(load)(w + i * n + k);                                                                        \
        AND(i, ADD)                                                                                                     \
    }
#define DOT_HEAD(i, AND)                                                                                                \
    {                                                                                                                   \
        VECTOR left = NAME(head)(w + i * n + k, n - k);                                                                 \
        AND(i, ADD)                                                                                                     \
    }
#define PUT_SUM(i, v) out[v * ldo + i] = NAME(sum)(total##i##_##v);
#define DOTS(ROWS, COUNT)                                                                                               \
    static inline __attribute__((always_inline)) void NAME(dots_##ROWS##_##COUNT)(                                      \
        int64_t n, const REAL *w, const REAL *const *vectors, REAL *out, int64_t ldo) {                                 \
        TIMES_##COUNT(NAME_VECTOR) PAIRS(ROWS, COUNT, BEGIN) int64_t k = 0;                                             \
        for (; k + LANES <= n; k += LANES) {                                                                            \
            TIMES_##COUNT(LOAD_VECTOR) TIMES_##ROWS(DOT_ROW, AND_##COUNT)                                               \
        }                                                                                                               \
        if (k < n) {                                                                                                    \
            TIMES_##COUNT(LOAD_HEAD) TIMES_##ROWS(DOT_HEAD, AND_##COUNT)                                                \
        }                                                                                                               \
        PAIRS(ROWS, COUNT, PUT_SUM)                                                                                     \
    }
#define MATRIX_VECTORS(COUNT)                                                                                           \
    DOTS(1, COUNT)                                                                                                      \
    DOTS(4, COUNT)                                                                                                      \
    static void NAME(matrix_vectors_##COUNT)(int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *const *v, \
                                             REAL *out, int64_t ldo) {                                                  \
        int64_t i = from;                                                                                               \
        for (; i + 4 <= to; i += 4) NAME(dots_4_##COUNT)(n, w + i * n, v, out + i, ldo);                                \
        for (; i < to; i++) NAME(dots_1_##COUNT)(n, w + i * n, v, out + i, ldo);                                        \
    }
MATRIX_VECTORS(1)
MATRIX_VECTORS(2)
MATRIX_VECTORS(3)
MATRIX_VECTORS(4)

static void NAME(matrix_vectors)(int count, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *const *v, REAL *out, int64_t ldo) {
    switch (count) {
    case 1: NAME(matrix_vectors_1)(from, to, n, w, v, out, ldo); break;
    case 2: NAME(matrix_vectors_2)(from, to, n, w, v, out, ldo); break;
    case 3: NAME(matrix_vectors_3)(from, to, n, w, v, out, ldo); break;
    default: NAME(matrix_vectors_4)(from, to, n, w, v, out, ldo);
    }
}

/* g_r[k] (+)= Σ_i u_r[i] W[i, k] for ROWS rows. */
#define LOAD_ROW(i, ...) VECTOR left##i = NAME(load)(w + i * n + k);
#define COMBINE_ROW(i, ...) total += left##i * u[r * ldu + i];
#define COMBINE_ONE(i, ...) total += w[i * n + k] * u[r * ldu + i];
#define COMBINE(ROWS)                                                                                                   \
    static inline __attribute__((always_inline)) void NAME(combine_##ROWS)(                                             \
        const int COUNT, int64_t n, const REAL *w, const REAL *u, int64_t ldu, REAL *g, int64_t ldg, int first) {       \
        int64_t k = 0;                                                                                                  \
        for (; k + LANES <= n; k += LANES) {                                                                            \
            TIMES_##ROWS(LOAD_ROW) for (int r = 0; r < COUNT; r++) {                                                    \
                VECTOR total = first ? NAME(all)(0) : NAME(load)(g + r * ldg + k);                                      \
                TIMES_##ROWS(COMBINE_ROW) NAME(store)(g + r * ldg + k, total);                                          \
            }                                                                                                           \
        }                                                                                                               \
        for (; k < n; k++)                                                                                              \
            for (int r = 0; r < COUNT; r++) {                                                                           \
                REAL total = first ? 0 : g[r * ldg + k];                                                                \
                TIMES_##ROWS(COMBINE_ONE) g[r * ldg + k] = total;                                                       \
            }                                                                                                           \
    }
COMBINE(1)
COMBINE(4)

/* g_r = Σ_i u_r[i] W[i, :] over rows from … to - 1, last row first: those the evaluation has just read are still in the cache. */
#define VECTORS_MATRIX(COUNT)                                                                                                 \
    static void NAME(vectors_matrix_##COUNT)(int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *u, int64_t ldu, \
                                             REAL *g, int64_t ldg) {                                                          \
        int first = 1;                                                                                                        \
        int64_t i = to;                                                                                                       \
        for (; i - 4 >= from; i -= 4, first = 0) NAME(combine_4)(COUNT, n, w + (i - 4) * n, u + i - 4, ldu, g, ldg, first);  \
        for (; i - 1 >= from; i--, first = 0) NAME(combine_1)(COUNT, n, w + (i - 1) * n, u + i - 1, ldu, g, ldg, first);     \
        if (first)                                                                                                            \
            for (int r = 0; r < COUNT; r++) memset(g + r * ldg, 0, n * sizeof(REAL));                                         \
    }
VECTORS_MATRIX(1)
VECTORS_MATRIX(2)
VECTORS_MATRIX(3)
VECTORS_MATRIX(4)

static void NAME(vectors_matrix)(int count, int64_t from, int64_t to, int64_t n, const REAL *w, const REAL *u, int64_t ldu, REAL *g, int64_t ldg) {
    switch (count) {
    case 1: NAME(vectors_matrix_1)(from, to, n, w, u, ldu, g, ldg); break;
    case 2: NAME(vectors_matrix_2)(from, to, n, w, u, ldu, g, ldg); break;
    case 3: NAME(vectors_matrix_3)(from, to, n, w, u, ldu, g, ldg); break;
    default: NAME(vectors_matrix_4)(from, to, n, w, u, ldu, g, ldg);
    }
}
