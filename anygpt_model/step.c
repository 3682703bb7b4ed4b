/* A Llama's forward pass on a CPU, for a step of many sequences and for a prompt: what llama.py does operation by
   operation, in one call without allocations.

   Built by compiled.py for the machine it runs on, once for each kind of weight. What products take has the weights'
   kind, all else is float32.
   Every output is one chain of sums in a fixed order, whatever rows are computed beside it and however many threads
   share the work: a row's bits never depend on the batch. Knows no token, no sampling and no Python. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif
#if defined(BFLOAT16) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifdef BFLOAT16
typedef uint16_t weight;
#else
typedef float weight;
#endif

/* Numbers in a vector, and how many outputs of how many rows are summed at a time: as many as the registers hold beside
   what is multiplied. BLOCK: rows that go through all weights before the next do, so that they stay in the cache. */
#ifdef __AVX512F__
enum { LANES = 16, OUTS = 4, ROWS = 4, BLOCK = 32 };
#else
enum { LANES = 8, OUTS = 4, ROWS = 3, BLOCK = 30 };
#endif
typedef float reals __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* The sizes of a model and where its weights and caches lie; compiled.py has the same list. */
typedef struct {
    int64_t hidden, wide, layers, heads, kv_heads, head_dim, positions;
    float eps;
    const weight *embedding;
    const float *norm;             /* [hidden] */
    const float *rotations;        /* [positions, head_dim]: cosine and sine of each pair */
    const float *const *norms;     /* two a layer: [hidden] */
    const weight *const *products; /* five a layer: qkv, out, gate, up, down, each [out, in] */
    weight *const *caches;         /* two a layer: keys, values [slots, kv heads, positions, head_dim] */
} model;

INLINE reals take(const float *at) { return *(const reals *)at; }

/* x in a register: short of them, GCC would read it again for each use, and reading is what takes longest. */
INLINE reals held(reals x) {
#if defined(__FMA__) && !defined(__AVX512F__)
    __asm__("" : "+x"(x));
#endif
    return x;
}

/* a b + sum, rounded once where the processor can. Said by name: a compiler that may choose does not choose alike for
   one row and for many. */
INLINE reals fused(reals a, reals b, reals sum) {
#if defined(__AVX512F__)
    return (reals)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
    return (reals)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return a * b + sum;
#endif
}

#ifdef BFLOAT16
INLINE reals take_weight(const weight *at) {
#ifdef __AVX512F__
    return (reals)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
#else
    return (reals)(__builtin_convertvector(*(const halves *)at, bits) << 16);
#endif
}
/* Rounded to the nearest, ties to even. */
INLINE void put(weight *at, reals x) {
    bits raw = (bits)x;
    raw = (raw + 0x7FFF + (raw >> 16 & 1)) >> 16;
    *(halves *)at = __builtin_convertvector(raw, halves);
}
#else
INLINE reals take_weight(const weight *at) { return take(at); }
INLINE void put(weight *at, reals x) { *(reals *)at = x; }
#endif

/* STEP weights at a time: sum + w . x, lane by lane. factor: what weights are multiplied with, of their own kind where
   the processor multiplies that; else float32, widened once for all weights, the two of each pair apart, because pairs
   of weights come apart by one operation each. */
#if defined(BFLOAT16) && defined(__AVX512BF16__)
enum { STEP = 2 * LANES };
typedef weight factor;
typedef __m512bh some;
INLINE some take_some(const weight *at) { return (__m512bh)_mm512_loadu_si512(at); }
INLINE some take_factors(const factor *at) { return take_some(at); }
INLINE reals dot(reals sum, some w, some x) { return (reals)_mm512_dpbf16_ps((__m512)sum, w, x); }
#elif defined(BFLOAT16)
enum { STEP = 2 * LANES };
typedef float factor;
typedef struct {
    reals even, odd;
} some;
INLINE some take_some(const weight *at) {
    bits pairs = *(const bits *)at;
    return (some){(reals)(pairs << 16), (reals)(pairs & 0xFFFF0000)};
}
INLINE some take_factors(const factor *at) { return (some){take(at), take(at + LANES)}; }
INLINE reals dot(reals sum, some w, some x) { return fused(w.odd, x.odd, fused(w.even, x.even, sum)); }
#else
enum { STEP = LANES };
typedef float factor;
typedef reals some;
INLINE some take_some(const weight *at) { return held(take(at)); }
INLINE some take_factors(const factor *at) { return held(take(at)); }
INLINE reals dot(reals sum, some w, some x) { return fused(w, x, sum); }
#endif

/* The sum of all lanes, halves first: the same order everywhere. */
INLINE float total(reals x) {
#ifdef __AVX512F__
    x += __builtin_shuffle(x, (ints){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    x += __builtin_shuffle(x, (ints){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    x += __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
#else
    x += __builtin_shuffle(x, (ints){4, 5, 6, 7, 0, 1, 2, 3});
    x += __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5});
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6});
#endif
    return x[0];
}

/* Where `mask` is all ones `yes`, else `no`. */
INLINE reals choose(ints mask, reals yes, reals no) { return (reals)(((ints)yes & mask) | ((ints)no & ~mask)); }

/* e^x to float32 rounding; 0 below -87. */
INLINE reals exponential(reals x) {
    const reals zero = {0};
    ints tiny = x < -87.0f;
    x = choose(tiny, zero - 87.0f, x);
    x = choose(x > 88.0f, zero + 88.0f, x);
    reals turns = fused(x, zero + 1.44269504f, zero + 12582912.0f);
    ints power = (ints)turns - 0x4B400000;
    turns -= 12582912.0f;
    x = fused(turns, zero + 2.12194440e-4f, fused(turns, zero - 0.693359375f, x));
    reals y = fused(x, zero + 1.9875691500e-4f, zero + 1.3981999507e-3f);
    y = fused(y, x, zero + 8.3334519073e-3f);
    y = fused(y, x, zero + 4.1665795894e-2f);
    y = fused(y, x, zero + 1.6666665459e-1f);
    y = fused(y, x, zero + 5.0000001201e-1f);
    y = fused(y * x, x, x) + 1.0f;
    y *= (reals)((power + 127) << 23);
    return choose(tiny, zero, y);
}

/* `total` of four at once, by the same sums, to four places in a row. */
INLINE void put_totals(float *at, reals a, reals b, reals c, reals d) {
#ifdef __AVX512F__
    const ints low = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}, high = low + 8;
    const ints even = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}, odd = even + 4;
    reals ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    reals cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
    reals x = __builtin_shuffle(ab, cd, even) + __builtin_shuffle(ab, cd, odd);
    x += __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    x = __builtin_shuffle(x, (ints){0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12});
#else
    const ints low = {0, 1, 2, 3, 8, 9, 10, 11}, high = low + 4;
    const ints even = {0, 1, 8, 9, 4, 5, 12, 13}, odd = even + 2;
    reals ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    reals cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
    reals x = __builtin_shuffle(ab, cd, even) + __builtin_shuffle(ab, cd, odd);
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6});
    x = __builtin_shuffle(x, (ints){0, 4, 2, 6, 0, 4, 2, 6});
#endif
    memcpy(at, &x, 4 * sizeof(float));
}

/* y[r, o] = w[o] . x[r] for OUTS rows of w and `rows` rows of x; ahead: whether the next tile is fetched meanwhile,
   because rows are too short for the processor to foresee it. Both are known when this is compiled. */
INLINE void tile(const weight *w, const factor *x, int64_t n, float *y, int64_t stride, const int rows,
                 const int ahead) {
    reals sums[ROWS][OUTS] = {{{0}}};
    for (int64_t k = 0; k < n; k += STEP) {
        if (ahead)
#pragma GCC unroll 4
            for (int at = 0; at < (int)(OUTS * STEP * sizeof(weight)); at += 64)
                __builtin_prefetch((const char *)(w + OUTS * (n + k)) + at);
        some given[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) given[r] = take_factors(x + r * n + k);
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            some weights = take_some(w + o * n + k);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) sums[r][o] = dot(sums[r][o], weights, given[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) put_totals(y + r * stride, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
}

/* Not inlined, so that nothing but the tile asks for registers. */
#define TILE(name, rows, ahead)                                                                                        \
    static __attribute__((noinline)) void name(const weight *w, const factor *x, int64_t n, float *y, int64_t to) {    \
        tile(w, x, n, y, to, rows, ahead);                                                                             \
    }
TILE(first_rows, ROWS, 1)
TILE(more_rows, ROWS, 0)
TILE(two_rows, 2, 1)
TILE(one_row, 1, 1)

/* y [rows, stride] = x [rows, n] times w [outs, n], for up to BLOCK rows. */
static void block(const weight *w, int64_t outs, int64_t n, const factor *x, int64_t rows, float *y, int64_t stride) {
    int64_t o = 0;
    for (; o + OUTS <= outs; o += OUTS) {
        const weight *some = w + o * n;
        int64_t r = 0;
        if (rows >= ROWS) first_rows(some, x, n, y + o, stride), r = ROWS;
        for (; r + ROWS <= rows; r += ROWS) more_rows(some, x + r * n, n, y + r * stride + o, stride);
        for (; r + 2 <= rows; r += 2) two_rows(some, x + r * n, n, y + r * stride + o, stride);
        if (r < rows) one_row(some, x + r * n, n, y + r * stride + o, stride);
    }
    for (; o < outs; o++)
        for (int64_t r = 0; r < rows; r++) {
            reals sum = {0};
            for (int64_t k = 0; k < n; k += STEP) sum = dot(sum, take_some(w + o * n + k), take_factors(x + r * n + k));
            y[r * stride + o] = total(sum);
        }
}

/* y [rows, stride] = x [rows, n] times w [outs, n]. */
static void product(const weight *w, int64_t outs, int64_t n, const factor *x, int64_t rows, float *y, int64_t stride) {
    for (int64_t r = 0; r < rows; r += BLOCK)
        block(w, outs, n, x + r * n, rows - r < BLOCK ? rows - r : BLOCK, y + r * stride, stride);
}

/* `count` numbers as products take them; room: for as many. */
INLINE const factor *factors(const weight *x, int64_t count, float *room) {
#if defined(BFLOAT16) && !defined(__AVX512BF16__)
    for (int64_t k = 0; k < count; k += STEP) {
        some pairs = take_some(x + k);
        *(reals *)(room + k) = pairs.even;
        *(reals *)(room + k + LANES) = pairs.odd;
    }
    return room;
#else
    (void)count, (void)room;
    return x;
#endif
}

/* What products take: [rows, n], and the same once more as the tile unit wants it, where there is one: for every LANES
   rows and every 2 * LANES of n a square, [n / 2, rows] of pairs. */
typedef struct {
    const factor *plain;
    const weight *tiled;
} input;

#ifdef TILES
static int tiles_ready = 0;

enum { SQUARE = 2 * LANES * LANES, GROUP = 4 };

/* Ask the system for the tile unit. */
static void ask_for_tiles(void) { tiles_ready = syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static void open_tiles(void) {
    struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((packed)) shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = LANES;
    if (tiles_ready) _tile_loadconfig(&shape);
}

static void close_tiles(void) {
    if (tiles_ready) _tile_release();
}

static input arranged(const weight *x, int64_t rows, int64_t n, float *given) {
    weight *room = (weight *)given;
    if (!tiles_ready) return (input){x, 0};
    for (int64_t first = 0; first < rows; first += LANES)
        for (int64_t k = 0; k < n; k += 2 * LANES) {
            uint32_t square[LANES][LANES] = {{0}};
            for (int64_t r = first; r < rows && r < first + LANES; r++)
                for (int pair = 0; pair < LANES; pair++) memcpy(&square[pair][r - first], x + r * n + k + 2 * pair, 4);
            memcpy(room + first * n + k * LANES, square, sizeof square);
        }
    return (input){x, room};
}

#define ADD(sum, square, given)                                                                                        \
    do {                                                                                                               \
        _tile_loadd(given, square, 64);                                                                                \
        _tile_dpbf16ps(sum, 4, given);                                                                                 \
    } while (0)

/* `outs`, a multiple of LANES, for up to GROUP * LANES rows. */
static __attribute__((noinline)) void tiled(const weight *w, int64_t outs, int64_t n, const weight *x, int64_t rows,
                                            float *y, int64_t stride) {
    const int64_t groups = (rows + LANES - 1) / LANES;
    for (int64_t o = 0; o < outs; o += LANES) {
        float found[GROUP][LANES][LANES];
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t k = 0; k < n; k += 2 * LANES) {
            const weight *square = x + k * LANES;
            for (int i = 0; i < LANES; i++) __builtin_prefetch(w + (o + LANES + i) * n + k);
            _tile_loadd(4, w + o * n + k, n * sizeof(weight));
            ADD(0, square, 5);
            if (groups > 1) ADD(1, square + LANES * n, 6);
            if (groups > 2) ADD(2, square + 2 * LANES * n, 7);
            if (groups > 3) ADD(3, square + 3 * LANES * n, 5);
        }
        _tile_stored(0, found[0], 64);
        _tile_stored(1, found[1], 64);
        _tile_stored(2, found[2], 64);
        _tile_stored(3, found[3], 64);
        __asm__ volatile("" ::: "memory");
        for (int64_t r = 0; r < rows; r++)
            for (int i = 0; i < LANES; i++) y[r * stride + o + i] = found[r / LANES][i][r % LANES];
    }
}

static void multiplied(const weight *w, int64_t outs, int64_t n, input x, int64_t rows, float *y, int64_t stride) {
    if (!tiles_ready) {
        product(w, outs, n, x.plain, rows, y, stride);
        return;
    }
    for (int64_t r = 0; r < rows; r += GROUP * LANES)
        tiled(w, outs, n, x.tiled + r * n, rows - r < GROUP * LANES ? rows - r : GROUP * LANES, y + r * stride, stride);
}
#else
static void ask_for_tiles(void) {}
static void open_tiles(void) {}
static void close_tiles(void) {}
static input arranged(const weight *x, int64_t rows, int64_t n, float *room) {
    return (input){factors(x, rows * n, room), 0};
}
static void multiplied(const weight *w, int64_t outs, int64_t n, input x, int64_t rows, float *y, int64_t stride) {
    product(w, outs, n, x.plain, rows, y, stride);
}
#endif

static void normed(const float *x, const float *scale, int64_t rows, int64_t n, float eps, weight *y) {
    for (int64_t r = 0; r < rows; r++) {
        reals squares = {0};
        for (int64_t k = 0; k < n; k += LANES) squares = fused(take(x + r * n + k), take(x + r * n + k), squares);
        float factor = 1.0f / sqrtf(total(squares) / (float)n + eps);
        for (int64_t k = 0; k < n; k += LANES)
            put(y + r * n + k, take(x + r * n + k) * factor * take(scale + k));
    }
}

static void turn(float *head, const float *rotation, int64_t width) {
    for (int64_t i = 0; i < width; i += 2) {
        float a = head[i], b = head[i + 1], cosine = rotation[i], sine = rotation[i + 1];
        head[i] = a * cosine - b * sine;
        head[i + 1] = a * sine + b * cosine;
    }
}

/* One query and the number of keys that it sees; scores: room for as many, rounded up to LANES. */
typedef struct {
    const float *query;
    int64_t count;
    float *scores;
    weight *found;
} seeker;

/* scores[t] = query . keys[t] for four keys from t on, for each of `seekers`, a number that is known when this is
   compiled. */
INLINE void compare(const seeker *s, const int seekers, const weight *keys, int64_t t, int64_t width) {
    reals sums[ROWS][4] = {{{0}}};
    for (int64_t k = 0; k < width; k += LANES) {
        reals given[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < seekers; r++) given[r] = held(take(s[r].query + k));
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            reals key = held(take_weight(keys + (t + i) * width + k));
            if (i * LANES * sizeof(weight) % 64 == 0) __builtin_prefetch(keys + (t + 8) * width + 4 * k + i * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < seekers; r++) sums[r][i] = fused(given[r], key, sums[r][i]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < seekers; r++) put_totals(s[r].scores + t, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
}

/* Scores -> their exponentials; one over the sum of these. */
static float softened(float *scores, int64_t count, float scale) {
    const reals zero = {0};
    reals tops = zero - INFINITY, mass = zero;
    for (int64_t t = count; t % LANES; t++) scores[t] = -INFINITY;
    for (int64_t t = 0; t < count; t += LANES) {
        reals some = take(scores + t) * scale;
        tops = choose(some > tops, some, tops);
        *(reals *)(scores + t) = some;
    }
    float top = tops[0];
    for (int l = 1; l < LANES; l++) top = tops[l] > top ? tops[l] : top;
    for (int64_t t = 0; t < count; t += LANES) {
        reals some = exponential(take(scores + t) - top);
        mass += some;
        *(reals *)(scores + t) = some;
    }
    return 1.0f / total(mass);
}

/* The sum of `pieces` times LANES columns of values [count, width], weighted by each seeker's scores. The first
   `common` values are seen by all of them. */
INLINE void weighted(const seeker *s, const int seekers, const float *shares, const weight *values, int64_t common,
                     int64_t width, int64_t column, const int pieces) {
    const reals zero = {0};
    reals sums[ROWS][4] = {{{0}}};
    for (int64_t t = 0; t < common; t++)
#pragma GCC unroll 4
        for (int i = 0; i < pieces; i++) {
            reals value = take_weight(values + t * width + column + i * LANES);
            if (i * LANES * sizeof(weight) % 64 == 0)
                __builtin_prefetch(values + (t + 8) * width + column + i * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < seekers; r++) sums[r][i] = fused(s[r].scores[t] - zero, value, sums[r][i]);
        }
#pragma GCC unroll 4
    for (int r = 0; r < seekers; r++) {
        for (int64_t t = common; t < s[r].count; t++)
#pragma GCC unroll 4
            for (int i = 0; i < pieces; i++) {
                reals value = take_weight(values + t * width + column + i * LANES);
                sums[r][i] = fused(s[r].scores[t] - zero, value, sums[r][i]);
            }
#pragma GCC unroll 4
        for (int i = 0; i < pieces; i++) put(s[r].found + column + i * LANES, sums[r][i] * shares[r]);
    }
}

/* What `seekers` queries of one head find among the keys and values of one sequence, of which the last sees most. */
INLINE void seek(const seeker *s, const int seekers, const weight *keys, const weight *values, int64_t width) {
    const float scale = 1.0f / sqrtf((float)width);
    const int64_t most = s[seekers - 1].count;
    float shares[ROWS];
    int64_t t = 0, column = 0;
    for (; t + 4 <= most; t += 4) compare(s, seekers, keys, t, width);
    for (; t < most; t++)
        for (int r = 0; r < seekers; r++) {
            reals sum = {0};
            for (int64_t k = 0; k < width; k += LANES)
                sum = fused(take(s[r].query + k), take_weight(keys + t * width + k), sum);
            s[r].scores[t] = total(sum);
        }
    for (int r = 0; r < seekers; r++) shares[r] = softened(s[r].scores, s[r].count, scale);
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        weighted(s, seekers, shares, values, s[0].count, width, column, 4);
    for (; column < width; column += LANES) weighted(s, seekers, shares, values, s[0].count, width, column, 1);
}

/* Queries, keys and values of head `unit` (queries first, then keys, then values) for all rows; keys and values go into
   their caches. */
static void project(const model *m, int64_t layer, int64_t unit, int64_t rows, const int64_t *slots,
                    const int64_t *lengths, input x, float *queries) {
    const int64_t width = m->head_dim, n = m->hidden, all = m->heads + 2 * m->kv_heads;
    multiplied(m->products[5 * layer] + unit * width * n, width, n, x, rows, queries + unit * width, all * width);
    for (int64_t r = 0; r < rows; r++) {
        float *head = queries + (r * all + unit) * width;
        if (unit < m->heads + m->kv_heads) turn(head, m->rotations + lengths[r] * width, width);
        if (unit < m->heads) continue;
        int64_t which = unit >= m->heads + m->kv_heads, kv = unit - m->heads - which * m->kv_heads;
        int64_t at = ((slots[r] * m->kv_heads + kv) * m->positions + lengths[r]) * width;
        weight *place = m->caches[2 * layer + which] + at;
        for (int64_t k = 0; k < width; k += LANES) put(place + k, take(head + k));
    }
}

/* What query head `head` of `count` rows from `row` on, all of one sequence, finds; scores: room for ROWS of them. */
static void attend(const model *m, int64_t layer, int64_t row, int64_t count, int64_t head, int64_t slot,
                   const int64_t *lengths, const float *queries, float *scores, weight *found) {
    const int64_t width = m->head_dim, all = m->heads + 2 * m->kv_heads;
    const int64_t start = (slot * m->kv_heads + head * m->kv_heads / m->heads) * m->positions * width;
    const weight *keys = m->caches[2 * layer] + start, *values = m->caches[2 * layer + 1] + start;
    seeker seekers[ROWS];
    for (int64_t r = 0; r < count; r++)
        seekers[r] = (seeker){queries + ((row + r) * all + head) * width, lengths[row + r] + 1,
                              scores + r * (m->positions + LANES), found + ((row + r) * m->heads + head) * width};
    if (count == ROWS) {
        seek(seekers, ROWS, keys, values, width);
        return;
    }
    for (int64_t r = 0; r < count; r++) seek(seekers + r, 1, keys, values, width);
}

/* Outputs of thread `part` of `parts`: a run of whole vectors. */
INLINE void share(int64_t outs, int part, int parts, int64_t *start, int64_t *stop) {
    int64_t blocks = (outs + LANES - 1) / LANES;
    *start = blocks * part / parts * LANES;
    *stop = blocks * (part + 1) / parts * LANES;
    if (*stop > outs) *stop = outs;
}

/* x [rows, hidden] += given [rows, n] times w [hidden, n], for this thread's outputs; sums: room for them. */
static void add_product(const weight *w, int64_t hidden, int64_t n, input given, int64_t rows, float *x, float *sums,
                        int part, int parts) {
    int64_t start, stop;
    share(hidden, part, parts, &start, &stop);
    multiplied(w + start * n, stop - start, n, given, rows, sums + start, hidden);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = start; o < stop; o++) x[r * hidden + o] += sums[r * hidden + o];
}

/* silu(gate) * up -> wide [rows, m->wide], for this thread's outputs; gates, ups: room for as many. */
static void gated(const model *m, int64_t layer, input x, int64_t rows, float *gates, float *ups, weight *wide,
                  int part, int parts) {
    int64_t start, stop;
    share(m->wide, part, parts, &start, &stop);
    const weight *gate_rows = m->products[5 * layer + 2] + start * m->hidden;
    const weight *up_rows = m->products[5 * layer + 3] + start * m->hidden;
    multiplied(gate_rows, stop - start, m->hidden, x, rows, gates + start, m->wide);
    multiplied(up_rows, stop - start, m->hidden, x, rows, ups + start, m->wide);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = r * m->wide + start; o < r * m->wide + stop; o += LANES) {
            reals gate = take(gates + o);
            put(wide + o, gate / (1.0f + exponential(-gate)) * take(ups + o));
        }
}

/* Floats that `decode` needs as room. */
int64_t decode_room(const model *m, int64_t rows, int64_t threads) {
    int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim, found = m->heads * m->head_dim;
    int64_t most = m->wide > found ? m->wide : found, tiled = (rows + LANES - 1) / LANES * LANES;
    most = m->hidden > most ? m->hidden : most;
    return rows * (2 * m->hidden + qkv + found + 3 * m->wide) +
           threads * (rows * m->hidden + tiled * most + ROWS * (m->positions + LANES));
}

/* The threads that share a pass. They are our own because OpenMP's don't fit: once two threads of a process have used
   it, its threads sleep at every meeting, and a pass has dozens; and while nobody else has, they keep a core busy
   between passes, when others need it. One pass at a time; who comes meanwhile waits. */
typedef void (*work)(const void *given, int part, int parts);
/* PATIENCE, IDLE: looks before a thread makes room at a meeting, and before it sleeps without work. */
enum { PATIENCE = 1 << 14, IDLE = 1 << 10, MOST = 256 };
#define NOBODY {.turn = PTHREAD_MUTEX_INITIALIZER, .gate = PTHREAD_MUTEX_INITIALIZER, .bell = PTHREAD_COND_INITIALIZER}
static struct team {
    pthread_mutex_t turn, gate;
    pthread_cond_t bell;
    int hired, parts;
    long long since[MOST]; /* the calls before a helper came */
    work task;
    const void *given;
    atomic_int asleep, busy, met;
    atomic_llong calls, meetings;
} team = NOBODY;

INLINE void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Until everyone who shares the pass is here. */
static void meet(int parts) {
    if (parts == 1) return;
    const long long now = atomic_load(&team.meetings);
    if (atomic_fetch_add(&team.met, 1) + 1 == parts) {
        atomic_store(&team.met, 0);
        atomic_fetch_add(&team.meetings, 1);
        return;
    }
    for (int looks = 0; atomic_load(&team.meetings) == now; looks++)
        if (looks < PATIENCE) pause_briefly();
        else sched_yield();
}

/* What thread `part` does: its part of each pass. Every one looks at every pass, so that none is ever behind. */
static void *helper(void *number) {
    const int part = (int)(intptr_t)number;
    for (long long seen = team.since[part];; seen++) {
        for (int looks = 0; atomic_load(&team.calls) == seen && looks < IDLE; looks++) pause_briefly();
        if (atomic_load(&team.calls) == seen) {
            pthread_mutex_lock(&team.gate);
            atomic_fetch_add(&team.asleep, 1);
            while (atomic_load(&team.calls) == seen) pthread_cond_wait(&team.bell, &team.gate);
            atomic_fetch_sub(&team.asleep, 1);
            pthread_mutex_unlock(&team.gate);
        }
        if (part < team.parts) team.task(team.given, part, team.parts);
        atomic_fetch_sub(&team.busy, 1);
    }
    return 0;
}

/* Have helpers for `parts` parts; how many parts there are hands for. */
static int hire(int parts) {
    if (team.hired + 1 >= parts) return parts;
    sigset_t all, before;
    sigfillset(&all); /* signals are for the threads of Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; team.hired + 1 < parts && team.hired + 1 < MOST; team.hired++) {
        team.since[team.hired + 1] = atomic_load(&team.calls);
        if (pthread_create(&thread, 0, helper, (void *)(intptr_t)(team.hired + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return team.hired + 1;
}

/* Do `task` in `parts` parts, one of them here. */
static void together(work task, const void *given, int parts) {
    if (parts < 2) {
        task(given, 0, 1);
        return;
    }
    pthread_mutex_lock(&team.turn);
    parts = hire(parts);
    team.task = task, team.given = given, team.parts = parts;
    atomic_store(&team.busy, team.hired);
    atomic_fetch_add(&team.calls, 1);
    if (atomic_load(&team.asleep)) {
        pthread_mutex_lock(&team.gate);
        pthread_cond_broadcast(&team.bell);
        pthread_mutex_unlock(&team.gate);
    }
    task(given, 0, parts);
    for (int looks = 0; atomic_load(&team.busy); looks++)
        if (looks < PATIENCE) pause_briefly();
        else sched_yield();
    pthread_mutex_unlock(&team.turn);
}

/* Threads are not inherited by a child of fork. */
static void alone(void) { team = (struct team)NOBODY; }

/* To be called before all else, by every model that is opened. */
void prepare(void) {
    static int prepared = 0;
    if (prepared) return;
    prepared = 1;
    ask_for_tiles();
    pthread_atfork(0, 0, alone);
}

/* A pass; the first two blocks are as `decode` takes them. */
typedef struct {
    const model *m;
    int64_t rows;
    const int64_t *ids, *slots, *lengths;
    weight *states;
    float *x, *sums, *queries, *gates, *ups, *own;
    weight *found, *wide;
    int64_t own_room;
} pass;

static void forward(const void *given_pass, int part, int parts) {
    const pass p = *(const pass *)given_pass;
    const model *m = p.m;
    const int64_t n = m->hidden, width = m->heads * m->head_dim, units = m->heads + 2 * m->kv_heads, rows = p.rows;
    const int64_t block = p.slots[0] == p.slots[rows - 1] ? ROWS : 1; /* one sequence's rows read its keys together */
    float *scores = p.own + part * p.own_room;
    weight *y = (weight *)(scores + ROWS * (m->positions + LANES));
    float *tiles = (float *)(y + rows * n);
    open_tiles();
    for (int64_t r = part; r < rows; r += parts)
        for (int64_t k = 0; k < n; k += LANES)
            *(reals *)(p.x + r * n + k) = take_weight(m->embedding + p.ids[r] * n + k);
    meet(parts);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const weight *const *w = m->products + 5 * layer;
        normed(p.x, m->norms[2 * layer], rows, n, m->eps, y);
        input given = arranged(y, rows, n, tiles);
        for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; unit++)
            project(m, layer, unit, rows, p.slots, p.lengths, given, p.queries);
        meet(parts);
        for (int64_t pair = part; pair < (rows + block - 1) / block * m->heads; pair += parts) {
            const int64_t row = pair / m->heads * block, count = rows - row < block ? rows - row : block;
            attend(m, layer, row, count, pair % m->heads, p.slots[row], p.lengths, p.queries, scores, p.found);
        }
        meet(parts);
        add_product(w[1], n, width, arranged(p.found, rows, width, tiles), rows, p.x, p.sums, part, parts);
        meet(parts);
        normed(p.x, m->norms[2 * layer + 1], rows, n, m->eps, y);
        gated(m, layer, arranged(y, rows, n, tiles), rows, p.gates, p.ups, p.wide, part, parts);
        meet(parts);
        add_product(w[4], n, m->wide, arranged(p.wide, rows, m->wide, tiles), rows, p.x, p.sums, part, parts);
        meet(parts);
    }
    close_tiles();
    if (part == 0) normed(p.x, m->norm, rows, n, m->eps, p.states);
}

/* Row r is the id at place lengths[r] of the sequence in slots[r] -> states [rows, hidden], normed. Rows may be one
   sequence's, in their order: all keys and values are in their caches before any is read. */
void decode(const model *m, int64_t rows, const int64_t *ids, const int64_t *slots, const int64_t *lengths,
            weight *states, float *room, int64_t threads) {
    const int64_t n = m->hidden, qkv = (m->heads + 2 * m->kv_heads) * m->head_dim, width = m->heads * m->head_dim;
    pass p = {m, rows, ids, slots, lengths, states, .x = room};
    p.sums = p.x + rows * n, p.queries = p.sums + rows * n, p.gates = p.queries + rows * qkv;
    p.ups = p.gates + rows * m->wide, p.own = p.ups + rows * m->wide;
    p.own_room = (decode_room(m, rows, threads) - (p.own - room) - rows * (width + m->wide)) / threads;
    p.found = (weight *)(p.own + threads * p.own_room), p.wide = p.found + rows * width;
    together(forward, &p, (int)threads);
}

/* Logits to compute, as `outputs` takes them. */
typedef struct {
    const weight *head;
    int64_t n, rows, count, width;
    const factor *x;
    const int64_t *runs;
    float *logits;
} asked;

static void produce(const void *given, int part, int parts) {
    const asked a = *(const asked *)given;
    int64_t at = 0, start, stop;
    for (int64_t i = 0; i < a.count; at += a.runs[2 * i + 1], i++) {
        share(a.runs[2 * i + 1], part, parts, &start, &stop);
        const weight *rows = a.head + (a.runs[2 * i] + start) * a.n;
        product(rows, stop - start, a.n, a.x, a.rows, a.logits + at + start, a.width);
    }
}

/* x [rows, n] -> logits [rows, width] of `count` runs of output rows, runs[i]: the first and how many; room: as many
   floats as x has. */
void outputs(const weight *head, int64_t n, const weight *x, int64_t rows, const int64_t *runs, int64_t count,
             float *logits, int64_t width, float *room, int64_t threads) {
    const asked a = {head, n, rows, count, width, factors(x, rows * n, room), runs, logits};
    together(produce, &a, (int)threads);
}
