// The C interface: what this build is, and how a tape runs.
#include "ops.h"

namespace mohist {
namespace {

template <class Args> const Args& as(const void* args) { return *static_cast<const Args*>(args); }

bool run_one(mohist_pool& pool, int64_t op, const void* args) {
  switch (op) {
    case MOHIST_LINEAR: linear(pool, as<mohist_linear_args>(args)); return true;
    case MOHIST_LINEAR_GROUPED: linear_grouped(pool, as<mohist_linear_grouped_args>(args)); return true;
    case MOHIST_EMBED: embed(pool, as<mohist_embed_args>(args)); return true;
    case MOHIST_RMS_NORM: rms_norm(pool, as<mohist_rms_norm_args>(args)); return true;
    case MOHIST_ROPE_ANGLES: rope_angles(pool, as<mohist_rope_angles_args>(args)); return true;
    case MOHIST_ROPE: rope(pool, as<mohist_rope_args>(args)); return true;
    case MOHIST_GLU: glu(pool, as<mohist_glu_args>(args)); return true;
    case MOHIST_STORE: store(pool, as<mohist_store_args>(args)); return true;
    case MOHIST_ATTENTION: attention(pool, as<mohist_attention_args>(args)); return true;
    case MOHIST_ROUTE: route(pool, as<mohist_route_args>(args)); return true;
    case MOHIST_MOE: moe(pool, as<mohist_moe_args>(args)); return true;
    case MOHIST_LOGPROBS: logprobs(pool, as<mohist_logprobs_args>(args)); return true;
    case MOHIST_SAMPLE: sample(pool, as<mohist_sample_args>(args)); return true;
    case MOHIST_CONCAT: concat(pool, as<mohist_concat_args>(args)); return true;
    case MOHIST_PACK: pack(pool, as<mohist_pack_args>(args)); return true;
    case MOHIST_LOGPROBS_BACKWARD: logprobs_backward(pool, as<mohist_logprobs_backward_args>(args)); return true;
    case MOHIST_PRODUCTS: products(pool, as<mohist_products_args>(args)); return true;
    case MOHIST_ATTENTION_BACKWARD: attention_backward(pool, as<mohist_attention_backward_args>(args)); return true;
    case MOHIST_RMS_NORM_BACKWARD: rms_norm_backward(pool, as<mohist_rms_norm_backward_args>(args)); return true;
    case MOHIST_GLU_BACKWARD: glu_backward(pool, as<mohist_glu_backward_args>(args)); return true;
    case MOHIST_EMBED_BACKWARD: embed_backward(pool, as<mohist_embed_backward_args>(args)); return true;
    case MOHIST_ROUTE_BACKWARD: route_backward(pool, as<mohist_route_backward_args>(args)); return true;
    case MOHIST_MOE_BACKWARD: moe_backward(pool, as<mohist_moe_backward_args>(args)); return true;
    case MOHIST_STORE_BACKWARD: store_backward(pool, as<mohist_store_backward_args>(args)); return true;
    case MOHIST_SCALE: scale(pool, as<mohist_scale_args>(args)); return true;
    case MOHIST_SILU: silu(pool, as<mohist_silu_args>(args)); return true;
    case MOHIST_SILU_BACKWARD: silu_backward(pool, as<mohist_silu_backward_args>(args)); return true;
    case MOHIST_LIGHTNING: lightning(pool, as<mohist_lightning_args>(args)); return true;
    case MOHIST_LAYER_NORM: layer_norm(pool, as<mohist_layer_norm_args>(args)); return true;
    case MOHIST_SELECT: select(pool, as<mohist_select_args>(args)); return true;
    default: return false;
  }
}

}  // namespace
}  // namespace mohist

int64_t mohist_abi(void) { return MOHIST_ABI; }

const char* mohist_isa(void) {
#if defined(__AVX512VNNI__)
  return "v4 vnni";
#elif defined(__AVX512F__)
  return "v4";
#elif defined(__AVX2__)
  return "v3";
#elif defined(__aarch64__)
  return "arm";
#else
  return "base";
#endif
}

int64_t mohist_args_size(int64_t op) {
  switch (op) {
    case MOHIST_LINEAR: return sizeof(mohist_linear_args);
    case MOHIST_LINEAR_GROUPED: return sizeof(mohist_linear_grouped_args);
    case MOHIST_EMBED: return sizeof(mohist_embed_args);
    case MOHIST_RMS_NORM: return sizeof(mohist_rms_norm_args);
    case MOHIST_ROPE_ANGLES: return sizeof(mohist_rope_angles_args);
    case MOHIST_ROPE: return sizeof(mohist_rope_args);
    case MOHIST_GLU: return sizeof(mohist_glu_args);
    case MOHIST_STORE: return sizeof(mohist_store_args);
    case MOHIST_ATTENTION: return sizeof(mohist_attention_args);
    case MOHIST_ROUTE: return sizeof(mohist_route_args);
    case MOHIST_MOE: return sizeof(mohist_moe_args);
    case MOHIST_LOGPROBS: return sizeof(mohist_logprobs_args);
    case MOHIST_SAMPLE: return sizeof(mohist_sample_args);
    case MOHIST_CONCAT: return sizeof(mohist_concat_args);
    case MOHIST_PACK: return sizeof(mohist_pack_args);
    case MOHIST_LOGPROBS_BACKWARD: return sizeof(mohist_logprobs_backward_args);
    case MOHIST_PRODUCTS: return sizeof(mohist_products_args);
    case MOHIST_ATTENTION_BACKWARD: return sizeof(mohist_attention_backward_args);
    case MOHIST_RMS_NORM_BACKWARD: return sizeof(mohist_rms_norm_backward_args);
    case MOHIST_GLU_BACKWARD: return sizeof(mohist_glu_backward_args);
    case MOHIST_EMBED_BACKWARD: return sizeof(mohist_embed_backward_args);
    case MOHIST_ROUTE_BACKWARD: return sizeof(mohist_route_backward_args);
    case MOHIST_MOE_BACKWARD: return sizeof(mohist_moe_backward_args);
    case MOHIST_STORE_BACKWARD: return sizeof(mohist_store_backward_args);
    case MOHIST_SCALE: return sizeof(mohist_scale_args);
    case MOHIST_SILU: return sizeof(mohist_silu_args);
    case MOHIST_SILU_BACKWARD: return sizeof(mohist_silu_backward_args);
    case MOHIST_LIGHTNING: return sizeof(mohist_lightning_args);
    case MOHIST_LAYER_NORM: return sizeof(mohist_layer_norm_args);
    case MOHIST_SELECT: return sizeof(mohist_select_args);
    default: return -1;
  }
}

int64_t mohist_run(mohist_pool* pool, const int64_t* ops, void* const* args, int64_t count) {
  int64_t next = 0;  // linear: what threads without work take into their caches
  for (int64_t i = 0; i < count; i++) {
    if (i >= next) {
      do next++;
      while (next < count && ops[next] != MOHIST_LINEAR);
      if (next < count) mohist::expect_weights(*pool, mohist::as<mohist_linear_args>(args[next]));
    }
    if (!mohist::run_one(*pool, ops[i], args[i])) return i + 1;
  }
  return 0;
}
