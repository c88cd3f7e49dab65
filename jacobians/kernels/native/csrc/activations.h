/* Activations with their slopes, on vectors: h = φ(z) is returned, φ'(z) is written to *slope. Behind them their second and third
 * derivatives: φ''(z) is returned, φ'''(z) is written to *third, from z, φ(z) and φ'(z).
 *
 * To add one: functions phi_name and bend_name here, and its name in the list ACTIVATIONS of native.c. Settings stand in set->a and set->b,
 * in the order of the table in activations.py. Where the C library has no vector form of a function, lanes are computed one by one.
 */

/* exp(v) - 1 and exp(v) for v <= 0: v = n ln 2 + r with |r| <= ln(2)/2, and the Taylor series of exp(r) - 1, cut where the next
 * term is below half a unit in the last place. NaN stays NaN. */
INLINE VECTOR NAME(exp_minus_1)(VECTOR v, VECTOR *exponential) {
    INTEGERS lost = v < NAME(all)(LOWEST_EXPONENT); /* there exp(v) is 0: a large z would else make something of the rest */
    v = NAME(choose)(lost, NAME(all)(LOWEST_EXPONENT), v);
    VECTOR shifted = v * (REAL)1.44269504088896340736 + ROUNDER; /* adding 1.5 2^mantissa rounds to an integer */
    VECTOR n = shifted - ROUNDER;
    VECTOR r = v - n * LN2_HIGH;
    r = r - n * LN2_LOW;
    VECTOR series = NAME(all)(TAYLOR[TERMS - 1]);
    for (int i = TERMS - 2; i >= 0; i--) series = series * r + TAYLOR[i];
    VECTOR p = series * (r * r) + r;
    VECTOR power = (VECTOR)(((INTEGERS)shifted + EXPONENT_BIAS) << MANTISSA_BITS);
    *exponential = NAME(choose)(lost, NAME(all)(0), power * p + power);
    return power * p + (power - 1);
}

/* With e = exp(-2|z|) and m = e - 1: tanh|z| = -m / (2 + m), and 1 - 2 e / (1 + e) where that loses less. The slope
 * 1 - tanh² z = 4 e / (1 + e)² has no cancellation. */
INLINE VECTOR NAME(phi_tanh)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR e, m = NAME(exp_minus_1)(NAME(absolute)(z) * (REAL)-2, &e);
    VECTOR d = m + 2, inverse = (REAL)1 / d, share = e * inverse;
    VECTOR t = -m * inverse;
    t -= (t * d + m + t * (m - (d - 2))) * inverse; /* what rounding the sum, the quotient and the product left over */
    t = NAME(choose)(e < (REAL)0.3, 1 - (share + share), t);
    *slope = 4 * share * inverse;
    return NAME(choose)(z < 0, -t, t);
}

INLINE VECTOR NAME(phi_sigmoid)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR e;
    NAME(exp_minus_1)(-NAME(absolute)(z), &e);
    VECTOR inverse = (REAL)1 / (e + 1);
    *slope = e * inverse * inverse;
    return NAME(choose)(z >= 0, inverse, e * inverse);
}

INLINE VECTOR NAME(phi_relu)(VECTOR z, const Activation *set, VECTOR *slope) {
    *slope = NAME(choose)(z > 0, NAME(all)(1), NAME(all)(0));
    return NAME(choose)(z < 0, NAME(all)(0), z); /* NaN stays NaN */
}

INLINE VECTOR NAME(phi_leaky_relu)(VECTOR z, const Activation *set, VECTOR *slope) {
    *slope = NAME(choose)(z > 0, NAME(all)(1), NAME(all)((REAL)set->a));
    return z * *slope;
}

INLINE VECTOR NAME(phi_softplus)(VECTOR z, const Activation *set, VECTOR *slope) {
    REAL beta = (REAL)set->a, threshold = (REAL)set->b;
    for (int i = 0; i < LANES; i++) {
        REAL v = beta * z[i];
        int linear = v > threshold;
        (*slope)[i] = linear ? 1 : 1 / (1 + MATH(exp)(-v));
        z[i] = linear ? z[i] : MATH(log1p)(MATH(exp)(v)) / beta;
    }
    return z;
}

INLINE VECTOR NAME(phi_gelu)(VECTOR z, const Activation *set, VECTOR *slope) {
    if (set->a != 0) { /* the tanh form */
        VECTOR square = z * z, d, p = NAME(phi_sigmoid)((REAL)1.59576912160573071176 * (z + (REAL)0.044715 * square * z), set, &d);
        square = NAME(choose)(square > (REAL)1e6, NAME(all)((REAL)1e6), square); /* there d is 0, and the product must be */
        *slope = p + z * (d * ((REAL)1.59576912160573071176 * (1 + (REAL)0.134145 * square)));
        return z * p;
    }
    for (int i = 0; i < LANES; i++) {
        REAL v = z[i], cumulative = (REAL)0.5 * MATH(erfc)(-v * (REAL)0.70710678118654752440);
        (*slope)[i] = cumulative + v * (REAL)0.39894228040143267794 * MATH(exp)(-v * v / 2);
        z[i] = v * cumulative;
    }
    return z;
}

INLINE VECTOR NAME(phi_silu)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR d, p = NAME(phi_sigmoid)(z, set, &d);
    *slope = p + z * d;
    return z * p;
}

INLINE VECTOR NAME(phi_elu)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR e, m = NAME(exp_minus_1)(NAME(choose)(z > 0, NAME(all)(0), z), &e);
    *slope = NAME(choose)(z > 0, NAME(all)(1), e * (REAL)set->a);
    return NAME(choose)(z > 0, z, m * (REAL)set->a);
}

INLINE VECTOR NAME(phi_sine)(VECTOR z, const Activation *set, VECTOR *slope) {
    for (int i = 0; i < LANES; i++) {
        REAL v = (REAL)set->a * z[i];
        (*slope)[i] = (REAL)set->a * MATH(cos)(v);
        z[i] = MATH(sin)(v);
    }
    return z;
}

INLINE VECTOR NAME(phi_softsign)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR d = 1 + NAME(absolute)(z), inverse = (REAL)1 / d;
    *slope = inverse * inverse;
    return z / d; /* not z times an inverse that is subnormal */
}

INLINE VECTOR NAME(phi_exp)(VECTOR z, const Activation *set, VECTOR *slope) {
    for (int i = 0; i < LANES; i++) z[i] = MATH(exp)(z[i]);
    return *slope = z;
}

INLINE VECTOR NAME(phi_identity)(VECTOR z, const Activation *set, VECTOR *slope) {
    *slope = NAME(all)(1);
    return z;
}

/* t = tanh(log(1 + e^z)), w = 1 - t² and σ(z) with σ(-z), none of which cancels, by e = exp(-|z|). */
INLINE VECTOR NAME(mish_parts)(VECTOR z, VECTOR *w, VECTOR *p, VECTOR *q) {
    VECTOR e, one = NAME(all)(1);
    NAME(exp_minus_1)(-NAME(absolute)(z), &e);
    INTEGERS right = z >= 0;
    VECTOR square = e * e, inverse = (REAL)1 / (1 + e), d = (REAL)1 / NAME(choose)(right, 1 + 2 * e + 2 * square, 2 + 2 * e + square);
    VECTOR root = 2 * (1 + e) * NAME(choose)(right, e, one) * d;
    *w = root * root;
    *p = NAME(choose)(right, inverse, e * inverse);
    *q = NAME(choose)(right, e * inverse, inverse);
    return NAME(choose)(right, 1 + 2 * e, 2 * e + square) * d;
}

INLINE VECTOR NAME(phi_mish)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR w, p, q, t = NAME(mish_parts)(z, &w, &p, &q);
    *slope = t + z * (w * p);
    return z * t;
}

INLINE VECTOR NAME(phi_selu)(VECTOR z, const Activation *set, VECTOR *slope) {
    const REAL scale = (REAL)1.0507009873554805, left = (REAL)1.7580993408473769; /* scale times alpha */
    VECTOR e, m = NAME(exp_minus_1)(NAME(choose)(z > 0, NAME(all)(0), z), &e);
    *slope = NAME(choose)(z > 0, NAME(all)(scale), e * left);
    return NAME(choose)(z > 0, z * scale, m * left);
}

INLINE VECTOR NAME(phi_celu)(VECTOR z, const Activation *set, VECTOR *slope) {
    REAL alpha = (REAL)set->a;
    VECTOR e, m = NAME(exp_minus_1)(NAME(choose)(z > 0, NAME(all)(0), z / alpha), &e);
    *slope = NAME(choose)(z > 0, NAME(all)(1), e);
    return NAME(choose)(z > 0, z, m * alpha);
}

INLINE VECTOR NAME(clamp)(VECTOR z, REAL least, REAL most, VECTOR *slope) { /* NaN stays NaN */
    VECTOR one = NAME(all)(1), zero = NAME(all)(0);
    *slope = NAME(choose)((z > least) & (z < most), one, zero);
    return NAME(choose)(z < least, NAME(all)(least), NAME(choose)(z > most, NAME(all)(most), z));
}

INLINE VECTOR NAME(phi_relu6)(VECTOR z, const Activation *set, VECTOR *slope) { return NAME(clamp)(z, 0, 6, slope); }
INLINE VECTOR NAME(phi_hardtanh)(VECTOR z, const Activation *set, VECTOR *slope) {
    return NAME(clamp)(z, (REAL)set->a, (REAL)set->b, slope);
}

INLINE VECTOR NAME(phi_hardswish)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR inside, gate = NAME(clamp)(z, -3, 3, &inside);
    *slope = NAME(choose)(z < 3, inside * (z / (REAL)3 + (REAL)0.5), NAME(all)(1));
    return z * ((gate + 3) / (REAL)6);
}

INLINE VECTOR NAME(phi_log_sigmoid)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR d, e;
    NAME(exp_minus_1)(-NAME(absolute)(z), &e);
    *slope = NAME(phi_sigmoid)(-z, set, &d);
    for (int i = 0; i < LANES; i++) z[i] = (z[i] > 0 ? 0 : z[i]) - MATH(log1p)(e[i]);
    return z;
}

INLINE VECTOR NAME(phi_log_cosh)(VECTOR z, const Activation *set, VECTOR *slope) {
    VECTOR size = NAME(absolute)(z), e, curve;
    NAME(exp_minus_1)(-2 * size, &e);
    *slope = NAME(phi_tanh)(z, set, &curve);
    for (int i = 0; i < LANES; i++) {
        REAL half = size[i] < 1 ? MATH(sinh)(size[i] / 2) : 0; /* beyond, log 2 does not cancel */
        z[i] = size[i] < 1 ? MATH(log1p)(2 * half * half) : size[i] + MATH(log1p)(e[i]) - (REAL)0.69314718055994530942;
    }
    return z;
}

INLINE VECTOR NAME(bend_tanh)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    *third = s * (4 - 6 * s);
    return -2 * h * s;
}

INLINE VECTOR NAME(bend_sigmoid)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    *third = s * (1 - 6 * s);
    return s * (1 - 2 * h);
}

INLINE VECTOR NAME(bend_none)(VECTOR *third) { return *third = NAME(all)(0); }

INLINE VECTOR NAME(bend_relu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return NAME(bend_none)(third); }
INLINE VECTOR NAME(bend_leaky_relu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return NAME(bend_none)(third); }
INLINE VECTOR NAME(bend_identity)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return NAME(bend_none)(third); }

INLINE VECTOR NAME(bend_softplus)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    REAL beta = (REAL)set->a;
    VECTOR d, p = NAME(phi_sigmoid)(beta * z, set, &d), zero = NAME(all)(0);
    INTEGERS linear = beta * z > (REAL)set->b;
    *third = NAME(choose)(linear, zero, beta * beta * d * (1 - 2 * p));
    return NAME(choose)(linear, zero, beta * d);
}

/* φ'' and φ''' of z σ(w(z)), from z and w with its derivatives. */
INLINE VECTOR NAME(bend_gated)(VECTOR z, VECTOR w, VECTOR w1, VECTOR w2, VECTOR w3, const Activation *set, VECTOR *third) {
    VECTOR d, p = NAME(phi_sigmoid)(w, set, &d), odd = 1 - 2 * p;
    VECTOR p1 = d * w1, p2 = d * (odd * w1 * w1 + w2), p3 = d * ((odd * odd - 2 * d) * w1 * w1 * w1 + 3 * odd * w1 * w2 + w3);
    *third = 3 * p2 + z * p3;
    return 2 * p1 + z * p2;
}

INLINE VECTOR NAME(bend_silu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR one = NAME(all)(1), zero = NAME(all)(0);
    return NAME(bend_gated)(z, z, one, zero, zero, set, third);
}

INLINE VECTOR NAME(bend_gelu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR most = NAME(all)((REAL)1e3), near = NAME(choose)(z > most, most, NAME(choose)(z < -most, -most, z)), square = near * near;
    if (set->a != 0) { /* the tanh form */
        const REAL a = (REAL)1.59576912160573071176, cube = (REAL)0.044715;
        return NAME(bend_gated)(near, a * near * (1 + cube * square), a * (1 + 3 * cube * square), 6 * a * cube * near,
                                NAME(all)(6 * a * cube), set, third);
    }
    VECTOR density, m = NAME(exp_minus_1)(square * (REAL)-0.5, &density);
    (void)m;
    density *= (REAL)0.39894228040143267794;
    *third = density * near * (square - 4);
    return density * (2 - square);
}

INLINE VECTOR NAME(bend_elu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    return *third = NAME(choose)(z > 0, NAME(all)(0), s);
}

INLINE VECTOR NAME(bend_sine)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    REAL square = (REAL)(set->a * set->a);
    *third = -square * s;
    return -square * h;
}

INLINE VECTOR NAME(bend_softsign)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR inverse = (REAL)1 / (1 + NAME(absolute)(z)), cube = 2 * s * inverse;
    *third = 6 * s * s;
    return NAME(choose)(z > 0, -cube, NAME(choose)(z < 0, cube, NAME(all)(0)));
}

INLINE VECTOR NAME(bend_exp)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return *third = h; }

INLINE VECTOR NAME(bend_relu6)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return NAME(bend_none)(third); }
INLINE VECTOR NAME(bend_hardtanh)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) { return NAME(bend_none)(third); }

INLINE VECTOR NAME(bend_mish)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR most = NAME(all)((REAL)1e3), near = NAME(choose)(z > most, most, NAME(choose)(z < -most, -most, z)); /* beyond, t1 is 0 */
    VECTOR w, p, q, t = NAME(mish_parts)(z, &w, &p, &q), t1 = w * p, t2 = q - 2 * t * p;
    *third = t1 * (3 * t2 + near * (q * (q - p) - 6 * t * p * q + (4 * t * t - 2 * w) * p * p));
    return t1 * (2 + near * t2);
}

INLINE VECTOR NAME(bend_selu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    return *third = NAME(choose)(z > 0, NAME(all)(0), s);
}

INLINE VECTOR NAME(bend_celu)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR curve = NAME(choose)(z > 0, NAME(all)(0), s / (REAL)set->a);
    *third = curve / (REAL)set->a;
    return curve;
}

INLINE VECTOR NAME(bend_hardswish)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR zero = NAME(bend_none)(third);
    return NAME(choose)((z > -3) & (z < 3), NAME(all)((REAL)1 / (REAL)3), zero);
}

INLINE VECTOR NAME(bend_log_sigmoid)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR d, p = NAME(phi_sigmoid)(z, set, &d);
    *third = d * (p - s);
    return -d;
}

INLINE VECTOR NAME(bend_log_cosh)(VECTOR z, VECTOR h, VECTOR s, const Activation *set, VECTOR *third) {
    VECTOR d, t = NAME(phi_tanh)(z, set, &d);
    *third = -2 * t * d;
    return d;
}

/* Inlined with a constant φ: one loop per activation. */
INLINE void NAME(apply)(VECTOR (*const phi)(VECTOR, const Activation *, VECTOR *), const Activation *set, REAL *z, REAL *s, int64_t n) {
    VECTOR slope;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(store)(z + i, phi(NAME(load)(z + i), set, &slope));
        NAME(store)(s + i, slope);
    }
    if (i < n) {
        VECTOR v = NAME(all)(0);
        memcpy(&v, z + i, (n - i) * sizeof(REAL));
        v = phi(v, set, &slope);
        memcpy(z + i, &v, (n - i) * sizeof(REAL));
        memcpy(s + i, &slope, (n - i) * sizeof(REAL));
    }
}

/* h = φ(z) in place and s = φ'(z), for n numbers. The code is one of the list: it was checked when the call began. */
static void NAME(activate)(const Activation *set, REAL *z, REAL *s, int64_t n) {
    switch (set->code) {
#define CASE(name)                                           \
    case ACTIVATION_##name:                                  \
        NAME(apply)(NAME(phi_##name), set, z, s, n);         \
        break;
        ACTIVATIONS(CASE)
#undef CASE
    }
    if (set->scale != 1)
        for (int64_t i = 0; i < n; i++) {
            z[i] *= (REAL)set->scale;
            s[i] *= (REAL)set->scale;
        }
}

INLINE void NAME(apply_bend)(VECTOR (*const phi)(VECTOR, const Activation *, VECTOR *),
                             VECTOR (*const bend)(VECTOR, VECTOR, VECTOR, const Activation *, VECTOR *), const Activation *set, REAL *z, REAL *s,
                             REAL *c, REAL *t, int64_t n) {
    VECTOR slope = NAME(all)(0), third, scale = NAME(all)((REAL)set->scale);
    for (int64_t i = 0; i < n; i += LANES) {
        VECTOR at = NAME(load)(z + i), h = phi(at, set, &slope), curve = bend(at, h, slope, set, &third);
        NAME(store)(z + i, h * scale);
        NAME(store)(s + i, slope * scale);
        NAME(store)(c + i, curve * scale);
        if (t) NAME(store)(t + i, third * scale);
    }
}

/* h = φ(z) in place, s = φ'(z), c = φ''(z) and, where t is not null, t = φ'''(z), for n numbers, a multiple of LANES. */
static void NAME(activate_and_bend)(const Activation *set, REAL *z, REAL *s, REAL *c, REAL *t, int64_t n) {
    switch (set->code) {
#define CASE(name)                                                                \
    case ACTIVATION_##name:                                                       \
        NAME(apply_bend)(NAME(phi_##name), NAME(bend_##name), set, z, s, c, t, n); \
        break;
        ACTIVATIONS(CASE)
#undef CASE
    }
}
