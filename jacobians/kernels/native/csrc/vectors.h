/* Vectors of a hardware register. Included once per precision, with REAL defined; so are the files behind it. */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL NAME(in_memory) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(integers) __attribute__((vector_size(VECTOR_BYTES)));
#define VECTOR NAME(vector)
#define INTEGERS NAME(integers)

INLINE VECTOR NAME(load)(const REAL *p) { return *(const NAME(in_memory) *)p; }
INLINE void NAME(store)(REAL *p, VECTOR v) { *(NAME(in_memory) *)p = v; }
/* Store past the caches what is not read again soon; only where p is at the start of a vector, else as usual. */
INLINE void NAME(stream)(REAL *p, VECTOR v) {
#if defined(__AVX512F__)
    if (((uintptr_t)p & (VECTOR_BYTES - 1)) == 0) {
        _mm512_stream_si512((__m512i *)p, (__m512i)v);
        return;
    }
#endif
    NAME(store)(p, v);
}
INLINE VECTOR NAME(all)(REAL a) { return a - (VECTOR){0}; }
INLINE VECTOR NAME(choose)(INTEGERS mask, VECTOR yes, VECTOR no) { return (VECTOR)(((INTEGERS)yes & mask) | ((INTEGERS)no & ~mask)); }
INLINE VECTOR NAME(absolute)(VECTOR v) { return NAME(choose)(v < 0, -v, v); }
/* Numbers of a, and behind them of b, by their places. */
INLINE VECTOR NAME(shuffle)(VECTOR a, VECTOR b, INTEGERS places) {
#if defined(__clang__)
    VECTOR out;
    for (int k = 0; k < LANES; k++) out[k] = places[k] < LANES ? a[places[k]] : b[places[k] - LANES];
    return out;
#else
    return __builtin_shuffle(a, b, places);
#endif
}
#if defined(__AVX512F__)
INLINE REAL NAME(sum)(VECTOR v) { return AVX512_SUM(v); }
/* The first n < LANES numbers, zeros behind them. */
INLINE VECTOR NAME(head)(const REAL *p, int64_t n) { return AVX512_HEAD(p, n); }
#else
INLINE REAL NAME(sum)(VECTOR v) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}
INLINE VECTOR NAME(head)(const REAL *p, int64_t n) {
    VECTOR v = {0};
    memcpy(&v, p, n * sizeof(REAL));
    return v;
}
#endif

/* Transpose a square of LANES vectors in registers: halves change places, then quarters, down to single numbers. */
INLINE void NAME(transpose)(VECTOR v[LANES]) {
    UNROLL for (int half = LANES / 2; half > 0; half /= 2) {
        INTEGERS low, high;
        for (int k = 0; k < LANES; k++) {
            low[k] = k & half ? LANES + k - half : k;
            high[k] = k & half ? LANES + k : k + half;
        }
        UNROLL for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            VECTOR a = v[i], b = v[i + half];
            v[i] = NAME(shuffle)(a, b, low);
            v[i + half] = NAME(shuffle)(a, b, high);
        }
    }
}
