// The definition of every operation: one scalar loop each, written to be read, not to be fast.
// The fast kernels must give the same bits (tests/kernels), whatever the batch, the tiling and the threads.
#include <algorithm>
#include <limits>
#include <vector>

#include "elementary.h"
#include "mohist.h"

namespace mohist {
namespace {

// Sixteen accumulators, lane i for the indices i mod 16, folded i + (i + 8), then + 4, + 2, + 1.
struct Lanes {
  float l[16] = {};
  float fold() const {
    float f[16];
    std::copy(l, l + 16, f);
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; i++) f[i] = f[i] + f[i + half];
    return f[0];
  }
};

// ---- weights ----------------------------------------------------------------------------------------------------

// A block of 32 weights of row n: w = d * scale * q + m, with a scale for each half.
struct Block {
  float d, m;
  int32_t scale[2], q[32];
  float value(int k) const { return d * static_cast<float>(scale[k / 16]) * static_cast<float>(q[k]); }
};

bool has_minimum(int64_t format) { return format == MOHIST_Q4_1 || format == MOHIST_Q4_K || format == MOHIST_Q5_K; }

// The quants of row c of a panel, in the layouts of weight.py.
void read_quants(int64_t format, const uint8_t* p, int64_t c, int32_t* q) {
  for (int k = 0; k < 32; k++) {
    const int64_t at = c * 4 + k % 4;
    if (format == MOHIST_Q8_0) {
      q[k] = static_cast<int8_t>(p[k / 4 * 64 + at]);
      continue;
    }
    const uint8_t byte = p[k % 16 / 4 * 64 + at];
    q[k] = k < 16 ? byte & 15 : byte >> 4;
    if (format == MOHIST_Q4_0) q[k] -= 8;
    if (format == MOHIST_Q5_K) q[k] += 16 * (p[256 + at] >> k / 4 & 1);
    if (format == MOHIST_Q6_K) q[k] += 16 * (p[256 + 64 * (k / 16) + at] >> 2 * (k % 16 / 4) & 3) - 32;
  }
}

Block read_small_block(const mohist_weight& w, int64_t n, int64_t b) {
  const int64_t panel = n / 16, c = n % 16, header = w.format == MOHIST_Q4_1 ? 64 : 32;
  const int64_t bytes = header + (w.format == MOHIST_Q8_0 ? 512 : 256);
  const uint8_t* p = static_cast<const uint8_t*>(w.data) + (panel * (w.k / 32) + b) * bytes;
  const uint16_t* half = reinterpret_cast<const uint16_t*>(p);
  Block block = {f16_to_float(half[c]), w.format == MOHIST_Q4_1 ? f16_to_float(half[16 + c]) : 0.0f, {1, 1}, {}};
  read_quants(w.format, p + header, c, block.q);
  return block;
}

// Blocks of K-quants: eight of them share d and the d of their minima.
Block read_k_block(const mohist_weight& w, int64_t n, int64_t b) {
  const int64_t panel = n / 16, c = n % 16, header = w.format == MOHIST_Q6_K ? 288 : 320;
  const int64_t quants = w.format == MOHIST_Q6_K ? 384 : w.format == MOHIST_Q5_K ? 320 : 256;
  const uint8_t* p = static_cast<const uint8_t*>(w.data) + (panel * (w.k / 256) + b / 8) * (header + 8 * quants);
  const uint16_t* half = reinterpret_cast<const uint16_t*>(p);
  Block block = {f16_to_float(half[c]), 0.0f, {}, {}};
  if (w.format == MOHIST_Q6_K) {
    for (int h = 0; h < 2; h++) block.scale[h] = static_cast<int8_t>(p[32 + (b % 8 * 2 + h) * 16 + c]);
  } else {
    block.scale[0] = block.scale[1] = p[64 + b % 8 * 16 + c];
    block.m = -(f16_to_float(half[16 + c]) * static_cast<float>(p[192 + b % 8 * 16 + c]));
  }
  read_quants(w.format, p + header + b % 8 * quants, c, block.q);
  return block;
}

Block read_block(const mohist_weight& w, int64_t n, int64_t b) {
  return w.format >= MOHIST_Q4_K ? read_k_block(w, n, b) : read_small_block(w, n, b);
}

float read_weight(const mohist_weight& w, int64_t n, int64_t k) {
  const int64_t at = (n / 16 * w.k + k) * 16 + n % 16;
  if (w.format == MOHIST_F32) return static_cast<const float*>(w.data)[at];
  if (w.format == MOHIST_BF16) return bf16_to_float(static_cast<const uint16_t*>(w.data)[at]);
  Block block = read_block(w, n, k / 32);
  const float value = block.value(k % 32);
  return has_minimum(w.format) ? value + block.m : value;
}

// Activations meet quantised weights as integers, up to 32,639 for Q8_0 and up to 127 for the others, with a scale for
// every 32 of them.
struct QuantizedBlock {
  float d;
  int32_t q[32];
};

QuantizedBlock quantize_block(const float* x, float most) {
  float largest = 0.0f;
  for (int k = 0; k < 32; k++) largest = std::max(largest, std::fabs(x[k]));
  QuantizedBlock block;
  block.d = largest / most;
  if (block.d < std::numeric_limits<float>::min()) block.d = 0.0f;
  const float inverse = block.d > 0.0f ? 1.0f / block.d : 0.0f;
  for (int k = 0; k < 32; k++) block.q[k] = static_cast<int32_t>(__builtin_rintf(x[k] * inverse));
  return block;
}

// One output of a matrix product: contraction index ascending, one accumulator, one fused multiply-add a step.
float dot(const mohist_weight& w, int64_t n, const float* x) {
  float acc = 0.0f;
  if (w.format == MOHIST_F32 || w.format == MOHIST_BF16) {
    for (int64_t k = 0; k < w.k; k++) acc = __builtin_fmaf(x[k], read_weight(w, n, k), acc);
    return acc;
  }
  for (int64_t b = 0; b < w.k / 32; b++) {  // the integers are exact; the scales are applied block by block
    const Block block = read_block(w, n, b);
    const QuantizedBlock activation = quantize_block(x + 32 * b, w.format == MOHIST_Q8_0 ? 32639.0f : 127.0f);
    int32_t products = 0, sum = 0;
    for (int k = 0; k < 32; k++) {
      products += (w.format == MOHIST_Q6_K ? block.scale[k / 16] : 1) * block.q[k] * activation.q[k];
      sum += activation.q[k];
    }
    const float d = w.format == MOHIST_Q6_K ? block.d : block.d * static_cast<float>(block.scale[0]);  // exact
    acc = __builtin_fmaf(d * activation.d, static_cast<float>(products), acc);
    if (has_minimum(w.format)) acc = __builtin_fmaf(block.m, activation.d * static_cast<float>(sum), acc);
  }
  return acc;
}

void linear(const mohist_linear_args& a) {
  for (int64_t t = 0; t < a.rows; t++) {
    int64_t column = 0;
    for (int64_t i = 0; i < a.num_weights; i++) {
      for (int64_t n = 0; n < a.weights[i].n; n++, column++) {
        float y = dot(a.weights[i], n, a.x + t * a.x_stride);
        if (a.bias) y = y + a.bias[column];
        if (a.residual) y = a.residual[t * a.residual_stride + column] + y;
        a.y[t * a.y_stride + column] = y;
      }
    }
  }
}

void linear_grouped(const mohist_linear_grouped_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t g = 0; g < a.groups; g++)
      for (int64_t n = 0; n < a.weights[g].n; n++)
        a.y[t * a.y_stride + g * a.y_group_stride + n] =
            dot(a.weights[g], n, a.x + t * a.x_stride + g * a.x_group_stride);
}

void embed(const mohist_embed_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t k = 0; k < a.weight->k; k++) a.y[t * a.y_stride + k] = read_weight(*a.weight, a.tokens[t], k);
}

// ---- norms, rope, activation ------------------------------------------------------------------------------------

void rms_norm(const mohist_rms_norm_args& a) {
  for (int64_t i = 0; i < a.rows; i++)
    for (int64_t j = 0; j < a.inner; j++) {
      const float* x = a.x + i * a.x_stride + j * a.x_inner_stride;
      float* y = a.y + i * a.y_stride + j * a.y_inner_stride;
      Lanes squares;
      for (int64_t k = 0; k < a.dim; k++) squares.l[k % 16] = __builtin_fmaf(x[k], x[k], squares.l[k % 16]);
      const float mean = squares.fold() / static_cast<float>(a.dim);
      const float scale = 1.0f / std::sqrt(mean + a.eps);
      for (int64_t k = 0; k < a.dim; k++) y[k] = x[k] * scale * (a.weight[k] + a.shift);
      if (a.residual)
        for (int64_t k = 0; k < a.dim; k++) y[k] = a.residual[i * a.residual_stride + k] + y[k];
    }
}

void layer_norm(const mohist_layer_norm_args& a) {
  for (int64_t t = 0; t < a.rows; t++) {
    const float* x = a.x + t * a.x_stride;
    const float dim = static_cast<float>(a.dim);
    Lanes sum, squares;
    for (int64_t k = 0; k < a.dim; k++) sum.l[k % 16] = sum.l[k % 16] + x[k];
    const float mean = sum.fold() / dim;
    for (int64_t k = 0; k < a.dim; k++)
      squares.l[k % 16] = __builtin_fmaf(x[k] - mean, x[k] - mean, squares.l[k % 16]);
    const float scale = 1.0f / std::sqrt(squares.fold() / dim + a.eps);
    for (int64_t k = 0; k < a.dim; k++) a.y[t * a.y_stride + k] = (x[k] - mean) * scale * a.weight[k] + a.bias[k];
  }
}

void rope_angles(const mohist_rope_angles_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t r = 0; r < a.pairs; r++) {
      double cosine, sine;
      cos_sin(static_cast<double>(a.positions[t]) * static_cast<double>(a.inv_freq[r]), &cosine, &sine);
      const float scale = a.scales[std::min(a.positions[t] / a.period, a.num_scales - 1)];
      a.cos_sin[t * 2 * a.pairs + r] = static_cast<float>(cosine) * scale;
      a.cos_sin[t * 2 * a.pairs + a.pairs + r] = static_cast<float>(sine) * scale;
    }
}

void rope(const mohist_rope_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t h = 0; h < a.heads; h++) {
      const float* x = a.x + t * a.x_stride + h * a.x_head_stride;
      float* y = a.y + t * a.y_stride + h * a.y_head_stride;
      std::copy(x, x + a.dim, y);
      for (int64_t r = 0; r < a.pairs; r++) {
        const float c = a.cos_sin[t * 2 * a.pairs + r], s = a.cos_sin[t * 2 * a.pairs + a.pairs + r];
        const int64_t i = a.offset + (a.interleaved ? 2 * r : r), j = a.interleaved ? i + 1 : i + a.pairs;
        const float u = x[i], v = x[j];
        y[i] = __builtin_fmaf(u, c, -(v * s));
        y[j] = __builtin_fmaf(v, c, u * s);
      }
    }
}

float gated(const mohist_activation& a, float gate, float up) {
  if (a.kind == MOHIST_GATE_SILU) return silu_scalar(gate) * up;
  if (a.kind == MOHIST_GATE_GELU_TANH) return gelu_scalar(gate) * up;
  if (a.kind == MOHIST_GATE_SIGMOID) return 1.0f / (1.0f + exp_scalar(-gate)) * up;
  gate = std::min(gate, a.limit);
  up = std::min(std::max(up, -a.limit), a.limit);
  return (up + 1.0f) * (gate / (1.0f + exp_scalar(-(a.steepness * gate))));
}

void glu(const mohist_glu_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t k = 0; k < a.dim; k++)
      a.y[t * a.y_stride + k] = gated(a.activation, a.x[t * a.x_stride + k], a.x[t * a.x_stride + a.dim + k]);
}

void scale(const mohist_scale_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t k = 0; k < a.dim; k++) {
      const float y = a.x[t * a.x_stride + k] * a.factor;
      a.y[t * a.y_stride + k] = a.residual ? a.residual[t * a.residual_stride + k] + y : y;
    }
}

void silu(const mohist_silu_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t k = 0; k < a.dim; k++) a.y[t * a.y_stride + k] = silu_scalar(a.x[t * a.x_stride + k]);
}

void concat(const mohist_concat_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t h = 0; h < a.heads; h++) {
      const float* u = a.a + t * a.a_stride + h * a.a_head_stride;
      const float* v = a.b + t * a.b_stride + h * a.b_head_stride;
      float* y = a.y + t * a.y_stride + h * a.y_head_stride;
      std::copy(u, u + a.a_dim, y);
      std::copy(v, v + a.b_dim, y + a.a_dim);
    }
}

void pack(const mohist_pack_args& a) {
  const int64_t panels = (a.n + 15) / 16;
  for (int64_t n = 0; n < panels * 16; n++)
    for (int64_t k = 0; k < a.k; k++) {
      const int64_t from = n * a.row_stride + k, to = (n / 16 * a.k + k) * 16 + n % 16;
      if (a.format == MOHIST_F32)
        static_cast<float*>(a.panels)[to] = n < a.n ? static_cast<const float*>(a.rows)[from] : 0.0f;
      else
        static_cast<uint16_t*>(a.panels)[to] = n < a.n ? static_cast<const uint16_t*>(a.rows)[from] : 0;
    }
}

// ---- attention --------------------------------------------------------------------------------------------------

// Where the paged cache keeps dimension d of the key, and of the value, of one position.
struct Slot {
  const mohist_cache& cache;
  int64_t block, offset;  // offset of the position in its block
  float& key(int64_t head, int64_t d) const {
    const int64_t groups = cache.block_size / 16;
    return cache.keys[(((block * cache.heads + head) * groups + offset / 16) * cache.key_dim + d) * 16 + offset % 16];
  }
  float& value(int64_t head, int64_t d) const {
    if (!cache.values) return key(head, d);
    return cache.values[((block * cache.heads + head) * cache.block_size + offset) * cache.value_dim + d];
  }
};

Slot slot(const mohist_cache& cache, const mohist_row_plan& plan, int64_t row, int64_t position) {
  const int32_t* table = plan.tables + plan.sequences[row] * plan.table_stride;
  return {cache, table[position / cache.block_size], position % cache.block_size};
}

void store_rows(const mohist_store_args& a) {
  for (int64_t t = 0; t < a.rows; t++) {
    const Slot s = slot(*a.cache, *a.plan, t, a.plan->positions[t]);
    for (int64_t h = 0; h < a.cache->heads; h++) {
      for (int64_t d = 0; d < a.cache->key_dim; d++) s.key(h, d) = a.keys[t * a.key_stride + h * a.key_head_stride + d];
      if (!a.cache->values) continue;
      for (int64_t d = 0; d < a.cache->value_dim; d++)
        s.value(h, d) = a.values[t * a.value_stride + h * a.value_head_stride + d];
    }
  }
}

// One query at a time: scores with the head dimension ascending, their maximum, exponentials, then the sum (16 lanes
// by position) and the weighted values, both with positions ascending.
void attention(const mohist_attention_args& a) {
  const mohist_cache& cache = *a.cache;
  std::vector<float> e;
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t n = 0; n < a.heads; n++) {
      const int64_t p = a.plan->positions[t], first = a.window ? std::max<int64_t>(0, p - a.window + 1) : 0;
      const int64_t head = n / (a.heads / cache.heads);
      const float* q = a.q + t * a.q_stride + n * a.q_head_stride;
      float* y = a.y + t * a.y_stride + n * a.y_head_stride;
      e.assign(p + 1, 0.0f);
      float largest = a.sinks ? a.sinks[n] : -std::numeric_limits<float>::infinity();
      const int32_t* chosen = a.chosen && p >= a.num_chosen ? a.chosen + t * a.num_chosen : nullptr;
      const auto sees = [&](int64_t j) { return !chosen || std::binary_search(chosen, chosen + a.num_chosen, j); };
      for (int64_t j = first; j <= p; j++) {
        if (!sees(j)) continue;
        const Slot s = slot(cache, *a.plan, t, j);
        float acc = 0.0f;
        for (int64_t d = 0; d < cache.key_dim; d++) acc = __builtin_fmaf(q[d], s.key(head, d), acc);
        e[j] = acc * a.scale;
        largest = std::max(largest, e[j]);
      }
      Lanes sum;
      for (int64_t j = first; j <= p; j++) {
        if (!sees(j)) continue;
        e[j] = exp_scalar(e[j] - largest);
        sum.l[j % 16] = sum.l[j % 16] + e[j];
      }
      const float total = a.sinks ? sum.fold() + exp_scalar(a.sinks[n] - largest) : sum.fold();
      for (int64_t d = 0; d < cache.value_dim; d++) {
        float acc = 0.0f;
        for (int64_t j = first; j <= p; j++)
          if (sees(j)) acc = __builtin_fmaf(e[j], slot(cache, *a.plan, t, j).value(head, d), acc);
        y[d] = acc / total;
      }
    }
}

// DeepSeek-V3.2's indexer: equation 1 of its report.
void select(const mohist_select_args& a) {
  for (int64_t t = 0; t < a.rows; t++) {
    const int64_t p = a.plan->positions[t];
    if (p < a.top_k) continue;
    std::vector<float> score(p + 1, 0.0f);
    std::vector<int32_t> order(p + 1);
    for (int64_t j = 0; j <= p; j++) {
      order[j] = static_cast<int32_t>(j);
      const Slot s = slot(*a.cache, *a.plan, t, j);
      for (int64_t h = 0; h < a.heads; h++) {
        float acc = 0.0f;
        for (int64_t d = 0; d < a.cache->key_dim; d++)
          acc = __builtin_fmaf(a.q[t * a.q_stride + h * a.q_head_stride + d], s.key(0, d), acc);
        score[j] = __builtin_fmaf(a.weights[t * a.weights_stride + h], std::max(acc, 0.0f), score[j]);
      }
    }
    std::sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
      return score[i] > score[j] || (score[i] == score[j] && i < j);
    });
    std::sort(order.begin(), order.begin() + a.top_k);
    std::copy(order.begin(), order.begin() + a.top_k, a.chosen + t * a.top_k);
  }
}

// One row after another: the state in the block of the position before, decayed, plus k v^T, is the state in its own.
void lightning(const mohist_lightning_args& a) {
  const int64_t panels = (a.value_dim + 15) / 16, size = panels * a.key_dim * 16;
  for (int64_t t = 0; t < a.rows; t++)
    for (int64_t n = 0; n < a.heads; n++) {
      const int32_t* table = a.plan->tables + a.plan->sequences[t] * a.plan->table_stride;
      const int64_t p = a.plan->positions[t];
      float* own = a.states + (table[p / a.block_size] * a.heads + n) * size;
      const float* before = p ? a.states + (table[(p - 1) / a.block_size] * a.heads + n) * size : nullptr;
      for (int64_t e = 0; e < a.value_dim; e++) {
        float y = 0.0f;
        for (int64_t d = 0; d < a.key_dim; d++) {
          const int64_t at = (e / 16 * a.key_dim + d) * 16 + e % 16;
          const float decayed = before ? a.decays[n] * before[at] : 0.0f;
          own[at] = __builtin_fmaf(a.k[t * a.k_stride + n * a.k_head_stride + d],
                                   a.v[t * a.v_stride + n * a.v_head_stride + e], decayed);
          y = __builtin_fmaf(a.q[t * a.q_stride + n * a.q_head_stride + d], own[at], y);
        }
        a.y[(t * a.heads + n) * a.value_dim + e] = y;
      }
    }
}

// ---- mixture of experts -----------------------------------------------------------------------------------------

// DeepSeek-V3 report, equations 13 to 16; softmax scores and `best` groups as in DeepSeek-V2.
void route_row(const mohist_route_args& a, const float* logits, int32_t* chosen, float* weights) {
  const int64_t experts = a.experts, per_group = experts / a.groups;
  const float lowest = -std::numeric_limits<float>::infinity();
  std::vector<float> score(experts), choice(experts);
  if (a.sigmoid) {
    for (int64_t e = 0; e < experts; e++) score[e] = 1.0f / (1.0f + exp_scalar(-logits[e]));
  } else {
    const float largest = *std::max_element(logits, logits + experts);
    Lanes sum;
    for (int64_t e = 0; e < experts; e++) {
      score[e] = exp_scalar(logits[e] - largest);
      sum.l[e % 16] = sum.l[e % 16] + score[e];
    }
    const float total = sum.fold();
    for (int64_t e = 0; e < experts; e++) score[e] = score[e] / total;
  }
  for (int64_t e = 0; e < experts; e++) choice[e] = a.bias ? score[e] + a.bias[e] : score[e];
  if (a.top_groups < a.groups) {  // only experts of the best groups can be chosen
    std::vector<float> group(a.groups);
    std::vector<bool> open(a.groups, false);
    for (int64_t g = 0; g < a.groups; g++) {
      float best = lowest, second = lowest;
      for (int64_t e = g * per_group; e < (g + 1) * per_group; e++) {
        if (choice[e] > best) second = best, best = choice[e];
        else if (choice[e] > second) second = choice[e];
      }
      group[g] = a.group_top2 && per_group > 1 ? best + second : best;
    }
    for (int64_t i = 0; i < a.top_groups; i++) {
      int64_t best = -1;
      for (int64_t g = 0; g < a.groups; g++)
        if (!open[g] && (best < 0 || group[g] > group[best])) best = g;
      open[best] = true;
    }
    for (int64_t e = 0; e < experts; e++)
      if (!open[e / per_group]) choice[e] = lowest;
  }
  float sum = 0.0f;
  std::vector<bool> taken(experts, false);
  for (int64_t i = 0; i < a.top_k; i++) {  // best first, the lower index on a tie
    int64_t best = -1;
    for (int64_t e = 0; e < experts; e++)
      if (!taken[e] && (best < 0 || choice[e] > choice[best])) best = e;
    taken[best] = true;
    chosen[i] = static_cast<int32_t>(best);
    sum = sum + score[best];
  }
  for (int64_t i = 0; i < a.top_k; i++)
    weights[i] = (a.renormalize ? score[chosen[i]] / (sum + 1e-20f) : score[chosen[i]]) * a.scale;
}

void route(const mohist_route_args& a) {
  for (int64_t t = 0; t < a.rows; t++)
    route_row(a, a.logits + t * a.logits_stride, a.chosen + t * a.top_k, a.weights + t * a.top_k);
}

void moe(const mohist_moe_args& a) {
  const int64_t width = a.gate[0].n, dim = a.down[0].n;
  std::vector<float> hidden(width), y(dim);
  for (int64_t t = 0; t < a.rows; t++) {
    const float* x = a.x + t * a.x_stride;
    std::fill(y.begin(), y.end(), 0.0f);
    for (int64_t i = 0; i < a.top_k; i++) {
      const int64_t e = a.chosen[t * a.top_k + i];
      const auto biased = [e](float y, const float* bias, const mohist_weight& w, int64_t n) {
        return bias ? y + bias[e * w.n + n] : y;
      };
      for (int64_t n = 0; n < width; n++)
        hidden[n] = gated(a.activation, biased(dot(a.gate[e], n, x), a.gate_bias, a.gate[e], n),
                          biased(dot(a.up[e], n, x), a.up_bias, a.up[e], n));
      for (int64_t n = 0; n < dim; n++) {
        const float own = biased(dot(a.down[e], n, hidden.data()), a.down_bias, a.down[e], n);
        y[n] = __builtin_fmaf(a.weights[t * a.top_k + i], own, y[n]);
      }
    }
    for (int64_t n = 0; n < dim; n++)
      a.y[t * a.y_stride + n] = a.residual ? a.residual[t * a.residual_stride + n] + y[n] : y[n];
  }
}

// ---- probabilities and sampling ---------------------------------------------------------------------------------

// The largest logit and the logarithm of the sum of exponentials beside it.
struct Normalizer {
  float largest, log_sum;
  float logprob(float logit) const { return (logit - largest) - log_sum; }
};

Normalizer normalizer(const float* logits, const bool* kept, int64_t vocab) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < vocab; i++) largest = std::max(largest, logits[i]);
  Lanes sum;
  for (int64_t i = 0; i < vocab; i++)
    if (!kept || kept[i]) sum.l[i % 16] = sum.l[i % 16] + exp_scalar(logits[i] - largest);
  return {largest, log_scalar(sum.fold())};
}

// Token ids by logit, largest first, the lower id on a tie.
std::vector<int32_t> ranking(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
    return logits[i] > logits[j] || (logits[i] == logits[j] && i < j);
  });
  return order;
}

std::vector<char> kept_tokens(const std::vector<float>& logits, const std::vector<float>& weight, int64_t top_k, float top_p,
                              float min_p) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  std::vector<char> kept(vocab, 1);
  const std::vector<int32_t> order = ranking(logits);
  if (top_k > 0)
    for (int64_t i = top_k; i < vocab; i++) kept[order[i]] = 0;
  if (top_p < 1.0f) {  // the smallest head of the ranking whose weight reaches top_p of the whole
    Lanes sum;
    for (int64_t i = 0; i < vocab; i++)
      if (kept[i]) sum.l[i % 16] = sum.l[i % 16] + weight[i];
    const float goal = top_p * sum.fold();
    float reached = 0.0f;
    for (int32_t i : order) {
      if (reached >= goal) kept[i] = 0;
      else reached = reached + weight[i];
    }
  }
  for (int64_t i = 0; i < vocab; i++)
    if (weight[i] < min_p) kept[i] = 0;
  return kept;
}

void logprobs(const mohist_logprobs_args& a) {
  for (int64_t t = 0; t < a.rows; t++) {
    std::vector<float> logits(a.logits + t * a.logits_stride, a.logits + t * a.logits_stride + a.vocab);
    for (float& l : logits) l = l / a.temperature;
    const float largest = *std::max_element(logits.begin(), logits.end());
    std::vector<float> weight(a.vocab);
    for (int64_t i = 0; i < a.vocab; i++) weight[i] = exp_scalar(logits[i] - largest);
    std::vector<char> kept = kept_tokens(logits, weight, a.top_k, a.top_p, a.min_p);
    kept[a.targets[t]] = 1;
    Lanes sum, surprise;
    for (int64_t i = 0; i < a.vocab; i++) {
      if (!kept[i]) continue;
      sum.l[i % 16] = sum.l[i % 16] + weight[i];
      surprise.l[i % 16] = __builtin_fmaf(weight[i], std::max(kExpMin, logits[i] - largest), surprise.l[i % 16]);
    }
    const float total = sum.fold(), log_sum = log_scalar(total);
    a.logprobs[t] = (logits[a.targets[t]] - largest) - log_sum;
    a.entropies[t] = log_sum - surprise.fold() / total;
  }
}

void sample_row(const mohist_sample_args& a, int64_t row) {
  const mohist_sample_row& p = a.params[row];
  const std::vector<float> raw(a.logits + row * a.logits_stride, a.logits + row * a.logits_stride + a.vocab);
  const Normalizer raw_norm = normalizer(raw.data(), nullptr, a.vocab);
  if (p.num_top) {
    const std::vector<int32_t> order = ranking(raw);
    for (int i = 0; i < p.num_top; i++) {
      a.top_tokens[row * a.max_top + i] = order[i];
      a.top_logprobs[row * a.max_top + i] = raw_norm.logprob(raw[order[i]]);
    }
  }
  std::vector<float> logits = raw;
  for (int64_t i = 0; i < p.num_seen; i++) {
    float& l = logits[p.seen[i]];
    if (p.repetition_penalty != 1.0f) l = l > 0.0f ? l / p.repetition_penalty : l * p.repetition_penalty;
    if (p.seen_counts[i] > 0) {
      l = l - p.presence_penalty;
      l = __builtin_fmaf(-p.frequency_penalty, static_cast<float>(p.seen_counts[i]), l);
    }
  }
  const float none = -std::numeric_limits<float>::infinity();
  if (p.allowed)
    for (int64_t i = 0; i < a.vocab; i++)
      if (!(p.allowed[i / 8] >> (i % 8) & 1)) logits[i] = none;
  const auto likeliest = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (p.allowed && !(logits[likeliest] > none)) {
    a.tokens[row] = -1;
    a.logprobs[row] = a.sampled_logprobs[row] = none;
    return;
  }
  if (p.temperature == 0.0f) {
    a.tokens[row] = likeliest;
    a.logprobs[row] = raw_norm.logprob(raw[likeliest]);
    a.sampled_logprobs[row] = 0.0f;  // the only outcome
    return;
  }
  for (float& l : logits) l = l / p.temperature;
  const float largest = *std::max_element(logits.begin(), logits.end());
  std::vector<float> weight(a.vocab);
  for (int64_t i = 0; i < a.vocab; i++) weight[i] = exp_scalar(logits[i] - largest);
  const std::vector<char> kept = kept_tokens(logits, weight, p.top_k, p.top_p, p.min_p);
  // Gumbel-max in its exponential form: token i waits E_i / weight_i, the first to arrive is drawn.
  float best = std::numeric_limits<float>::infinity();
  int32_t token = ranking(logits)[0];
  for (int64_t i = 0; i < a.vocab; i++) {
    if (!kept[i]) continue;
    const float wait = exponential(uniform(token_noise(static_cast<uint32_t>(i), p.position, p.sample, p.seed))) / weight[i];
    if (wait < best) best = wait, token = static_cast<int32_t>(i);
  }
  a.tokens[row] = token;
  a.logprobs[row] = raw_norm.logprob(raw[token]);
  a.sampled_logprobs[row] =
      normalizer(logits.data(), reinterpret_cast<const bool*>(kept.data()), a.vocab).logprob(logits[token]);
}

void sample(const mohist_sample_args& a) {
  for (int64_t row = 0; row < a.rows; row++) sample_row(a, row);
}

template <class Args> Args& as(void* args) { return *static_cast<Args*>(args); }

bool run_one(int64_t op, void* args) {
  switch (op) {
    case MOHIST_LINEAR: linear(as<mohist_linear_args>(args)); return true;
    case MOHIST_LINEAR_GROUPED: linear_grouped(as<mohist_linear_grouped_args>(args)); return true;
    case MOHIST_EMBED: embed(as<mohist_embed_args>(args)); return true;
    case MOHIST_RMS_NORM: rms_norm(as<mohist_rms_norm_args>(args)); return true;
    case MOHIST_ROPE_ANGLES: rope_angles(as<mohist_rope_angles_args>(args)); return true;
    case MOHIST_ROPE: rope(as<mohist_rope_args>(args)); return true;
    case MOHIST_GLU: glu(as<mohist_glu_args>(args)); return true;
    case MOHIST_STORE: store_rows(as<mohist_store_args>(args)); return true;
    case MOHIST_ATTENTION: attention(as<mohist_attention_args>(args)); return true;
    case MOHIST_ROUTE: route(as<mohist_route_args>(args)); return true;
    case MOHIST_MOE: moe(as<mohist_moe_args>(args)); return true;
    case MOHIST_LOGPROBS: logprobs(as<mohist_logprobs_args>(args)); return true;
    case MOHIST_SAMPLE: sample(as<mohist_sample_args>(args)); return true;
    case MOHIST_CONCAT: concat(as<mohist_concat_args>(args)); return true;
    case MOHIST_SCALE: scale(as<mohist_scale_args>(args)); return true;
    case MOHIST_SILU: silu(as<mohist_silu_args>(args)); return true;
    case MOHIST_LIGHTNING: lightning(as<mohist_lightning_args>(args)); return true;
    case MOHIST_LAYER_NORM: layer_norm(as<mohist_layer_norm_args>(args)); return true;
    case MOHIST_SELECT: select(as<mohist_select_args>(args)); return true;
    case MOHIST_PACK: pack(as<mohist_pack_args>(args)); return true;
    default: return false;
  }
}

}  // namespace
}  // namespace mohist

int64_t mohist_run_definition(const int64_t* ops, void* const* args, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!mohist::run_one(ops[i], args[i])) return i + 1;
  return 0;
}
