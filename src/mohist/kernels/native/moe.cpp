// Mixture of experts: choose experts row by row, then let each expert see its rows together.
#include <algorithm>
#include <limits>

#include "elementary.h"
#include "moe.h"
#include "ops.h"

namespace mohist {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

void scores_of_row(const mohist_route_args& a, const float* logits, float* score) {
  if (a.sigmoid) {
    for (int64_t e = 0; e < a.experts; e++) score[e] = 1.0f / (1.0f + exp_scalar(-logits[e]));
    return;
  }
  const float largest = *std::max_element(logits, logits + a.experts);
  float lanes[16] = {};
  for (int64_t e = 0; e < a.experts; e++) {
    score[e] = exp_scalar(logits[e] - largest);
    lanes[e % 16] = lanes[e % 16] + score[e];
  }
  const float total = fold16(load16(lanes));
  for (int64_t e = 0; e < a.experts; e++) score[e] = score[e] / total;
}

void close_groups(const mohist_route_args& a, float* choice) {
  const int64_t per_group = a.experts / a.groups;
  float group[512];
  for (int64_t g = 0; g < a.groups; g++) {
    float best = kLowest, second = kLowest;
    for (int64_t e = g * per_group; e < (g + 1) * per_group; e++) {
      if (choice[e] > best) second = best, best = choice[e];
      else if (choice[e] > second) second = choice[e];
    }
    group[g] = a.group_top2 && per_group > 1 ? best + second : best;
  }
  bool open[512] = {};
  for (int64_t i = 0; i < a.top_groups; i++) {
    int64_t best = -1;
    for (int64_t g = 0; g < a.groups; g++)
      if (!open[g] && (best < 0 || group[g] > group[best])) best = g;
    open[best] = true;
  }
  for (int64_t e = 0; e < a.experts; e++)
    if (!open[e / per_group]) choice[e] = kLowest;
}

}  // namespace

void route(mohist_pool& pool, const mohist_route_args& a) {
  const int64_t chunk = std::max<int64_t>(1, 1024 / a.experts);
  pool.parallel((a.rows + chunk - 1) / chunk, [&](int64_t task, int thread) {
    float* score = pool.local(thread).get<float>(2 * a.experts);
    float* choice = score + a.experts;
    for (int64_t t = task * chunk; t < std::min(a.rows, (task + 1) * chunk); t++) {
      scores_of_row(a, a.logits + t * a.logits_stride, score);
      for (int64_t e = 0; e < a.experts; e++) choice[e] = a.bias ? score[e] + a.bias[e] : score[e];
      if (a.top_groups < a.groups) close_groups(a, choice);
      int32_t* chosen = a.chosen + t * a.top_k;
      float* weights = a.weights + t * a.top_k;
      float sum = 0.0f;
      for (int64_t i = 0; i < a.top_k; i++) {
        int64_t best = -1;
        for (int64_t e = 0; e < a.experts; e++)
          if (choice[e] == choice[e] && (best < 0 || choice[e] > choice[best])) best = e;
        if (best < 0) best = 0;  // only when every score is NaN
        chosen[i] = static_cast<int32_t>(best);
        weights[i] = score[best];
        sum = sum + score[best];
        choice[best] = std::numeric_limits<float>::quiet_NaN();  // taken
      }
      for (int64_t i = 0; i < a.top_k; i++) weights[i] = (a.renormalize ? weights[i] / (sum + 1e-20f) : weights[i]) * a.scale;
    }
  });
}

Groups group_by_expert(mohist_pool& pool, const int32_t* chosen, int64_t rows, int64_t top_k, int64_t experts) {
  const int64_t pairs = rows * top_k;
  int64_t* begin = pool.shared(2).get<int64_t>(experts + 1 + (pairs + 1));
  int32_t* place = reinterpret_cast<int32_t*>(begin + experts + 1);
  int32_t* source = place + pairs;
  std::fill(begin, begin + experts + 1, 0);
  for (int64_t i = 0; i < pairs; i++) begin[chosen[i] + 1]++;
  for (int64_t e = 0; e < experts; e++) begin[e + 1] += begin[e];
  for (int64_t i = 0; i < pairs; i++) {
    place[i] = static_cast<int32_t>(begin[chosen[i]]++);
    source[place[i]] = static_cast<int32_t>(i / top_k);
  }
  for (int64_t e = experts; e > 0; e--) begin[e] = begin[e - 1];
  begin[0] = 0;
  return {begin, place, source};
}

void moe(mohist_pool& pool, const mohist_moe_args& a) {
  const int64_t width = a.gate[0].n, dim = a.down[0].n, k = a.gate[0].k, pairs = a.rows * a.top_k;
  const Groups groups = group_by_expert(pool, a.chosen, a.rows, a.top_k, a.experts);
  const int64_t* begin = groups.begin;
  const int32_t *place = groups.place, *source = groups.source;
  float* gate_up = a.gate_up ? a.gate_up : pool.shared(3).get<float>(pairs * 2 * width);
  float* hidden = pool.shared(4).get<float>(pairs * width);
  float* out = pool.shared(5).get<float>(pairs * dim);
  Product* products = pool.shared(6).get<Product>(2 * a.experts);
  const mohist_weight both[] = {a.gate[0], a.up[0]};
  const QuantizedRows quantized = quantize_rows(pool, both, 2, a.x, a.x_stride, a.rows, k);
  const auto bias = [](const float* biases, int64_t e, int64_t n) { return biases ? biases + e * n : nullptr; };
  int64_t count = 0;
  for (int64_t e = 0; e < a.experts; e++) {
    const int64_t rows = begin[e + 1] - begin[e];
    if (!rows) continue;
    float* y = gate_up + begin[e] * 2 * width;
    products[count++] = {&a.gate[e], a.x, a.x_stride, quantized, source + begin[e], rows, y, 2 * width, bias(a.gate_bias, e, width), nullptr, 0};
    products[count++] = {&a.up[e], a.x, a.x_stride, quantized, source + begin[e], rows, y + width, 2 * width, bias(a.up_bias, e, width), nullptr, 0};
  }
  multiply(pool, products, count);
  glu(pool, {gate_up, hidden, pairs, width, 2 * width, width, a.activation});
  const QuantizedRows inner = quantize_rows(pool, a.down, 1, hidden, width, pairs, width);
  count = 0;
  for (int64_t e = 0; e < a.experts; e++) {
    const int64_t rows = begin[e + 1] - begin[e], at = begin[e];
    if (!rows) continue;
    products[count++] = {&a.down[e], hidden + at * width, width, inner.from(at), nullptr, rows, out + at * dim, dim, bias(a.down_bias, e, dim), nullptr, 0};
  }
  multiply(pool, products, count);
  parallel_rows(pool, a.rows, dim * a.top_k, [&](int64_t t) {
    float* y = a.y + t * a.y_stride;
    for (int64_t n = 0; n < dim; n++) {
      float acc = 0.0f;
      for (int64_t i = 0; i < a.top_k; i++)
        acc = __builtin_fmaf(a.weights[t * a.top_k + i], out[place[t * a.top_k + i] * dim + n], acc);
      y[n] = a.residual ? a.residual[t * a.residual_stride + n] + acc : acc;
    }
  });
}

}  // namespace mohist
