// Operations on rows one by one: norm, rope, activation.
#include <algorithm>
#include <cmath>

#include "activation.h"
#include "elementary.h"
#include "ops.h"

namespace mohist {
namespace {

void rms_norm_row(const float* x, const float* weight, const float* residual, float* y, int64_t dim, float eps,
                  float shift) {
  vp sum = fill16(0.0f);
  int64_t k = 0;
  for (; k < dim; k += 16) {
    const vp u = load16(x + k, dim - k);
    sum = fma(u, u, sum);
  }
  const float scale = 1.0f / std::sqrt(fold16(sum) / static_cast<float>(dim) + eps);
  for (k = 0; k + 8 <= dim; k += 8) {
    const vf normed = mul(mul(load(x + k), set1(scale)), add(load(weight + k), set1(shift)));
    store(y + k, residual ? add(load(residual + k), normed) : normed);
  }
  for (; k < dim; k++) {
    const float normed = x[k] * scale * (weight[k] + shift);
    y[k] = residual ? residual[k] + normed : normed;
  }
}

}  // namespace

void rms_norm(mohist_pool& pool, const mohist_rms_norm_args& a) {
  parallel_rows(pool, a.rows, a.inner * a.dim, [&](int64_t i) {
    for (int64_t j = 0; j < a.inner; j++)
      rms_norm_row(a.x + i * a.x_stride + j * a.x_inner_stride, a.weight,
                   a.residual ? a.residual + i * a.residual_stride : nullptr,
                   a.y + i * a.y_stride + j * a.y_inner_stride, a.dim, a.eps, a.shift);
  });
}

void layer_norm(mohist_pool& pool, const mohist_layer_norm_args& a) {
  parallel_rows(pool, a.rows, a.dim, [&](int64_t t) {
    const float* x = a.x + t * a.x_stride;
    float* y = a.y + t * a.y_stride;
    const float dim = static_cast<float>(a.dim);
    vp sum = fill16(0.0f);
    for (int64_t k = 0; k < a.dim; k += 16) sum = add(sum, load16(x + k, a.dim - k));
    const float mean = fold16(sum) / dim;
    float lanes[16] = {};
    for (int64_t k = 0; k < a.dim; k++) lanes[k % 16] = __builtin_fmaf(x[k] - mean, x[k] - mean, lanes[k % 16]);
    const float scale = 1.0f / std::sqrt(fold16(load16(lanes)) / dim + a.eps);
    for (int64_t k = 0; k < a.dim; k++) y[k] = (x[k] - mean) * scale * a.weight[k] + a.bias[k];
  });
}

void rope_angles(mohist_pool& pool, const mohist_rope_angles_args& a) {
  parallel_rows(pool, a.rows, a.pairs * 16, [&](int64_t t) {
    float* cosines = a.cos_sin + t * 2 * a.pairs;
    const float scale = a.scales[std::min(a.positions[t] / a.period, a.num_scales - 1)];
    for (int64_t r = 0; r < a.pairs; r++) {
      double cosine, sine;
      cos_sin(static_cast<double>(a.positions[t]) * static_cast<double>(a.inv_freq[r]), &cosine, &sine);
      cosines[r] = static_cast<float>(cosine) * scale;
      cosines[a.pairs + r] = static_cast<float>(sine) * scale;
    }
  });
}

void rope(mohist_pool& pool, const mohist_rope_args& a) {
  parallel_rows(pool, a.rows, a.heads * a.dim, [&](int64_t t) {
    const float* cosines = a.cos_sin + t * 2 * a.pairs;
    const float* sines = cosines + a.pairs;
    for (int64_t h = 0; h < a.heads; h++) {
      const float* x = a.x + t * a.x_stride + h * a.x_head_stride;
      float* y = a.y + t * a.y_stride + h * a.y_head_stride;
      std::copy(x, x + a.offset, y);
      std::copy(x + a.offset + 2 * a.pairs, x + a.dim, y + a.offset + 2 * a.pairs);
      x += a.offset, y += a.offset;
      int64_t r = 0;
      if (a.interleaved) {
        for (; r < a.pairs; r++) {
          const float u = x[2 * r], v = x[2 * r + 1];
          y[2 * r] = __builtin_fmaf(u, cosines[r], -(v * sines[r]));
          y[2 * r + 1] = __builtin_fmaf(v, cosines[r], u * sines[r]);
        }
        continue;
      }
      for (; r + 8 <= a.pairs; r += 8) {
        const vf u = load(x + r), v = load(x + a.pairs + r), c = load(cosines + r), s = load(sines + r);
        store(y + r, fms(u, c, mul(v, s)));
        store(y + a.pairs + r, fma(v, c, mul(u, s)));
      }
      for (; r < a.pairs; r++) {
        const float u = x[r], v = x[a.pairs + r];
        y[r] = __builtin_fmaf(u, cosines[r], -(v * sines[r]));
        y[a.pairs + r] = __builtin_fmaf(v, cosines[r], u * sines[r]);
      }
    }
  });
}

void glu(mohist_pool& pool, const mohist_glu_args& a) {
  with_activation(a.activation, [&](const auto& activation) {
    parallel_rows(pool, a.rows, 4 * a.dim, [&](int64_t t) {
      const float* gate = a.x + t * a.x_stride;
      const float* up = gate + a.dim;
      float* y = a.y + t * a.y_stride;
      int64_t k = 0;
      for (; k + 8 <= a.dim; k += 8) store(y + k, activation(load(gate + k), load(up + k)));
      for (; k < a.dim; k++) y[k] = activation(gate[k], up[k]);
    });
  });
}

void scale(mohist_pool& pool, const mohist_scale_args& a) {
  parallel_rows(pool, a.rows, a.dim, [&](int64_t t) {
    const float* x = a.x + t * a.x_stride;
    const float* residual = a.residual ? a.residual + t * a.residual_stride : nullptr;
    float* y = a.y + t * a.y_stride;
    for (int64_t k = 0; k < a.dim; k++) y[k] = residual ? residual[k] + x[k] * a.factor : x[k] * a.factor;
  });
}

void silu(mohist_pool& pool, const mohist_silu_args& a) {
  parallel_rows(pool, a.rows, 4 * a.dim, [&](int64_t t) {
    const float* x = a.x + t * a.x_stride;
    float* y = a.y + t * a.y_stride;
    int64_t k = 0;
    for (; k + 8 <= a.dim; k += 8) store(y + k, silu(load(x + k)));
    for (; k < a.dim; k++) y[k] = silu_scalar(x[k]);
  });
}

void concat(mohist_pool& pool, const mohist_concat_args& a) {
  parallel_rows(pool, a.rows, a.heads * (a.a_dim + a.b_dim), [&](int64_t t) {
    for (int64_t h = 0; h < a.heads; h++) {
      const float* u = a.a + t * a.a_stride + h * a.a_head_stride;
      const float* v = a.b + t * a.b_stride + h * a.b_head_stride;
      float* y = a.y + t * a.y_stride + h * a.y_head_stride;
      std::copy(u, u + a.a_dim, y);
      std::copy(v, v + a.b_dim, y + a.a_dim);
    }
  });
}

}  // namespace mohist
