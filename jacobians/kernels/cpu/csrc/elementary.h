/* Vectors of a hardware register, and activations with their slopes on them. Included once per precision, with REAL defined. */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL NAME(in_memory) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(integers) __attribute__((vector_size(VECTOR_BYTES)));
#define VECTOR NAME(vector)
#define INTEGERS NAME(integers)

static inline VECTOR NAME(load)(const REAL *p) { return *(const NAME(in_memory) *)p; }
static inline void NAME(store)(REAL *p, VECTOR v) { *(NAME(in_memory) *)p = v; }
static inline VECTOR NAME(all)(REAL a) { return a - (VECTOR){0}; }
static inline VECTOR NAME(choose)(INTEGERS mask, VECTOR yes, VECTOR no) {
    return (VECTOR)(((INTEGERS)yes & mask) | ((INTEGERS)no & ~mask));
}
#if defined(__AVX512F__)
static inline REAL NAME(sum)(VECTOR v) { return AVX512_SUM(v); }
/* The first n < LANES numbers, zeros behind them. */
static inline VECTOR NAME(head)(const REAL *p, int64_t n) { return AVX512_HEAD(p, n); }
#else
static inline REAL NAME(sum)(VECTOR v) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}
static inline VECTOR NAME(head)(const REAL *p, int64_t n) {
    VECTOR v = {0};
    memcpy(&v, p, n * sizeof(REAL));
    return v;
}
#endif

/* exp(v) - 1 and exp(v) for v <= 0: v = n ln 2 + r with |r| <= ln(2)/2, and the Taylor series of exp(r) - 1, cut where the next
 * term is below half a unit in the last place. NaN stays NaN. */
static inline VECTOR NAME(exp_minus_1)(VECTOR v, VECTOR *exponential) {
    v = NAME(choose)(v < NAME(all)(LOWEST_EXPONENT), NAME(all)(LOWEST_EXPONENT), v);
    VECTOR shifted = v * (REAL)1.44269504088896340736 + ROUNDER; /* adding 1.5 2^mantissa rounds to an integer */
    VECTOR n = shifted - ROUNDER;
    VECTOR r = v - n * LN2_HIGH;
    r = r - n * LN2_LOW;
    VECTOR series = NAME(all)(TAYLOR[TERMS - 1]);
    for (int i = TERMS - 2; i >= 0; i--) series = series * r + TAYLOR[i];
    VECTOR p = series * (r * r) + r;
    VECTOR power = (VECTOR)(((INTEGERS)shifted + EXPONENT_BIAS) << MANTISSA_BITS);
    *exponential = power * p + power;
    return power * p + (power - 1);
}

static inline VECTOR NAME(absolute)(VECTOR v) { return NAME(choose)(v < 0, -v, v); }

/* With e = exp(-2|z|) and m = e - 1: tanh|z| = -m / (2 + m), and 1 - 2 e / (1 + e) where that loses less. The slope
 * 1 - tanh² z = 4 e / (1 + e)² has no cancellation. */
static inline VECTOR NAME(tanh)(VECTOR z, VECTOR *slope) {
    VECTOR e, m = NAME(exp_minus_1)(NAME(absolute)(z) * (REAL)-2, &e);
    VECTOR d = m + 2, inverse = (REAL)1 / d, share = e * inverse;
    VECTOR t = -m * inverse;
    t -= (t * d + m + t * (m - (d - 2))) * inverse; /* what rounding the sum, the quotient and the product left over */
    t = NAME(choose)(e < (REAL)0.3, 1 - (share + share), t);
    *slope = 4 * share * inverse;
    return NAME(choose)(z < 0, -t, t);
}

static inline VECTOR NAME(sigmoid)(VECTOR z, VECTOR *slope) {
    VECTOR e;
    NAME(exp_minus_1)(-NAME(absolute)(z), &e);
    VECTOR inverse = (REAL)1 / (e + 1);
    *slope = e * inverse * inverse;
    return NAME(choose)(z >= 0, inverse, e * inverse);
}

static inline VECTOR NAME(activate)(int activation, VECTOR z, VECTOR *slope) {
    VECTOR one = NAME(all)(1), zero = NAME(all)(0);
    switch (activation) {
    case TANH: return NAME(tanh)(z, slope);
    case SIGMOID: return NAME(sigmoid)(z, slope);
    case RELU: *slope = NAME(choose)(z > 0, one, zero); return NAME(choose)(z < 0, zero, z);
    case LEAKY_RELU: *slope = NAME(choose)(z > 0, one, NAME(all)(LEAK)); return NAME(choose)(z > 0, z, z * (REAL)LEAK);
    case SOFTPLUS: /* no vector form: calls of the C library */
        for (int i = 0; i < LANES; i++) {
            REAL a = z[i];
            int linear = a > 20;
            (*slope)[i] = linear ? 1 : 1 / (1 + MATH(exp)(-a));
            z[i] = linear ? a : MATH(log1p)(MATH(exp)(a));
        }
        return z;
    case GELU:
        for (int i = 0; i < LANES; i++) {
            REAL a = z[i], cumulative = (REAL)0.5 * MATH(erfc)(-a * (REAL)0.70710678118654752440);
            (*slope)[i] = cumulative + a * (REAL)0.39894228040143267794 * MATH(exp)(-a * a / 2);
            z[i] = a * cumulative;
        }
        return z;
    default: *slope = one; return z;
    }
}

/* h = φ(z) in place and s = φ'(z), for n numbers. */
static void NAME(activate_all)(int activation, REAL *z, REAL *s, int64_t n) {
    int64_t i = 0;
    VECTOR slope;
    for (; i + LANES <= n; i += LANES) {
        NAME(store)(z + i, NAME(activate)(activation, NAME(load)(z + i), &slope));
        NAME(store)(s + i, slope);
    }
    if (i < n) {
        VECTOR v = NAME(all)(0);
        memcpy(&v, z + i, (n - i) * sizeof(REAL));
        v = NAME(activate)(activation, v, &slope);
        memcpy(z + i, &v, (n - i) * sizeof(REAL));
        memcpy(s + i, &slope, (n - i) * sizeof(REAL));
    }
}
