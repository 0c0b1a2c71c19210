// Gradients of a mixture of experts: as in the forward pass, each expert sees its rows together.
#include <algorithm>

#include "dense.h"
#include "elementary.h"
#include "moe.h"
#include "ops.h"

namespace mohist {
namespace {

// One list of products for every expert that has rows.
struct Products {
  mohist_product* list;
  int64_t count = 0;
  explicit Products(mohist_pool& pool, int64_t most) : list(pool.shared(6).get<mohist_product>(most)) {}
  void add(const mohist_product& p) { list[count++] = p; }
  void run(mohist_pool& pool) { multiply(pool, list, count), count = 0; }
};

float dot(const float* x, const float* y, int64_t n) {
  vp sum = fill16(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = fma(load16(x + i), load16(y + i), sum);
  if (i < n) sum = add(sum, mul(load16(x + i, n - i), load16(y + i, n - i)));
  return fold16(sum);
}

// Of gates and ups those of their pairs, of downs the weighted dy: sums over an expert's rows, in order.
void bias_gradients(mohist_pool& pool, const mohist_moe_backward_args& a, const Groups& groups, const int32_t* pair,
                    const float* dgate_up) {
  pool.parallel(a.experts, [&](int64_t e, int) {
    float *dgate = a.dgate_bias + e * a.width, *dup = a.dup_bias + e * a.width, *ddown = a.ddown_bias + e * a.dim;
    std::fill_n(dgate, a.width, 0.0f);
    std::fill_n(dup, a.width, 0.0f);
    std::fill_n(ddown, a.dim, 0.0f);
    for (int64_t i = groups.begin[e]; i < groups.begin[e + 1]; i++) {
      const float *own = dgate_up + i * 2 * a.width, *dy = a.dy + groups.source[i] * a.dy_stride;
      const float weight = a.weights[pair[i]];
      for (int64_t k = 0; k < a.width; k++) dgate[k] += own[k], dup[k] += own[a.width + k];
      for (int64_t d = 0; d < a.dim; d++) ddown[d] = __builtin_fmaf(weight, dy[d], ddown[d]);
    }
  });
}

}  // namespace

void moe_backward(mohist_pool& pool, const mohist_moe_backward_args& a) {
  const int64_t dim = a.dim, width = a.width, pairs = a.rows * a.top_k;
  const Groups groups = group_by_expert(pool, a.chosen, a.rows, a.top_k, a.experts);
  const int64_t* begin = groups.begin;
  const int32_t *place = groups.place, *source = groups.source;
  float* hidden = pool.shared(3).get<float>(pairs * 4 * width);  // weighted, in the end
  float* dhidden = hidden + pairs * width;                       // of weight 1, at first
  float* dgate_up = dhidden + pairs * width;
  float* dpairs = pool.shared(5).get<float>(pairs * dim);        // of x, for each pair
  int32_t* pair = pool.shared(1).get<int32_t>(pairs);            // the pair behind a place
  for (int64_t i = 0; i < pairs; i++) pair[place[i]] = static_cast<int32_t>(i);
  Products products(pool, 3 * a.experts);
  const auto each = [&](const auto& f) {
    for (int64_t e = 0; e < a.experts; e++) f(e, begin[e], begin[e + 1] - begin[e]);
  };

  each([&](int64_t e, int64_t at, int64_t rows) {  // dy W_down
    products.add({a.dy, a.down[e], dhidden + at * width, source + at, nullptr, rows, width, dim, a.dy_stride, width, width, 0, 0});
  });
  products.run(pool);
  glu(pool, {a.gate_up, hidden, pairs, width, 2 * width, width, a.activation});
  parallel_rows(pool, pairs, 4 * width, [&](int64_t i) {
    float *h = hidden + i * width, *dh = dhidden + i * width;
    a.dweights[pair[i]] = dot(h, dh, width);
    if (a.down_bias) {
      const float* bias = a.down_bias + a.chosen[pair[i]] * dim;
      a.dweights[pair[i]] += dot(a.dy + source[i] * a.dy_stride, bias, dim);
    }
    const float weight = a.weights[pair[i]];
    for (int64_t k = 0; k < width; k++) h[k] *= weight, dh[k] *= weight;
  });
  glu_backward(pool, {a.gate_up, dhidden, dgate_up, pairs, width, 2 * width, width, a.activation});
  if (a.down_bias) bias_gradients(pool, a, groups, pair, dgate_up);

  each([&](int64_t e, int64_t at, int64_t rows) {
    const int32_t* index = source + at;
    const float *dgate = dgate_up + at * 2 * width, *dup = dgate + width;
    if (a.dgate) products.add({dgate, a.x, a.dgate[e], nullptr, index, width, dim, rows, 2 * width, a.x_stride, dim, 1, 0});
    if (a.dup) products.add({dup, a.x, a.dup[e], nullptr, index, width, dim, rows, 2 * width, a.x_stride, dim, 1, 0});
    if (a.ddown) products.add({a.dy, hidden + at * width, a.ddown[e], index, nullptr, dim, width, rows, a.dy_stride, width, width, 1, 0});
  });
  products.run(pool);
  each([&](int64_t e, int64_t at, int64_t rows) {  // dgate W_gate + dup W_up
    const float *dgate = dgate_up + at * 2 * width, *dup = dgate + width;
    float* out = dpairs + at * dim;
    products.add({dgate, a.gate[e], out, nullptr, nullptr, rows, dim, width, 2 * width, dim, dim, 0, 0});
    products.add({dup, a.up[e], out, nullptr, nullptr, rows, dim, width, 2 * width, dim, dim, 0, 1});
  });
  products.run(pool);
  parallel_rows(pool, a.rows, dim * a.top_k, [&](int64_t t) {
    float* dx = a.dx + t * dim;
    std::fill_n(dx, dim, 0.0f);
    for (int64_t i = 0; i < a.top_k; i++) {
      const float* own = dpairs + place[t * a.top_k + i] * dim;
      for (int64_t d = 0; d < dim; d++) dx[d] += own[d];
    }
  });
}

}  // namespace mohist
