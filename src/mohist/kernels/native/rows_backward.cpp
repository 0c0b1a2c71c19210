// Gradients of the operations on rows, and of what chooses rows: norm, activation, embedding, router.
// Sums over rows go over chunks whose size follows from the shape alone, in order: threads change nothing.
#include <algorithm>
#include <cmath>

#include "activation.h"
#include "elementary.h"
#include "ops.h"

namespace mohist {
namespace {

// Sixteen lanes of a sum, over the numbers f(i) of sixteen at a time and g(i) of the rest.
template <class F, class G> float sum16(int64_t n, const F& f, const G& g) {
  vp sum = fill16(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = add(sum, f(i));
  float rest[16] = {};
  for (int64_t j = 0; i + j < n; j++) rest[j] = g(i + j);
  return fold16(add(sum, load16(rest)));
}

// dx = r (du - u mean(du u)) with u = r x and du = dy weight; dweight += dy u.
void rms_norm_row(const float* x, const float* weight, const float* dy, float* dx, float* dweight, int64_t dim, float eps,
                  float shift) {
  const float n = static_cast<float>(dim);
  const float squares = sum16(
      dim, [&](int64_t i) { return mul(load16(x + i), load16(x + i)); }, [&](int64_t i) { return x[i] * x[i]; });
  const float r = 1.0f / std::sqrt(squares / n + eps);
  const float dot = sum16(
      dim, [&](int64_t i) { return mul(mul(load16(dy + i), add(load16(weight + i), fill16(shift))), load16(x + i)); },
      [&](int64_t i) { return dy[i] * (weight[i] + shift) * x[i]; });
  const float mean = dot * r / n;
  int64_t i = 0;
  for (; i + 8 <= dim; i += 8) {
    const vf u = mul(load(x + i), set1(r)), g = load(dy + i);
    store(dx + i, mul(set1(r), sub(mul(g, add(load(weight + i), set1(shift))), mul(u, set1(mean)))));
    store(dweight + i, fma(g, u, load(dweight + i)));
  }
  for (; i < dim; i++) {
    const float u = x[i] * r;
    dx[i] = r * (dy[i] * (weight[i] + shift) - u * mean);
    dweight[i] = __builtin_fmaf(dy[i], u, dweight[i]);
  }
}

}  // namespace

void rms_norm_backward(mohist_pool& pool, const mohist_rms_norm_backward_args& a) {
  const int64_t chunk = std::max<int64_t>(1, 16384 / (a.inner * a.dim)), chunks = (a.rows + chunk - 1) / chunk;
  float* partial = pool.shared(0).get<float>(chunks * a.dim);
  pool.parallel(chunks, [&](int64_t task, int) {
    float* dweight = partial + task * a.dim;
    std::fill_n(dweight, a.dim, 0.0f);
    for (int64_t i = task * chunk; i < std::min(a.rows, (task + 1) * chunk); i++)
      for (int64_t j = 0; j < a.inner; j++)
        rms_norm_row(a.x + i * a.x_stride + j * a.x_inner_stride, a.weight, a.dy + i * a.dy_stride + j * a.dy_inner_stride,
                     a.dx + (i * a.inner + j) * a.dim, dweight, a.dim, a.eps, a.shift);
  });
  std::fill_n(a.dweight, a.dim, 0.0f);
  for (int64_t c = 0; c < chunks; c++)
    for (int64_t d = 0; d < a.dim; d++) a.dweight[d] += partial[c * a.dim + d];
}

void glu_backward(mohist_pool& pool, const mohist_glu_backward_args& a) {
  with_activation(a.activation, [&](const auto& activation) {
    parallel_rows(pool, a.rows, 4 * a.dim, [&](int64_t t) {
      const float *gate = a.x + t * a.x_stride, *up = gate + a.dim, *dy = a.dy + t * a.dy_stride;
      float *dgate = a.dx + t * 2 * a.dim, *dup = dgate + a.dim;
      int64_t k = 0;
      for (; k + 8 <= a.dim; k += 8) {
        vf dg, du;
        activation.backward(load(gate + k), load(up + k), load(dy + k), &dg, &du);
        store(dgate + k, dg);
        store(dup + k, du);
      }
      for (; k < a.dim; k++) activation.backward(gate[k], up[k], dy[k], dgate + k, dup + k);
    });
  });
}

void silu_backward(mohist_pool& pool, const mohist_silu_backward_args& a) {
  parallel_rows(pool, a.rows, 4 * a.dim, [&](int64_t t) {
    const float *x = a.x + t * a.x_stride, *dy = a.dy + t * a.dy_stride;
    float* dx = a.dx + t * a.dim;
    const vf one = set1(1.0f);
    vf unused;
    float unused_scalar;
    int64_t k = 0;
    for (; k + 8 <= a.dim; k += 8) {
      vf d;
      Silu{}.backward(load(x + k), one, load(dy + k), &d, &unused);
      store(dx + k, d);
    }
    for (; k < a.dim; k++) Silu{}.backward(x[k], 1.0f, dy[k], dx + k, &unused_scalar);
  });
}

void embed_backward(mohist_pool& pool, const mohist_embed_backward_args& a) {
  constexpr int64_t kColumns = 64;  // a task's share: rows may repeat, columns do not
  pool.parallel((a.dim + kColumns - 1) / kColumns, [&](int64_t task, int) {
    const int64_t begin = task * kColumns, end = std::min(a.dim, begin + kColumns);
    for (int64_t t = 0; t < a.rows; t++) {
      const float* dy = a.dy + t * a.dy_stride;
      float* sum = a.dweight + a.tokens[t] * a.dim;
      for (int64_t d = begin; d < end; d++) sum[d] += dy[d];
    }
  });
}

void route_backward(mohist_pool& pool, const mohist_route_backward_args& a) {
  parallel_rows(pool, a.rows, 16 * a.experts, [&](int64_t t) {
    const float *logits = a.logits + t * a.logits_stride, *dweights = a.dweights + t * a.top_k;
    const int32_t* chosen = a.chosen + t * a.top_k;
    float* out = a.dlogits + t * a.experts;  // first the scores
    const float largest = *std::max_element(logits, logits + a.experts);
    float total = 0.0f;
    for (int64_t e = 0; e < a.experts; e++) {
      out[e] = a.sigmoid ? 1.0f / (1.0f + exp_scalar(-logits[e])) : exp_scalar(logits[e] - largest);
      total += out[e];
    }
    if (!a.sigmoid)
      for (int64_t e = 0; e < a.experts; e++) out[e] /= total;
    float sum = 0.0f, weighted = 0.0f;  // of the chosen scores, and with their gradients
    for (int64_t i = 0; i < a.top_k; i++) sum += out[chosen[i]], weighted += dweights[i] * out[chosen[i]];
    sum += 1e-20f;
    const float factor = a.renormalize ? a.scale / sum : a.scale, shift = a.renormalize ? weighted / sum : 0.0f;
    const auto dscore = [&](int64_t i) { return factor * (dweights[i] - shift); };  // 0 for those not chosen
    float mean = 0.0f;
    for (int64_t i = 0; i < a.top_k; i++) mean += dscore(i) * out[chosen[i]];
    for (int64_t e = 0; e < a.experts; e++) {
      const int64_t i = std::find(chosen, chosen + a.top_k, e) - chosen;
      const float own = i < a.top_k ? dscore(i) : 0.0f;
      out[e] *= a.sigmoid ? own * (1.0f - out[e]) : own - mean;
    }
  });
}

}  // namespace mohist
