// Products of plain matrices, for gradients. The forward pass multiplies by packed weights: see linear.h.
#pragma once
#include "mohist.h"
#include "pool.h"
#include "tile.h"

namespace mohist {

// As Accumulators::add_products, with the R numbers of a step side by side: a[r][p] += sum over i ascending of
// x[i * x_step + r] * panel[p][i * stride ..].
template <int R, int P>
static MOHIST_INLINE void add_outer_products(Accumulators<R, P>& acc, const float* x, int64_t x_step,
                                             const float* const (&panel)[P], int64_t k, int64_t stride = 16) {
#pragma GCC unroll 2
  for (int64_t i = 0; i < k; i++) {
    vp w[P];
    repeat<P>([&](auto p) { w[p] = load_weights(panel[p] + stride * i); });
    repeat<R>([&](auto r) {
      const vp v = fill16(x[x_step * i + r]);
      repeat<P>([&](auto p) { acc.a[r][p] = fma(v, w[p], acc.a[r][p]); });
    });
  }
}

// Computes all of them as one parallel loop; none may read what another writes. One that adds to the c of the one before it
// goes on with that. Every element of c is one chain, so neither tiles nor threads change it.
void multiply(mohist_pool& pool, const mohist_product* products, int64_t count);

}  // namespace mohist
