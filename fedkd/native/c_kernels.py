"""The first part of the C source: vectors, and kernels over tiles of constant size whose sums stay in registers."""

TEXT = r"""
/* One client's local training by SGD, for chains of convolution, 2x2 max-pool, ReLU, flatten and linear, in float32.
 *
 * An image activation lies as [channel][row][column][sample of the batch]: the numbers of one row of all samples are one
 * contiguous run, so vectors are full for any batch, and a tap of a convolution is the same run moved by whole columns.
 * Flat activations and weights of linear layers lie as rows padded with zeros to whole vectors.
 *
 * Rules that the kernels keep: nothing is stored outside a row's own numbers, so that the zeros around it stay; sums have
 * an order of their own that no address changes; NaN and infinity are never compared away. Nothing is global.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers: OT x NV sums, NV loads and a weight; else 16 */
#define OT 6
#define NV 4
#define GT 4
#else
#define OT 4
#define NV 3
#define GT 2
#endif
#define KT 5 /* taps of a row whose gradients are summed together, for GT output channels */
#define NEAR 6144 /* floats of a tile's gradient that are looked at together: half of a small first-level cache */
#define LAYERS 64

typedef float vec __attribute__((vector_size(4 * VL)));
typedef float loose __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16)));
typedef float four_loose __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * VL)));
typedef int64_t num;

enum { CONV = 1, POOL, RELU, FLATTEN, LINEAR };

typedef struct {
    int64_t kind, in_c, in_h, in_w, out_c, out_h, out_w, kh, kw, pad_h, pad_w; /* flat: c features, h = w = 0 */
} layer;

typedef struct { /* channel c, row y, column x, sample b of an image is at[c * cs + y * rs + x * batch + b] */
    float *at;
    num cs, rs;
} image; /* flat: sample b, feature f is at[b * rs + f] */

typedef struct {
    float *w, *b, *vw, *vb, *gw; /* weight, bias, their momentum; a convolution's gradient */
    float *sums;                 /* and the vectors that add up to it, for one tile of outputs */
    float *fore, *back;          /* a convolution's weights in the order in which its tiles read them */
    num row, size;               /* floats of a linear layer's padded row, and of the weight as it lies here */
} weights;

typedef struct {
    float rate, momentum, decay;
    int first;
} update;

typedef struct {
    const layer *layers;
    num n, first; /* the shallowest layer with weights: nobody asks for the gradient of its input */
    num batch;
    weights of[LAYERS];
    image a[LAYERS + 1], g[LAYERS + 1]; /* input of each layer (the last: logits), and its gradient */
} net;

#define INLINE static inline __attribute__((always_inline))

INLINE num up(num n) { return (n + VL - 1) / VL * VL; }
INLINE num tiles(num n, num most) { return (n + most - 1) / most; }
INLINE num least(num a, num b) { return a < b ? a : b; }
INLINE num most(num a, num b) { return a > b ? a : b; }
INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec splat(float s) { return s - (vec){0}; }
INLINE vec choose(mask m, vec yes, vec no) { return (vec)(((mask)yes & m) | ((mask)no & ~m)); }

/* In a register from here on: gcc would read it from memory at each use, where that costs two reads if it crosses lines. */
#if defined(__AVX512F__)
#define HELD(x) __asm__("" : "+v"(x))
#elif defined(__SSE__)
#define HELD(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define HELD(x) __asm__("" : "+w"(x))
#else
#define HELD(x) (void)0
#endif

static void __attribute__((noinline)) store_part(float *p, const float *v, num n) {
    for (num i = 0; i < n; i++) p[i] = v[i];
}

INLINE void store_some(float *p, vec v, num n) {
    if (n >= VL) {
        store(p, v);
    } else {
        vec copy = v; /* its own memory: v itself stays in a register */
        store_part(p, (const float *)&copy, n);
    }
}

INLINE float sum(vec v) { /* halves onto halves, in registers */
    union {
        vec all;
        four part[VL / 4];
    } u = {.all = v};
#if VL == 16
    four q = (u.part[0] + u.part[2]) + (u.part[1] + u.part[3]);
#elif VL == 8
    four q = u.part[0] + u.part[1];
#else
    four q = u.part[0];
#endif
    return (q[0] + q[2]) + (q[1] + q[3]);
}

/* ---- kernels over tiles of constant size: each is inlined once per size, so that its sums stay in registers ---------- */

#if defined(__clang__) /* it would unroll too late to see that */
#define EACH(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < n; i++)
#else
#define EACH(i, n) for (int i = 0; i < n; i++)
#endif

typedef struct {
    const float *in, *w, *bias;
    float *out;
    num cs, rs, channels, rows, kw, step, skip, ocs, n;
} corr_args; /* skip: weights between one channel's last row that is read and the next one's first */

INLINE void corr(const int ot, const int nv, const corr_args *q) {
    vec acc[OT][NV];
    EACH(o, ot)
        EACH(v, nv) acc[o][v] = splat(q->bias ? q->bias[o] : 0.0f);
    const float *w = q->w;
    for (num c = 0; c < q->channels; c++, w += q->skip * ot)
        for (num y = 0; y < q->rows; y++) {
            const float *in = q->in + c * q->cs + y * q->rs;
            for (num k = 0; k < q->kw; k++, in += q->step, w += ot) {
                vec x[NV];
                EACH(v, nv) x[v] = load(in + v * VL);
                EACH(o, ot)
                    EACH(v, nv) acc[o][v] += x[v] * w[o];
            }
        }
    EACH(o, ot)
        EACH(v, nv) store_some(q->out + o * q->ocs + v * VL, acc[o][v], q->n - v * VL);
}

typedef struct {
    const float *in, *g;
    float *sums; /* [ot][kt] vectors, to which these rows' are added */
    num irs, gcs, grs, rows, vecs, step;
} grad_args;

INLINE void conv_grad(const int ot, const int kt, const grad_args *q) {
    vec acc[GT][KT];
    EACH(o, ot)
        EACH(k, kt) acc[o][k] = load(q->sums + (o * kt + k) * VL);
    for (num y = 0; y < q->rows; y++) {
        const float *g = q->g + y * q->grs, *in = q->in + y * q->irs;
        for (num v = 0; v < q->vecs; v++, g += VL, in += VL) {
            vec gv[GT];
            EACH(o, ot) gv[o] = load(g + o * q->gcs);
            EACH(k, kt) {
                vec x = load(in + k * q->step);
                HELD(x);
                EACH(o, ot) acc[o][k] += gv[o] * x;
            }
        }
    }
    EACH(o, ot)
        EACH(k, kt) store(q->sums + (o * kt + k) * VL, acc[o][k]);
}

typedef struct {
    const float *x, *w, *bias, *g;
    float *out, *weight, *velocity;
    num xs, ws, gs, os, n; /* strides of rows; n: length of the sums */
    const update *how;
} flat_args;

INLINE void dense(const int bt, const int ot, const flat_args *q) { /* out[b][o] = sum_i x[b][i] w[o][i] + bias[o] */
    vec acc[OT][NV] = {{{0}}};
    for (num i = 0; i < q->n; i += VL) {
        vec w[NV];
        EACH(o, ot) w[o] = load(q->w + o * q->ws + i);
        EACH(b, bt) {
            vec x = load(q->x + b * q->xs + i);
            EACH(o, ot) acc[b][o] += x * w[o];
        }
    }
    EACH(b, bt)
        EACH(o, ot) q->out[b * q->os + o] = sum(acc[b][o]) + q->bias[o];
}

INLINE void dense_input(const int bt, const int nv, const flat_args *q) { /* out[b][i] = sum_o g[b][o] w[o][i] */
    vec acc[OT][NV] = {{{0}}};
    for (num o = 0; o < q->n; o++) {
        vec w[NV];
        EACH(v, nv) w[v] = load(q->w + o * q->ws + v * VL);
        EACH(b, bt)
            EACH(v, nv) acc[b][v] += w[v] * q->g[b * q->gs + o];
    }
    EACH(b, bt)
        EACH(v, nv) store(q->out + b * q->os + v * VL, acc[b][v]);
}

INLINE void descend(vec g, float *weight, float *velocity, const update *how) {
    vec w = load(weight);
    if (how->decay != 0.0f) g += w * how->decay;
    if (how->momentum != 0.0f) {
        if (!how->first) g += load(velocity) * how->momentum;
        store(velocity, g);
    }
    store(weight, w - g * how->rate);
}

INLINE void dense_grad(const int ot, const int nv, const flat_args *q) { /* sum_b g[b][o] x[b][i], and the step by it */
    vec acc[OT][NV] = {{{0}}};
    for (num b = 0; b < q->n; b++) {
        vec x[NV];
        EACH(v, nv) x[v] = load(q->x + b * q->xs + v * VL);
        EACH(o, ot)
            EACH(v, nv) acc[o][v] += x[v] * q->g[b * q->gs + o];
    }
    EACH(o, ot)
        EACH(v, nv)
            descend(acc[o][v], q->weight + o * q->ws + v * VL, q->velocity + o * q->ws + v * VL, q->how);
}

#define SIZE(f, a, o, v) static void f##_##o##_##v(const a *q) { f(o, v, q); }
#define ROW3(f, a, o) SIZE(f, a, o, 1) SIZE(f, a, o, 2) SIZE(f, a, o, 3)
#define ROW4(f, a, o) ROW3(f, a, o) SIZE(f, a, o, 4)
#define ROW5(f, a, o) ROW4(f, a, o) SIZE(f, a, o, 5)
#define NAMES3(f, o) f##_##o##_1, f##_##o##_2, f##_##o##_3
#define NAMES4(f, o) NAMES3(f, o), f##_##o##_4
#define NAMES5(f, o) NAMES4(f, o), f##_##o##_5
#if OT == 6
#define EVERY(f, a)                                                                                       \
    ROW4(f, a, 1) ROW4(f, a, 2) ROW4(f, a, 3) ROW4(f, a, 4) ROW4(f, a, 5) ROW4(f, a, 6)                   \
    static void (*const f##_of[OT][NV])(const a *) = {                                                    \
        {NAMES4(f, 1)}, {NAMES4(f, 2)}, {NAMES4(f, 3)}, {NAMES4(f, 4)}, {NAMES4(f, 5)}, {NAMES4(f, 6)}};
ROW5(conv_grad, grad_args, 1) ROW5(conv_grad, grad_args, 2) ROW5(conv_grad, grad_args, 3) ROW5(conv_grad, grad_args, 4)
static void (*const conv_grad_of[GT][KT])(const grad_args *) = {
    {NAMES5(conv_grad, 1)}, {NAMES5(conv_grad, 2)}, {NAMES5(conv_grad, 3)}, {NAMES5(conv_grad, 4)}};
#else
#define EVERY(f, a)                                                                                       \
    ROW3(f, a, 1) ROW3(f, a, 2) ROW3(f, a, 3) ROW3(f, a, 4)                                               \
    static void (*const f##_of[OT][NV])(const a *) = {{NAMES3(f, 1)}, {NAMES3(f, 2)}, {NAMES3(f, 3)}, {NAMES3(f, 4)}};
ROW5(conv_grad, grad_args, 1) ROW5(conv_grad, grad_args, 2)
static void (*const conv_grad_of[GT][KT])(const grad_args *) = {{NAMES5(conv_grad, 1)}, {NAMES5(conv_grad, 2)}};
#endif
EVERY(corr, corr_args)
EVERY(dense, flat_args)
EVERY(dense_input, flat_args)
EVERY(dense_grad, flat_args)

/* Tile t of `count` tiles over n: where it begins. Sizes differ by one at most. */
INLINE num cut(num n, num count, num t) { return n * t / count; }
#define TILES(t, n, size, from, width)                                                                    \
    for (num t = 0, count_##t = tiles(n, size); t < count_##t; t++)                                       \
        for (num from = cut(n, count_##t, t), width = cut(n, count_##t, t + 1) - from; width; width = 0)
"""
