/* Multi-scale deformable attention on the CPU, forward and backward: fp32 or bf16 values, fp32 sums.
 *
 * Plain C11 with GCC's vector extensions and POSIX threads; compiled once per instruction set (see build.py), called
 * through ctypes. All tensors are contiguous:
 *   value      batch, cells, heads, d     cells of all levels, row by row
 *   locations  batch, queries, heads, samples, 2     fp32; (x, y) in 0..1 of the sample's level
 *   weights    batch, queries, heads, samples        fp32
 *   out        batch, queries, heads, d   like value
 * with samples = levels * points. Both functions give 0, or 1 where memory ran out.
 *
 * Two things make it fast. Everything about the places of a query's samples is worked out first, in loops over samples
 * that vectorise, so that the loop over cells is nothing but load and multiply-add. And the cells of one head, 1 KB
 * apart in `value` (where they would share an eighth of the cache's sets), are packed side by side before many queries
 * read them. One thread at a time owns a (picture, head) in the backward pass, and walks its queries in order: sums do
 * not depend on the number of threads.
 */
#include <stdlib.h>
#include <string.h>

#include "threads.h"

Team humanquery_team;

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define SEPARATE _Pragma("clang loop vectorize(assume_safety)")
#else
#define SEPARATE _Pragma("GCC ivdep")
#endif /* arrays of the loop that follows do not overlap: it may be vectorised */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

typedef struct {
    const void *value, *grad_out;
    const float *locations, *weights;
    const int32_t *shapes; /* height, width of every level */
    void *out, *grad_value;
    float *grad_locations, *grad_weights;
    int64_t batch, cells, heads, d, queries, levels, points, bf16;
} Call;

/* What one thread needs beside the tensors; arrays over the samples of a query. */
typedef struct {
    int64_t n, vectors, stride; /* samples; vectors per cell; numbers from cell to cell in `map` */
    float *width, *height;
    int32_t *columns, *lines, *start;
    int32_t *row;   /* 4 n: first number of the corners' cells, corner by corner: (y0 x0) (y0 x1) (y1 x0) (y1 x1) */
    float *share;   /* 4 n: bilinear share times weight */
    float *x0, *x1, *y0, *y1;     /* shares by axis */
    float *dx0, *dx1, *dy0, *dy1; /* their slopes: -1 and 1 inside, 0 outside */
    float *quarters; /* 16 n: products of a query's gradient with its cells, four lanes to be added up */
    float *dot;     /* 4 n: these sums */
    float *sum;     /* LANES * vectors */
    void *packed;   /* cells of one head, padded to whole vectors */
    float *grad;    /* the same for the gradient */
} Room;

INLINE float widen(uint16_t half)
{
    union { uint32_t i; float f; } u = {(uint32_t)half << 16};
    return u.f;
}

INLINE uint16_t narrow(float x)
{
    union { float f; uint32_t i; } u = {x};
    if (x != x)
        return 0x7fc0;
    return (uint16_t)((u.i + 0x7fff + ((u.i >> 16) & 1)) >> 16);
}

INLINE vec load(const void *from, int64_t at, int bf16)
{
    if (bf16)
        return (vec)(__builtin_convertvector(*(const halves *)((const uint16_t *)from + at), bits) << 16);
    return *(const vec *)((const float *)from + at);
}

INLINE void put(void *to, int64_t at, const float *from, int64_t count, int64_t bf16)
{
    if (!bf16)
        memcpy((float *)to + at, from, count * sizeof(float));
    else
        for (int64_t c = 0; c < count; c++)
            ((uint16_t *)to)[at + c] = narrow(from[c]);
}

/* Columns, or lines, around a place and their shares; outside, the shares are 0 and the cells some existing ones. */
INLINE void axis(float at, float size, int32_t cells, int32_t *low, int32_t *high, float *share_low, float *share_high,
                 float *slope_low, float *slope_high)
{
    float place = at * size - 0.5f;
    place = place > -2.0f ? place : -2.0f; /* -2 also where not a number */
    place = place < size ? place : size;
    int32_t i = (int32_t)place;
    i -= (float)i > place;
    const int32_t next = i + 1, last = cells - 1;
    const float part = place - (float)i;
    const float has_low = (float)((i >= 0) & (i < cells));
    const float has_high = (float)((next >= 0) & (next < cells));
    *slope_low = -has_low;
    *slope_high = has_high;
    *share_low = has_low * (1.0f - part); /* no branches, so that the loop over samples vectorises; `part` is a number */
    *share_high = has_high * part;
    const int32_t low_inside = i > 0 ? i : 0, high_inside = next > 0 ? next : 0;
    *low = low_inside < last ? low_inside : last;
    *high = high_inside < last ? high_inside : last;
}

INLINE void place_samples(const Room *room, const float *restrict locations, const float *restrict weights, int backward)
{
    const int64_t n = room->n;
    const int32_t stride = (int32_t)room->stride;
    const float *restrict width = room->width, *restrict height = room->height;
    const int32_t *restrict columns = room->columns, *restrict lines = room->lines, *restrict start = room->start;
    int32_t *restrict row = room->row;
    float *restrict share = room->share;
    float *restrict x0 = room->x0, *restrict x1 = room->x1, *restrict y0 = room->y0, *restrict y1 = room->y1;
    float *restrict dx0 = room->dx0, *restrict dx1 = room->dx1, *restrict dy0 = room->dy0, *restrict dy1 = room->dy1;
    SEPARATE
    for (int64_t j = 0; j < n; j++) {
        int32_t left, right, top, bottom;
        float xl, xr, yt, yb, sl, sr, st, sb;
        axis(locations[2 * j], width[j], columns[j], &left, &right, &xl, &xr, &sl, &sr);
        axis(locations[2 * j + 1], height[j], lines[j], &top, &bottom, &yt, &yb, &st, &sb);
        const int32_t upper = start[j] + top * columns[j], lower = start[j] + bottom * columns[j];
        row[j] = (upper + left) * stride;
        row[n + j] = (upper + right) * stride;
        row[2 * n + j] = (lower + left) * stride;
        row[3 * n + j] = (lower + right) * stride;
        share[j] = weights[j] * yt * xl;
        share[n + j] = weights[j] * yt * xr;
        share[2 * n + j] = weights[j] * yb * xl;
        share[3 * n + j] = weights[j] * yb * xr;
        if (backward) {
            x0[j] = xl, x1[j] = xr, y0[j] = yt, y1[j] = yb;
            dx0[j] = sl, dx1[j] = sr, dy0[j] = st, dy1[j] = sb;
        }
    }
}

/* Asks for all cells of a query at once, where they are spread over a large map. */
INLINE void fetch(const Room *room, const void *map, const int64_t bytes, const int bf16)
{
    for (int64_t j = 0; j < 4 * room->n; j++) {
        const char *cell = (const char *)map + (int64_t)room->row[j] * (bf16 ? 2 : 4);
        __builtin_prefetch(cell);
        if (bytes > 64)
            __builtin_prefetch(cell + 64);
    }
}

/* The weighted cells of one query into room->sum. */
INLINE void gather(const Room *room, const void *map, const int64_t vectors, const int bf16)
{
    const int64_t n = room->n;
    const int32_t *restrict row = room->row;
    const float *restrict share = room->share;
    vec *sum = (vec *)room->sum;
    if (vectors <= 4) {
        vec a = {0}, b = {0}, c = {0}, e = {0}; /* in registers: `vectors` is a constant here */
        for (int64_t j = 0; j < 4 * n; j++) {
            const int64_t at = row[j];
            a += share[j] * load(map, at, bf16);
            if (vectors > 1) b += share[j] * load(map, at + LANES, bf16);
            if (vectors > 2) c += share[j] * load(map, at + 2 * LANES, bf16);
            if (vectors > 3) e += share[j] * load(map, at + 3 * LANES, bf16);
        }
        sum[0] = a;
        if (vectors > 1) sum[1] = b;
        if (vectors > 2) sum[2] = c;
        if (vectors > 3) sum[3] = e;
        return;
    }
    memset(sum, 0, vectors * sizeof(vec));
    for (int64_t j = 0; j < 4 * n; j++)
        for (int64_t v = 0; v < vectors; v++)
            sum[v] += share[j] * load(map, row[j] + v * LANES, bf16);
}

/* Adds one query's part to `grad`, and gives the products of its gradient with all of its cells in room->dot. */
INLINE void scatter(const Room *room, const void *map, float *grad, const int64_t vectors, const int bf16)
{
    const int64_t n = room->n;
    const vec *g = (const vec *)room->sum;
    for (int64_t j = 0; j < 4 * n; j++) {
        const int64_t at = room->row[j];
        const float share = room->share[j];
        vec product = {0};
        for (int64_t v = 0; v < vectors; v++) {
            product += g[v] * load(map, at + v * LANES, bf16);
            vec *to = (vec *)(grad + at + v * LANES);
            *to += share * g[v];
        }
        four parts[LANES / 4], folded;
        memcpy(parts, &product, sizeof parts);
        folded = parts[0];
        for (int l = 1; l < LANES / 4; l++)
            folded += parts[l];
        ((four *)room->quarters)[j] = folded;
    }
    const float *restrict quarters = room->quarters;
    float *restrict dot = room->dot;
    SEPARATE
    for (int64_t j = 0; j < 4 * n; j++)
        dot[j] = (quarters[4 * j] + quarters[4 * j + 1]) + (quarters[4 * j + 2] + quarters[4 * j + 3]);
}

INLINE void slopes(const Room *room, const float *restrict weights, float *restrict grad_locations,
                   float *restrict grad_weights)
{
    const int64_t n = room->n;
    const float *restrict d00 = room->dot, *restrict d01 = d00 + n, *restrict d10 = d01 + n, *restrict d11 = d10 + n;
    SEPARATE
    for (int64_t j = 0; j < n; j++) {
        const float upper = room->x0[j] * d00[j] + room->x1[j] * d01[j];
        const float lower = room->x0[j] * d10[j] + room->x1[j] * d11[j];
        const float upper_slope = room->dx0[j] * d00[j] + room->dx1[j] * d01[j];
        const float lower_slope = room->dx0[j] * d10[j] + room->dx1[j] * d11[j];
        grad_weights[j] = room->y0[j] * upper + room->y1[j] * lower;
        grad_locations[2 * j] = weights[j] * room->width[j] * (room->y0[j] * upper_slope + room->y1[j] * lower_slope);
        grad_locations[2 * j + 1] = weights[j] * room->height[j] * (room->dy0[j] * upper + room->dy1[j] * lower);
    }
}

/* One head's cells side by side, each filled up with zeros to whole vectors. */
static void pack(const Call *call, const Room *room, int64_t picture, int64_t head)
{
    const int64_t size = call->bf16 ? 2 : 4, wide = call->heads * call->d * size, d = call->d * size;
    const int64_t padded = room->vectors * LANES * size;
    const char *from = (const char *)call->value + picture * call->cells * wide + head * d;
    char *to = room->packed;
    for (int64_t cell = 0; cell < call->cells; cell++, from += wide, to += padded) {
        memcpy(to, from, d);
        if (padded > d)
            memset(to + d, 0, padded - d);
    }
}

INLINE void forward_queries(const Call *call, const Room *room, const void *map, int64_t picture, int64_t head,
                            int64_t from, int64_t to, const int64_t vectors, const int bf16)
{
    for (int64_t q = from; q < to; q++) {
        const int64_t row = (picture * call->queries + q) * call->heads + head;
        place_samples(room, call->locations + row * room->n * 2, call->weights + row * room->n, 0);
        if (map != room->packed)
            fetch(room, map, vectors * LANES * (bf16 ? 2 : 4), bf16);
        gather(room, map, vectors, bf16);
        put(call->out, row * call->d, room->sum, call->d, bf16);
    }
}

INLINE void backward_queries(const Call *call, const Room *room, const void *map, float *grad, int64_t picture,
                             int64_t head, const int64_t vectors, const int bf16)
{
    for (int64_t q = 0; q < call->queries; q++) {
        const int64_t row = (picture * call->queries + q) * call->heads + head;
        const float *weights = call->weights + row * room->n;
        place_samples(room, call->locations + row * room->n * 2, weights, 1);
        for (int64_t c = 0; c < call->d; c++)
            room->sum[c] = bf16 ? widen(((const uint16_t *)call->grad_out)[row * call->d + c])
                                : ((const float *)call->grad_out)[row * call->d + c];
        if (map != room->packed) {
            fetch(room, map, vectors * LANES * 4, 0);
            fetch(room, grad, vectors * LANES * 4, 0);
        }
        scatter(room, map, grad, vectors, bf16);
        slopes(room, weights, call->grad_locations + row * room->n * 2, call->grad_weights + row * room->n);
    }
}

/* Sizes that matter get code with their size as a constant. */
#define FOR_SIZES(run)                                                                                                 \
    switch (room->vectors * 2 + (call->bf16 != 0)) {                                                                   \
    case 2: run(1, 0); break;                                                                                          \
    case 3: run(1, 1); break;                                                                                          \
    case 4: run(2, 0); break;                                                                                          \
    case 5: run(2, 1); break;                                                                                          \
    case 8: run(4, 0); break;                                                                                          \
    case 9: run(4, 1); break;                                                                                          \
    default: if (call->bf16) run(room->vectors, 1); else run(room->vectors, 0);                                        \
    }

static void forward_some(const Call *call, Room *room, int64_t picture, int64_t head, int64_t from, int64_t to)
{
    const int64_t padded = room->vectors * LANES, size = call->bf16 ? 2 : 4;
    const void *map = room->packed;
    if (padded != call->d || (to - from) * room->n * 2 > call->cells) {
        room->stride = padded;
        pack(call, room, picture, head);
    } else {
        room->stride = call->heads * call->d;
        map = (const char *)call->value + (picture * call->cells * call->heads + head) * call->d * size;
    }
#define RUN(vectors, bf16) forward_queries(call, room, map, picture, head, from, to, vectors, bf16)
    FOR_SIZES(RUN)
#undef RUN
}

static void backward_some(const Call *call, Room *room, int64_t picture, int64_t head)
{
    const int64_t padded = room->vectors * LANES, at = (picture * call->cells * call->heads + head) * call->d;
    const int packed = call->bf16 || padded != call->d || call->queries * room->n * 2 > call->cells;
    const void *map = packed ? room->packed : (const float *)call->value + at;
    float *grad = packed ? room->grad : (float *)call->grad_value + at;
    room->stride = packed ? padded : call->heads * call->d;
    memset(room->sum, 0, padded * sizeof(float));
    if (packed) {
        pack(call, room, picture, head);
        memset(room->grad, 0, call->cells * padded * sizeof(float));
    }
#define RUN(vectors, bf16) backward_queries(call, room, map, grad, picture, head, vectors, bf16)
    FOR_SIZES(RUN)
#undef RUN
    for (int64_t cell = 0; packed && cell < call->cells; cell++) {
        const int64_t at = ((picture * call->cells + cell) * call->heads + head) * call->d;
        put(call->grad_value, at, room->grad + cell * padded, call->d, call->bf16);
    }
}

/* Gives the block that holds everything, NULL where memory ran out. */
static void *furnish(const Call *call, Room *room, int backward)
{
    const int64_t n = call->levels * call->points, vectors = (call->d + LANES - 1) / LANES;
    const int64_t map = call->cells * vectors * LANES;
    const int64_t words = 5 * n + 4 * n + 4 * n + 8 * n + 20 * n + vectors * LANES + map + (backward ? map : 0);
    char *block = malloc(words * 4 + 128);
    if (!block)
        return NULL;
    float *next = (float *)(((uintptr_t)block + 63) & ~(uintptr_t)63);
    room->n = n, room->vectors = vectors;
    room->packed = next, next += map;
    room->grad = next, next += backward ? map : 0;
    room->sum = next, next += vectors * LANES;
    float **fields[] = {&room->width, &room->height, &room->x0, &room->x1, &room->y0, &room->y1,
                        &room->dx0, &room->dx1, &room->dy0, &room->dy1};
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
        *fields[f] = next, next += n;
    room->share = next, next += 4 * n;
    room->quarters = next, next += 16 * n;
    room->dot = next, next += 4 * n;
    room->row = (int32_t *)next, next += 4 * n;
    room->columns = (int32_t *)next, next += n;
    room->lines = (int32_t *)next, next += n;
    room->start = (int32_t *)next, next += n;
    int32_t start = 0;
    for (int64_t j = 0; j < n; j++) {
        const int32_t *shape = call->shapes + 2 * (j / call->points);
        room->lines[j] = shape[0], room->columns[j] = shape[1], room->start[j] = start;
        room->height[j] = (float)shape[0], room->width[j] = (float)shape[1];
        if (j % call->points == call->points - 1)
            start += shape[0] * shape[1];
    }
    return block;
}

/* Units are (picture, head, query). */
static int forward_units(const void *given, int64_t from, int64_t to)
{
    const Call *call = given;
    Room room;
    void *block = furnish(call, &room, 0);
    if (!block)
        return 1;
    for (int64_t unit = from; unit < to;) {
        const int64_t head = unit / call->queries, first = unit % call->queries, left = to - unit;
        const int64_t end = first + left < call->queries ? first + left : call->queries;
        forward_some(call, &room, head / call->heads, head % call->heads, first, end);
        unit += end - first;
    }
    free(block);
    return 0;
}

/* Units are (picture, head). */
static int backward_units(const void *given, int64_t from, int64_t to)
{
    const Call *call = given;
    Room room;
    void *block = furnish(call, &room, 1);
    if (!block)
        return 1;
    for (int64_t unit = from; unit < to; unit++)
        backward_some(call, &room, unit / call->heads, unit % call->heads);
    free(block);
    return 0;
}

int humanquery_forward(const void *value, const int32_t *shapes, const float *locations, const float *weights, void *out,
                       int64_t batch, int64_t cells, int64_t heads, int64_t d, int64_t queries, int64_t levels,
                       int64_t points, int64_t bf16, int64_t threads)
{
    const Call call = {.value = value, .shapes = shapes, .locations = locations, .weights = weights, .out = out,
                       .batch = batch, .cells = cells, .heads = heads, .d = d, .queries = queries, .levels = levels,
                       .points = points, .bf16 = bf16};
    return share_out(forward_units, &call, batch * heads * queries, threads);
}

int humanquery_backward(const void *grad_out, const void *value, const int32_t *shapes, const float *locations,
                        const float *weights, void *grad_value, float *grad_locations, float *grad_weights,
                        int64_t batch, int64_t cells, int64_t heads, int64_t d, int64_t queries, int64_t levels,
                        int64_t points, int64_t bf16, int64_t threads)
{
    const Call call = {.grad_out = grad_out, .value = value, .shapes = shapes, .locations = locations,
                       .weights = weights, .grad_value = grad_value, .grad_locations = grad_locations,
                       .grad_weights = grad_weights, .batch = batch, .cells = cells, .heads = heads, .d = d,
                       .queries = queries, .levels = levels, .points = points, .bf16 = bf16};
    return share_out(backward_units, &call, batch * heads, threads);
}
