// One function an operation: the fast kernels behind mohist_run.
#pragma once
#include <algorithm>

#include "linear.h"
#include "mohist.h"
#include "pool.h"

namespace mohist {

void embed(mohist_pool& pool, const mohist_embed_args& a);
void pack(mohist_pool& pool, const mohist_pack_args& a);
void rms_norm(mohist_pool& pool, const mohist_rms_norm_args& a);
void rope_angles(mohist_pool& pool, const mohist_rope_angles_args& a);
void rope(mohist_pool& pool, const mohist_rope_args& a);
void glu(mohist_pool& pool, const mohist_glu_args& a);
void scale(mohist_pool& pool, const mohist_scale_args& a);
void silu(mohist_pool& pool, const mohist_silu_args& a);
void silu_backward(mohist_pool& pool, const mohist_silu_backward_args& a);
void lightning(mohist_pool& pool, const mohist_lightning_args& a);
void layer_norm(mohist_pool& pool, const mohist_layer_norm_args& a);
void select(mohist_pool& pool, const mohist_select_args& a);
void concat(mohist_pool& pool, const mohist_concat_args& a);
void store(mohist_pool& pool, const mohist_store_args& a);
void attention(mohist_pool& pool, const mohist_attention_args& a);
void route(mohist_pool& pool, const mohist_route_args& a);
void moe(mohist_pool& pool, const mohist_moe_args& a);
void logprobs(mohist_pool& pool, const mohist_logprobs_args& a);
void products(mohist_pool& pool, const mohist_products_args& a);
void rms_norm_backward(mohist_pool& pool, const mohist_rms_norm_backward_args& a);
void glu_backward(mohist_pool& pool, const mohist_glu_backward_args& a);
void embed_backward(mohist_pool& pool, const mohist_embed_backward_args& a);
void route_backward(mohist_pool& pool, const mohist_route_backward_args& a);
void moe_backward(mohist_pool& pool, const mohist_moe_backward_args& a);
void store_backward(mohist_pool& pool, const mohist_store_backward_args& a);
void attention_backward(mohist_pool& pool, const mohist_attention_backward_args& a);
void logprobs_backward(mohist_pool& pool, const mohist_logprobs_backward_args& a);
void sample(mohist_pool& pool, const mohist_sample_args& a);

// Overwrites the numbers of positions [begin, end) that were not chosen; e[0] belongs to position `begin`, and none is
// chosen before it.
static inline void keep_chosen(const int32_t* chosen, int64_t count, int64_t begin, float* e, int64_t end, float other) {
  int64_t next = begin;
  for (int64_t i = 0; i < count; i++) {
    std::fill(e + (next - begin), e + (chosen[i] - begin), other);
    next = chosen[i] + 1;
  }
  std::fill(e + (next - begin), e + (end - begin), other);
}

// Rows in chunks of about 16k numbers: enough work for a task, one task when there is little.
template <class Body> void parallel_rows(mohist_pool& pool, int64_t rows, int64_t numbers_per_row, const Body& body) {
  const int64_t chunk = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, numbers_per_row));
  pool.parallel((rows + chunk - 1) / chunk, [&](int64_t task, int) {
    for (int64_t row = task * chunk; row < std::min(rows, (task + 1) * chunk); row++) body(row);
  });
}

}  // namespace mohist
