/* Derivatives of multilayer perceptrons for processors with vector registers. See ../program.py for the plan of it.
 *
 * Compiled for the processor it runs on. Vectors are the compiler's (GCC and Clang), so that one text serves AVX-512, AVX2 and NEON.
 */
#include "pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* Functions with constant arguments, inlined, become one machine loop per constant; the loops over rows and vectors of a tile are
 * unrolled, so that an array of accumulators lives in registers. */
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The activations by name: Python asks for the code of a name, and nothing else knows the numbers. */
#define ACTIVATIONS(X) \
    X(tanh) X(sigmoid) X(relu) X(leaky_relu) X(softplus) X(gelu) X(silu) X(elu) X(sine) X(softsign) X(exp) X(identity) \
    X(mish) X(selu) X(celu) X(relu6) X(hardtanh) X(hardswish) X(log_sigmoid) X(log_cosh)
#define CODE(name) ACTIVATION_##name,
enum { ACTIVATIONS(CODE) ACTIVATION_COUNT };
#undef CODE
typedef struct {
    int64_t code;
    double a, b, scale; /* settings, in the order of activations.py */
} Activation;

/* The losses by name, likewise: those that are a sum over elements, and cross-entropy. */
#define LOSSES(X) X(mse) X(l1) X(bce) X(bce_with_logits)
#define CODE(name) LOSS_##name,
enum { LOSSES(CODE) LOSS_cross_entropy, LOSS_COUNT };
#undef CODE

enum { TANGENTS, COTANGENTS, PRODUCTS, FORWARD_BLOCKS, REVERSE_BLOCKS };

/* One product C = A B, or with `inner` 0 a copy, of row-major matrices; A and B are weights or buffers, C a buffer or J (-1). */
typedef struct {
    int64_t rows, columns, inner, a_weight, a_buffer, b_weight, b_buffer, c_buffer, row_slope, column_slope;
} Step;

typedef struct {
    int64_t layers; /* weights */
    const int64_t *widths;
    int64_t columns;                /* of J: all D, or those of the seed */
    const Activation *activation;   /* of each layer */
    int64_t widest, scaled_output;  /* widest layer; whether slopes scale the rows of J */
    int64_t kind, samples;          /* samples: -1 for one sample on all threads */
    int64_t block, group, parts;    /* samples a block; tangents or cotangents at once; tasks that those of a block are shared out in */
    int64_t slopes, buffers, private; /* numbers: slopes of a sample, buffers of the steps, what a thread needs for products */
    int64_t work, work_of_thread;     /* numbers of memory: shared, and for each thread */
    int64_t steps;
    const Step *step;
} Program;

enum { GRADIENT, GAUSS_NEWTON, NORMS };

/* A derivative of a loss with respect to the parameters, which stand one behind the other in the result. */
typedef struct {
    int64_t layers;
    const int64_t *widths;
    const Activation *activation;
    const int64_t *at_weight, *at_bias; /* where they begin in the result; -1 for a bias that is not there */
    int64_t parameters, numbers, widest; /* of the result; of all widths together; of the widest layer */
    int64_t kind, samples, block, together, loss, classes; /* together: all threads on one block */
    int64_t work, work_of_thread;
    double factor, rate, momentum, decay; /* of the loss; of an update, where the rate is not 0 */
} ParameterLayout;

enum { SECOND_ORDER_PUSH, SECOND_ORDER_HESSIAN, SECOND_ORDER_BACK_FORWARD, SECOND_ORDER_BACK_REVERSE };

/* Derivatives by the input of first and second order, or the way back through them. */
typedef struct {
    int64_t layers;
    const int64_t *widths;
    const Activation *activation;
    const int64_t *at_weight, *at_bias, *at_padded; /* at_padded: in the sum of a thread, its rows padded to whole vectors */
    int64_t numbers, widest;                        /* neurons of all layers; of the widest layer, the input counted */
    int64_t kind, samples, block, laplacians, keeps; /* keeps: a push leaves, or the way back finds, what it needs in memory */
    int64_t parameters_padded, work_of_thread, kept_of_block;
    int64_t slots; /* shares of the blocks, each with a sum of its own: a result depends on them, not on the threads */
    double penalty; /* factor of the loss Σ (J - target)², or 0 for cotangents from outside */
} SecondOrder;

/* A tangent kernel of `first` by `second` samples; `block_numbers` is the memory of the factors of a block, `tile` the rows of a tile. */
typedef struct {
    int64_t first, second, symmetric, trace, tile, block_numbers, work_of_thread;
} KernelTiles;

/* Stores past the caches are not ordered with those that follow, but for this. */
#if defined(__AVX512F__)
#define STREAMED() _mm_sfence()
#else
#define STREAMED() ((void)0)
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define WIDEST 4
#define TALL_TILE 12
#define MIDDLE_TILE 12
#define WIDE_TILE 6
#elif defined(__ARM_NEON)
#define VECTOR_BYTES 16
#define WIDEST 4
#define TALL_TILE 12
#define MIDDLE_TILE 8
#define WIDE_TILE 6
#else
#define VECTOR_BYTES 32
#define WIDEST 2
#define TALL_TILE 12
#define MIDDLE_TILE 6
#define WIDE_TILE 6
#endif
enum { MOST_SLOTS = 64, ALONE_NUMBERS = 1 << 18 }; /* sums of slots beyond ALONE_NUMBERS are added up by all threads */
enum { SPARE_ROWS = 24, MOST_ROWS = 12, ROWS_AT_ONCE = 96, LONGEST_INNER = 1024, FAR_INNER = 128, MOST_SIDE = 128 };
enum { REPLACE, ADD_SCALED, ADD_THEN_SCALE }; /* what a product does with what is there */

#if !defined(SECOND_PART)
/* Return the code of an activation, or -1. */
int64_t activation_code(const char *name) {
#define NAMED(known) \
    if (strcmp(name, #known) == 0) return ACTIVATION_##known;
    ACTIVATIONS(NAMED)
#undef NAMED
    return -1;
}

/* Return the code of a loss, or -1. */
int64_t loss_code(const char *name) {
#define NAMED(known) \
    if (strcmp(name, #known) == 0) return LOSS_##known;
    LOSSES(NAMED) NAMED(cross_entropy)
#undef NAMED
    return -1;
}

/* Return the size of a structure that Python fills in, so that a difference is noticed when the library is loaded. */
int64_t size_of(const char *name) {
    if (strcmp(name, "Step") == 0) return sizeof(Step);
    if (strcmp(name, "Program") == 0) return sizeof(Program);
    if (strcmp(name, "Activation") == 0) return sizeof(Activation);
    if (strcmp(name, "ParameterLayout") == 0) return sizeof(ParameterLayout);
    if (strcmp(name, "SecondOrder") == 0) return sizeof(SecondOrder);
    if (strcmp(name, "KernelTiles") == 0) return sizeof(KernelTiles);
    return -1;
}

/* Memory of this thread that grows and is kept: large allocations would be returned to the system, and cost a page fault a page. */
static __thread void *held;
static __thread size_t held_bytes;
static pthread_key_t held_key;

__attribute__((constructor)) static void make_key(void) { pthread_key_create(&held_key, free); }

SHARED void *workspace(size_t bytes) {
    bytes += 128;
    if (bytes > held_bytes) {
        free(held);
        held_bytes = 0;
        pthread_setspecific(held_key, NULL);
        if (posix_memalign(&held, 64, bytes)) held = NULL;
        if (!held) return NULL;
        held_bytes = bytes;
        pthread_setspecific(held_key, held);
    }
    return held;
}
#else
SHARED void *workspace(size_t bytes);
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#if !defined(SECOND_PART)
#define REAL float
#define INTEGER int32_t
#define NAME(x) JOIN(x, float32)
#define MATH(name) name##f
#define LANES (VECTOR_BYTES / 4)
#define AVX512_SUM(v) _mm512_reduce_add_ps((__m512)(v))
#define AVX512_HEAD(p, n) (VECTOR) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define PANEL (WIDEST * LANES)
#define LOWEST_EXPONENT -87.0f
#define ROUNDER 12582912.0f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
#define EXPONENT_BIAS 127
#define MANTISSA_BITS 23
#define TERMS 6
static const float TAYLOR_float32[] = {1 / 2.f, 1 / 6.f, 1 / 24.f, 1 / 120.f, 1 / 720.f, 1 / 5040.f};
#define TAYLOR TAYLOR_float32
#include "vectors.h"
#include "activations.h"
#include "products.h"
#include "jacobian.h"
#include "losses.h"
#include "gradient.h"
#include "tangent_kernel.h"
#include "second_order.h"
#undef REAL
#undef INTEGER
#undef NAME
#undef MATH
#undef LANES
#undef AVX512_SUM
#undef AVX512_HEAD
#undef PANEL
#undef LOWEST_EXPONENT
#undef ROUNDER
#undef LN2_HIGH
#undef LN2_LOW
#undef EXPONENT_BIAS
#undef MANTISSA_BITS
#undef TERMS
#undef TAYLOR
#undef VECTOR
#undef INTEGERS
#endif

#if !defined(PART) || defined(SECOND_PART)
#define REAL double
#define INTEGER int64_t
#define NAME(x) JOIN(x, float64)
#define MATH(name) name
#define LANES (VECTOR_BYTES / 8)
#define AVX512_SUM(v) _mm512_reduce_add_pd((__m512d)(v))
#define AVX512_HEAD(p, n) (VECTOR) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1), p)
#define PANEL (WIDEST * LANES)
#define LOWEST_EXPONENT -708.0
#define ROUNDER 6755399441055744.0
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
#define TERMS 12
static const double TAYLOR_float64[] = {1 / 2.,     1 / 6.,      1 / 24.,      1 / 120.,      1 / 720.,      1 / 5040.,
                                        1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600., 1 / 6227020800.};
#define TAYLOR TAYLOR_float64
#include "vectors.h"
#include "activations.h"
#include "products.h"
#include "jacobian.h"
#include "losses.h"
#include "gradient.h"
#include "tangent_kernel.h"
#include "second_order.h"
#endif
