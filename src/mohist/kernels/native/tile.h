// Register tiles: R rows of activations against P panels of 16 weights, accumulators in registers throughout.
#pragma once
#include <utility>

#include "simd.h"

namespace mohist {

#define MOHIST_INLINE inline __attribute__((always_inline))
#define MOHIST_INLINE_LAMBDA __attribute__((always_inline))

// f(0), ..., f(N - 1) with constants for arguments. Arrays that are only indexed by constants live in registers;
// compilers do not reliably get there from loops.
template <int N> using number = std::integral_constant<int, N>;
template <class F, int... I> static MOHIST_INLINE void repeat(std::integer_sequence<int, I...>, const F& f) {
  (f(number<I>{}), ...);
}
template <int N, class F> static MOHIST_INLINE void repeat(const F& f) { repeat(std::make_integer_sequence<int, N>{}, f); }

static MOHIST_INLINE vp load_weights(const float* p) { return load16(p); }
static MOHIST_INLINE vp load_weights(const uint16_t* p) { return load16_bf16(p); }

// Asks for a cache line. Into the second level: the first can wait for about twenty lines at a time, which is less than
// memory could deliver.
static MOHIST_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

struct Nothing {
  MOHIST_INLINE void operator()(int64_t) const {}
};

// The accumulators of a tile: a[r][p] belongs to row r and the 16 columns of panel p.
template <int R, int P> struct Accumulators {
  vp a[R][P];

  MOHIST_INLINE void clear() {
    each([](auto, auto, vp& v) { v = fill16(0.0f); });
  }
  // f(row, panel, accumulator)
  template <class F> MOHIST_INLINE void each(const F& f) {
    repeat<R>([&](auto r) { repeat<P>([&](auto p) { f(r, p, a[r][p]); }); });
  }

  // a[r][p] += sum over k ascending of x[r][k] * panel[p][k * stride ..]; x[r] is a row. before(k) is called ahead of
  // every step: it asks for memory that the next tile will read.
  template <class W, class F = Nothing>
  MOHIST_INLINE void add_products(const float* const (&x)[R], const W* const (&panel)[P], int64_t k, int64_t stride = 16,
                                  const F& before = F{}) {
#pragma GCC unroll 2
    for (int64_t i = 0; i < k; i++) {
      before(i);
      vp w[P];
      repeat<P>([&](auto p) { w[p] = load_weights(panel[p] + stride * i); });
      repeat<R>([&](auto r) {
        const vp v = fill16(x[r][i]);
        repeat<P>([&](auto p) { a[r][p] = fma(v, w[p], a[r][p]); });
      });
    }
  }
};

// Rows against panels: what fits into the registers and keeps the multiply-add units busy, which take a chain's next
// step four cycles after the last.
#ifdef MOHIST_AVX512
constexpr int64_t kTileRows = 12;
template <int R> constexpr int tile_panels() { return R == 1 ? 8 : R <= 3 ? 4 : 2; }
#else
constexpr int64_t kTileRows = 6;
template <int R> constexpr int tile_panels() { return R == 1 ? 4 : R <= 3 ? 2 : 1; }
#endif

// Calls f.template run<R>() for the runtime value rows in 1..Most.
template <int Most = kTileRows, class F> static inline void with_rows(int64_t rows, const F& f) {
  if (rows < Most) {
    if constexpr (Most > 1) with_rows<Most - 1>(rows, f);
  } else {
    f.template run<Most>();
  }
}

// How `rows` are cut into tiles of at most `most`, as evenly as can be.
struct Tiles {
  int64_t rows, count;
  explicit Tiles(int64_t n, int64_t most = kTileRows) : rows(n), count((n + most - 1) / most) {}
  int64_t begin(int64_t i) const { return rows * i / count; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

}  // namespace mohist
