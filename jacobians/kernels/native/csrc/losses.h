/* Losses with their derivatives by the output, on vectors of samples: the value is returned, `*first` is ∂/∂y, `*second` ∂²/∂y².
 *
 * To add one that is a sum over elements: a function loss_name here, and its name in the list LOSSES of native.c. Cross-entropy counts
 * the classes of a sample together and stands in gradient.h.
 */

INLINE VECTOR NAME(loss_mse)(VECTOR y, VECTOR t, VECTOR *first, VECTOR *second) {
    VECTOR difference = y - t;
    *first = difference + difference;
    *second = NAME(all)(2);
    return difference * difference;
}

INLINE VECTOR NAME(loss_l1)(VECTOR y, VECTOR t, VECTOR *first, VECTOR *second) {
    VECTOR difference = y - t, zero = NAME(all)(0);
    VECTOR sign = NAME(choose)(difference > 0, NAME(all)(1), NAME(choose)(difference < 0, NAME(all)(-1), zero));
    *first = NAME(choose)(difference == difference, sign, difference); /* NaN stays NaN */
    *second = zero;
    return NAME(absolute)(difference);
}

/* As torch bounds it: the logarithms from -100 on, and y (1 - y) from 1e-12 on in the first derivative. The second is bounded where the
 * numbers end, y² at the least one and 1 - y at its last bit, so that it stays right behind a saturated sigmoid. */
INLINE VECTOR NAME(loss_bce)(VECTOR y, VECTOR t, VECTOR *first, VECTOR *second) {
    VECTOR product = y * (1 - y), value = y;
    product = NAME(choose)(product < NAME(all)((REAL)1e-12), NAME(all)((REAL)1e-12), product);
    *first = (y - t) / product;
    for (int i = 0; i < LANES; i++) {
        REAL yes = MATH(log)(y[i]), no = MATH(log1p)(-y[i]), least = -100;
        value[i] = -(t[i] * (yes < least ? least : yes) + (1 - t[i]) * (no < least ? least : no));
        REAL p = y[i], q = 1 - p, tiny = (REAL)(sizeof(REAL) == 4 ? 0x1p-126 : 0x1p-1022);
        REAL last = (REAL)(sizeof(REAL) == 4 ? 0x1p-24 : 0x1p-53), a = p * p, b = q < last ? last * last : q * q;
        (*second)[i] = t[i] / (a < tiny ? tiny : a) + (1 - t[i]) / b;
    }
    return value;
}

/* log(1 + exp(y)) - y t without overflow. */
INLINE VECTOR NAME(loss_bce_with_logits)(VECTOR y, VECTOR t, VECTOR *first, VECTOR *second) {
    VECTOR e, size = NAME(absolute)(y);
    NAME(exp_minus_1)(-size, &e);
    VECTOR inverse = (REAL)1 / (1 + e), p = NAME(choose)(y >= 0, inverse, e * inverse), value = e;
    for (int i = 0; i < LANES; i++) value[i] = MATH(log1p)(e[i]);
    *first = p - t;
    *second = e * inverse * inverse;
    return value + NAME(choose)(y > 0, y, NAME(all)(0)) - y * t;
}
