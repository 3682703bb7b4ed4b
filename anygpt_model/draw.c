/* Draws: from the logits of the ids that may come next to one of them, what sampling.py's `decide` does, in one call for
   many rows.

   Each row is computed as if it were alone, so its bits never depend on the others. Equal to `decide` but for the
   rounding of exponentials and sums (in the last places of a float64). Knows no model, no grammar and no Python. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8 };
typedef double reals __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int64_t wholes __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef float floats __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))

/* Where `mask` is all ones `yes`, else `no`. */
INLINE reals choose(wholes mask, reals yes, reals no) {
    return (reals)(((wholes)yes & mask) | ((wholes)no & ~mask));
}

/* The margin of a choice that had no alternative. */
static const double FORCED = 1e9;

/* e^x for x <= 0, to about two units in the last place; 0 below -708. */
INLINE reals exponential(reals x) {
    static const double inverse_factorials[] = {
        1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
    const reals zero = {0};
    wholes tiny = x < -708.0;
    x = choose(tiny, zero - 708.0, x);
    reals turns = x * 1.4426950408889634 + 0x1.8p52;
    wholes power = (wholes)turns - (wholes)(zero + 0x1.8p52);
    turns -= 0x1.8p52;
    x = x - turns * 0x1.62e42fefap-1 - turns * 0x1.cf79abc9e3b4p-40; /* ln 2 in two parts: the first product is exact */
    reals y = zero + inverse_factorials[0];
    for (int i = 1; i < 14; i++) y = y * x + inverse_factorials[i];
    return choose(tiny, zero, (reals)((wholes)y + (power << 52)));
}

INLINE reals taken(const float *x) {
    floats some;
    memcpy(&some, x, sizeof some);
    return __builtin_convertvector(some, reals);
}

/* The last n < LANES logits, and nothing beside them. */
INLINE reals taken_rest(const float *x, int64_t n) {
    floats some = (floats){0} - HUGE_VALF;
    for (int64_t k = 0; k < n; k++) some[k] = x[k];
    return __builtin_convertvector(some, reals);
}

/* log(sum e^x) of n logits; NaN where some are no numbers. */
static double log_sum(const float *x, int64_t n) {
    enum { MANY = 4 };
    const int64_t whole = n / LANES * LANES;
    const reals rest = taken_rest(x + whole, n - whole);
    reals tops = rest, sums[MANY] = {{0}};
    for (int64_t i = 0; i < whole; i += LANES) {
        reals some = taken(x + i);
        tops = choose(some > tops, some, tops);
    }
    double top = tops[0], sum = 0;
    for (int k = 1; k < LANES; k++) top = tops[k] > top ? tops[k] : top;
    int64_t i = 0;
    for (; i + MANY * LANES <= whole; i += MANY * LANES)
#pragma GCC unroll 4
        for (int k = 0; k < MANY; k++) sums[k] += exponential(taken(x + i + k * LANES) - top);
    for (; i < whole; i += LANES) sums[0] += exponential(taken(x + i) - top);
    sums[0] += exponential(rest - top);
    for (int k = 1; k < MANY; k++) sums[0] += sums[k];
    for (int k = 0; k < LANES; k++) sum += sums[0][k];
    return top + log(sum);
}

/* Let the value at `at` of a heap sink to its place; sign 1: the least value is first, -1: the largest. */
INLINE void sink(double *heap, int64_t n, int64_t at, double sign) {
    const double value = heap[at];
    for (int64_t below; (below = 2 * at + 1) < n; at = below) {
        if (below + 1 < n && sign * heap[below + 1] < sign * heap[below]) below++;
        if (sign * heap[below] >= sign * value) break;
        heap[at] = heap[below];
    }
    heap[at] = value;
}

INLINE void pile(double *heap, int64_t n, double sign) {
    for (int64_t at = n / 2; at-- > 0;) sink(heap, n, at, sign);
}

/* The k-th largest of n scores; heap: room for k. */
static double largest(const double *scores, int64_t n, int64_t k, double *heap) {
    memcpy(heap, scores, k * sizeof(double));
    pile(heap, k, 1);
    for (int64_t i = k; i < n; i++)
        if (scores[i] > heap[0]) {
            heap[0] = scores[i];
            sink(heap, k, 0, 1);
        }
    return heap[0];
}

/* The least of the scores from `border` on that together have a share `top_p` of their mass; heap: room for n. */
static double nucleus(const double *scores, int64_t n, double border, double top_p, double *heap) {
    int64_t kept = 0;
    double top = -HUGE_VAL, mass = 0, before = 0;
    for (int64_t i = 0; i < n; i++)
        if (scores[i] >= border) {
            heap[kept++] = scores[i];
            top = scores[i] > top ? scores[i] : top;
        }
    for (int64_t i = 0; i < kept; i++) mass += exp(heap[i] - top);
    pile(heap, kept, -1);
    for (border = top; kept > 0;) {
        before += exp(heap[0] - top);
        heap[0] = heap[--kept];
        sink(heap, kept, 0, -1);
        if (kept == 0 || !(before < top_p * mass)) break;
        border = heap[0];
    }
    return border;
}

/* splitmix64's finaliser. */
INLINE uint64_t mixed(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
    return value ^ (value >> 31);
}

/* Standard Gumbel noise of an id. */
INLINE double noise(uint64_t key, int64_t id) {
    uint64_t bits = mixed((uint64_t)id * 0x9E3779B97F4A7C15 + key) >> 12;
    return -log(-log(((double)bits + 0.5) * 0x1p-52));
}

/* How ids are drawn; compiled_draws.py has the same list. */
typedef struct {
    double temperature, top_p, penalty;
    int64_t top_k;
} settings;

/* The place among n logits of the drawn one, -1 where they hold no numbers; its log-probability and its margin. */
static int64_t draw_one(int64_t n, const float *logits, const int64_t *ids, const uint8_t *held, const settings *how,
                        uint64_t seed, uint64_t step, double *logprob, double *margin, double *scores) {
    const double all = log_sum(logits, n), warmth = how->temperature ? how->temperature : 1.0;
    if (!isfinite(all)) return -1;
    for (int64_t i = 0; i < n; i++) scores[i] = logits[i];
    for (int64_t i = 0; held && i < n; i++)
        if (held[i]) scores[i] = scores[i] < 0 ? scores[i] * how->penalty : scores[i] / how->penalty;
    for (int64_t i = 0; i < n; i++) scores[i] /= warmth;
    double border = -HUGE_VAL, best = -HUGE_VAL, next = -HUGE_VAL;
    if (how->temperature && how->top_k > 0 && how->top_k < n) border = largest(scores, n, how->top_k, scores + n);
    if (how->temperature && how->top_p < 1.0) border = nucleus(scores, n, border, how->top_p, scores + n);
    const uint64_t key = mixed(mixed(seed + 0x9E3779B97F4A7C15) + step * 0xD1B54A32D192ED03);
    int64_t winner = -1;
    for (int64_t i = 0; i < n; i++) {
        if (!(scores[i] >= border)) continue;
        const double score = how->temperature ? scores[i] + noise(key, ids[i]) : scores[i];
        if (score > best || winner < 0) next = best, best = score, winner = i;
        else if (score > next) next = score;
    }
    *logprob = logits[winner] - all;
    *margin = n == 1 || best - next > FORCED ? FORCED : best - next;
    return winner;
}

/* Of each row of logits [rows, n] of `ids` [n]: what draw_one says. held [rows, n]: to which the penalty applies, or
   null; seeds, steps: [rows]; room: 2 n numbers. */
void draw(int64_t rows, int64_t n, const float *logits, const int64_t *ids, const uint8_t *held, const settings *how,
          const uint64_t *seeds, const uint64_t *steps, int64_t *chosen, double *logprobs, double *margins,
          double *room) {
    for (int64_t r = 0; r < rows; r++)
        chosen[r] = draw_one(n, logits + r * n, ids, held ? held + r * n : 0, how, seeds[r], steps[r], logprobs + r,
                             margins + r, room);
}
