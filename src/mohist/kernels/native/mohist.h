// The C interface of Mohist's kernels: plain pointers and sizes, no Python, no PyTorch.
//
// A *tape* is a list of operations, each an opcode with a pointer to its arguments. `mohist_run` executes a tape on
// a thread pool with the fast kernels; `mohist_run_definition` executes the same tape with one scalar loop per
// operation: the definition, which the fast kernels must equal bit for bit (docs/numerics.md).
//
// Every array is row-major float32 unless a comment says otherwise; strides count elements. abi.py mirrors this file.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOHIST_ABI 3
#define MOHIST_EXPORT __attribute__((visibility("default")))

enum mohist_format {
  MOHIST_F32 = 0,
  MOHIST_BF16 = 1,
  MOHIST_Q8_0 = 2,
  MOHIST_Q4_0 = 3,
  MOHIST_Q4_1 = 4,
  MOHIST_Q4_K = 5,
  MOHIST_Q5_K = 6,
  MOHIST_Q6_K = 7
};

enum mohist_activation_kind {
  MOHIST_GATE_SILU = 0,
  MOHIST_GATE_GELU_TANH = 1,
  MOHIST_GATE_CLAMPED_SILU = 2,
  MOHIST_GATE_SIGMOID = 3
};

enum mohist_op {
  MOHIST_LINEAR = 0,
  MOHIST_LINEAR_GROUPED = 1,
  MOHIST_EMBED = 2,
  MOHIST_RMS_NORM = 3,
  MOHIST_ROPE_ANGLES = 4,
  MOHIST_ROPE = 5,
  MOHIST_GLU = 6,
  MOHIST_STORE = 7,
  MOHIST_ATTENTION = 8,
  MOHIST_ROUTE = 9,
  MOHIST_MOE = 10,
  MOHIST_LOGPROBS = 11,
  MOHIST_SAMPLE = 12,
  MOHIST_CONCAT = 13,
  MOHIST_PACK = 14,
  MOHIST_LOGPROBS_BACKWARD = 15,
  MOHIST_PRODUCTS = 16,
  MOHIST_ATTENTION_BACKWARD = 17,
  MOHIST_RMS_NORM_BACKWARD = 18,
  MOHIST_GLU_BACKWARD = 19,
  MOHIST_EMBED_BACKWARD = 20,
  MOHIST_ROUTE_BACKWARD = 21,
  MOHIST_MOE_BACKWARD = 22,
  MOHIST_STORE_BACKWARD = 23,
  MOHIST_SCALE = 24,
  MOHIST_SILU = 25,
  MOHIST_SILU_BACKWARD = 26,
  MOHIST_LIGHTNING = 27,
  MOHIST_LAYER_NORM = 28,
  MOHIST_SELECT = 29,
  MOHIST_NUM_OPS = 30
};

// A matrix [n, k] in panels of 16 output rows (weight.py describes the layouts).
typedef struct {
  const void* data;
  int64_t n, k;
  int64_t format;
} mohist_weight;

// y[t] = residual[t] + (x[t] W^T + bias), W the given weights stacked along n.
typedef struct {
  const float* x;
  const mohist_weight* weights;
  const float* bias;      // [n] or null
  const float* residual;  // [rows, n] or null
  float* y;
  int64_t num_weights, rows, x_stride, residual_stride, y_stride;
} mohist_linear_args;

// y[t, g] = x[t, g] W_g^T: one weight a head; all weights have one shape.
typedef struct {
  const float* x;
  const mohist_weight* weights;
  float* y;
  int64_t groups, rows, x_stride, x_group_stride, y_stride, y_group_stride;
} mohist_linear_grouped_args;

typedef struct {
  const mohist_weight* weight;
  const int32_t* tokens;
  float* y;
  int64_t rows, y_stride;
} mohist_embed_args;

// Rows are indexed by (i, j) with i < rows and j < inner, at i * stride + j * inner_stride.
typedef struct {
  const float* x;
  const float* weight;
  const float* residual;  // [rows, dim] or null; only where inner is 1
  float* y;
  int64_t rows, inner, dim, x_stride, x_inner_stride, residual_stride, y_stride, y_inner_stride;
  float eps, shift;  // of the weight
} mohist_rms_norm_args;

// cos_sin[t] = pairs cosines, then pairs sines, times scales[min(position / period, num_scales - 1)].
typedef struct {
  const int32_t* positions;
  const float* inv_freq;
  const float* scales;
  float* cos_sin;
  int64_t rows, pairs, num_scales, period;
} mohist_rope_angles_args;

typedef struct {
  const float* x;
  const float* cos_sin;
  float* y;
  int64_t rows, heads, dim, pairs, offset, interleaved;
  int64_t x_stride, x_head_stride, y_stride, y_head_stride;
} mohist_rope_args;

// How a gate opens for the number beside it; steepness and limit count for MOHIST_GATE_CLAMPED_SILU.
typedef struct {
  int64_t kind;
  float steepness, limit;
} mohist_activation;

// x[t] = dim gates, then dim numbers.
typedef struct {
  const float* x;
  float* y;
  int64_t rows, dim, x_stride, y_stride;
  mohist_activation activation;
} mohist_glu_args;

// y[t, h] = [a[t, h], b[t, h]]
typedef struct {
  const float* a;
  const float* b;
  float* y;
  int64_t rows, heads, a_dim, b_dim, a_stride, a_head_stride, b_stride, b_head_stride, y_stride, y_head_stride;
} mohist_concat_args;

// Where keys and values live. keys: [blocks, heads, block_size / 16, key_dim, 16]; values: [blocks, heads,
// block_size, value_dim], or null when the value is the first value_dim entries of the key (MLA's latent).
typedef struct {
  float* keys;
  float* values;
  int64_t block_size, heads, key_dim, value_dim;
} mohist_cache;

// Which rows belong together: rows of one sequence are consecutive, positions ascending.
typedef struct {
  const int32_t* positions;  // [rows]
  const int32_t* sequences;  // [rows]
  const int32_t* tables;     // [sequences, table_stride] block ids
  int64_t table_stride;
} mohist_row_plan;

typedef struct {
  const mohist_cache* cache;
  const mohist_row_plan* plan;
  const float* keys;
  const float* values;
  int64_t rows, key_stride, key_head_stride, value_stride, value_head_stride;
} mohist_store_args;

typedef struct {
  const mohist_cache* cache;
  const mohist_row_plan* plan;
  const float* q;
  const float* sinks;  // [heads] or null: a score without a value that joins every softmax of its head
  const int32_t* chosen;  // [rows, num_chosen] or null: what mohist_select_args has chosen
  float* y;
  int64_t rows, heads, q_stride, q_head_stride, y_stride, y_head_stride;
  int64_t window;  // 0: all earlier keys
  int64_t num_chosen;
  float scale;
} mohist_attention_args;

typedef struct {
  const float* logits;  // [rows, experts]
  const float* bias;    // [experts] or null: moves the selection, never the weights
  int32_t* chosen;      // [rows, top_k]
  float* weights;       // [rows, top_k]
  int64_t rows, experts, top_k, groups, top_groups;
  int64_t sigmoid;           // 1: sigmoid scores, 0: softmax
  int64_t group_top2;        // 1: a group's score is the sum of its best two, 0: its best
  int64_t renormalize;
  int64_t logits_stride;
  float scale;
} mohist_route_args;

// y[t] = sum over k ascending of weights[t, k] * down(glu(gate_up(x[t]))) of expert chosen[t, k].
typedef struct {
  const float* x;
  const int32_t* chosen;
  const float* weights;
  const mohist_weight* gate;
  const mohist_weight* up;
  const mohist_weight* down;
  const float* gate_bias;  // [experts, width] or null; likewise up_bias, and down_bias [experts, dim]
  const float* up_bias;
  const float* down_bias;
  const float* residual;  // [rows, dim] or null
  float* y;
  float* gate_up;  // [rows * top_k, 2 * width] or null: gates and ups of each pair, sorted by expert, for moe_backward
  int64_t rows, experts, top_k, x_stride, residual_stride, y_stride;
  mohist_activation activation;
} mohist_moe_args;

// The distribution that sampling draws from: logits over the temperature (not 0), then top-k (0 keeps all), top-p and
// min-p. A target counts as kept, whether it is or not.
typedef struct {
  const float* logits;
  const int32_t* targets;
  float* logprobs;   // [rows]
  float* entropies;  // [rows] of what was kept
  int64_t rows, vocab, logits_stride, top_k;
  float temperature, top_p, min_p;
} mohist_logprobs_args;

// Replaces logits by their gradients, given those of the logprobs.
typedef struct {
  float* logits;
  const int32_t* targets;
  const float* dlogprobs;  // [rows]
  int64_t rows, vocab, logits_stride, top_k;
  float temperature, top_p, min_p;
} mohist_logprobs_backward_args;

// How one row is sampled. Tokens that penalties concern: `seen` lists each token once, with how often the answer
// holds it (0: only the prompt does). Tokens that may be drawn: bit i % 8 of byte i / 8 of `allowed` is 1 (NULL: all).
typedef struct {
  uint64_t seed;
  const int32_t* seen;
  const int32_t* seen_counts;
  const uint8_t* allowed;
  int64_t num_seen;
  uint32_t sample, position;
  int32_t top_k, num_top;
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
} mohist_sample_row;

typedef struct {
  float* logits;  // [rows, vocab]; left as they are
  const mohist_sample_row* params;
  int32_t* tokens;          // [rows]; -1, with logprobs of -infinity, where no allowed token has a logit above that
  float* logprobs;          // [rows] raw
  float* sampled_logprobs;  // [rows]
  int32_t* top_tokens;      // [rows, max_top]
  float* top_logprobs;      // [rows, max_top] raw
  int64_t rows, vocab, logits_stride, max_top;
} mohist_sample_args;

// Rows [n, k] of a row-major matrix into f32 or bf16 panels.
typedef struct {
  const void* rows;
  void* panels;
  int64_t n, k, row_stride, format;
} mohist_pack_args;

// c = a b, or c + a b where `add`: [m, n], with the contraction over k in ascending order. a is [m, k], or [k, m] where
// `transposed`; b is [k, n]. With an index, the i-th stored row of a (of b) is number index[i].
typedef struct {
  const float* a;
  const float* b;
  float* c;
  const int32_t* a_index;
  const int32_t* b_index;
  int64_t m, n, k, a_stride, b_stride, c_stride, transposed, add;
} mohist_product;

typedef struct {
  const mohist_product* products;  // none reads what another writes; one that adds to the c of the one before goes on with it
  int64_t count;
} mohist_products_args;

// Rows of a gradient that is laid out as the cache. With `clear`, they are 0 there afterwards.
typedef struct {
  const mohist_cache* gradient;
  const mohist_row_plan* plan;
  float* dkeys;    // [rows, heads, key_dim]
  float* dvalues;  // [rows, heads, value_dim], or null
  int64_t rows, clear;
} mohist_store_backward_args;

// Gradients of attention. Those of keys and values are laid out as the cache, and added to.
typedef struct {
  const mohist_cache* cache;
  const mohist_row_plan* plan;
  const float* q;
  const float* sinks;  // [heads] or null
  const int32_t* chosen;  // [rows, num_chosen] or null
  const float* dy;
  float* dq;  // [rows, heads, key_dim]
  float* dsinks;  // [rows, heads], what each row adds to its heads' gradients; null without sinks
  float* dkeys;
  float* dvalues;  // null where the cache has no values
  int64_t rows, heads, q_stride, q_head_stride, dy_stride, dy_head_stride;
  int64_t window, num_chosen;
  float scale;
} mohist_attention_backward_args;

// Rows as in mohist_rms_norm_args; dx is contiguous.
typedef struct {
  const float* x;
  const float* weight;
  const float* dy;
  float* dx;
  float* dweight;
  int64_t rows, inner, dim, x_stride, x_inner_stride, dy_stride, dy_inner_stride;
  float eps, shift;
} mohist_rms_norm_backward_args;

typedef struct {
  const float* x;
  const float* dy;
  float* dx;  // [rows, 2 * dim]
  int64_t rows, dim, x_stride, dy_stride;
  mohist_activation activation;
} mohist_glu_backward_args;

// dweight[tokens[t]] += dy[t]
typedef struct {
  const int32_t* tokens;
  const float* dy;
  float* dweight;  // [vocab, dim]
  int64_t rows, dim, dy_stride;
} mohist_embed_backward_args;

typedef struct {
  const float* logits;
  const int32_t* chosen;   // [rows, top_k]
  const float* dweights;   // [rows, top_k]
  float* dlogits;          // [rows, experts]
  int64_t rows, experts, top_k, sigmoid, renormalize, logits_stride;
  float scale;
} mohist_route_backward_args;

// Matrices of the experts are plain rows: gate and up [width, dim], down [dim, width].
typedef struct {
  const float* x;
  const int32_t* chosen;
  const float* weights;
  const float* gate_up;  // as the forward pass kept it
  const float* dy;
  const float* const* gate;
  const float* const* up;
  const float* const* down;
  const float* down_bias;  // [experts, dim] or null
  float* dx;         // [rows, dim]
  float* dweights;   // [rows, top_k]
  float* const* dgate;  // null where frozen; likewise dup, ddown
  float* const* dup;
  float* const* ddown;
  float* dgate_bias;  // as the biases; null without
  float* dup_bias;
  float* ddown_bias;
  int64_t rows, experts, top_k, dim, width, x_stride, dy_stride;
  mohist_activation activation;
} mohist_moe_backward_args;

// y[t] = x[t] * factor, then residual[t] + that if there is a residual.
typedef struct {
  const float* x;
  const float* residual;  // [rows, dim] or null
  float* y;
  int64_t rows, dim, x_stride, residual_stride, y_stride;
  float factor;
} mohist_scale_args;

typedef struct {
  const float* x;
  float* y;
  int64_t rows, dim, x_stride, y_stride;
} mohist_silu_args;

typedef struct {
  const float* x;
  const float* dy;
  float* dx;  // [rows, dim]
  int64_t rows, dim, x_stride, dy_stride;
} mohist_silu_backward_args;

// Linear attention with a decay: a head's state S [key_dim, value_dim] becomes decay S + k v^T at every position, and
// y = q S. A block keeps the state after the last of its positions that was computed: states is [blocks, heads,
// ceil(value_dim / 16), key_dim, 16]. Rows are taken in order, so a sequence may go on from another's block.
//
// In reverse, rows are taken from the last to the first: G becomes k v^T + what later rows left in the row's block,
// y = q G, and decay G is left for the row before (gradients of keys and of values; states begin as 0).
typedef struct {
  float* states;
  const mohist_row_plan* plan;
  const float* q;
  const float* k;
  const float* v;
  const float* decays;  // [heads]
  float* y;             // [rows, heads, value_dim]
  int64_t rows, heads, key_dim, value_dim, block_size;
  int64_t q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride;
  int64_t reverse;
} mohist_lightning_args;

typedef struct {
  const float* x;
  const float* weight;
  const float* bias;
  float* y;
  int64_t rows, dim, x_stride, y_stride;
  float eps;
} mohist_layer_norm_args;

// Which keys a row attends to, of those that the cache holds (one head, no values): the top_k positions with the
// largest sum over heads of weight * max(0, q k), the lower on a tie, in ascending order. Rows at positions below top_k
// attend to all; theirs are not written.
typedef struct {
  const mohist_cache* cache;
  const mohist_row_plan* plan;
  const float* q;        // [rows, heads, key_dim]
  const float* weights;  // [rows, heads]
  int32_t* chosen;       // [rows, top_k]
  int64_t rows, heads, top_k, q_stride, q_head_stride, weights_stride;
} mohist_select_args;

typedef struct mohist_pool mohist_pool;

MOHIST_EXPORT int64_t mohist_abi(void);
// "v3", "v4", "arm" or "base": what this library was compiled for.
MOHIST_EXPORT const char* mohist_isa(void);
// sizeof the arguments of an operation; -1 for an unknown opcode.
MOHIST_EXPORT int64_t mohist_args_size(int64_t op);

MOHIST_EXPORT mohist_pool* mohist_pool_create(int64_t threads);
MOHIST_EXPORT void mohist_pool_destroy(mohist_pool* pool);
MOHIST_EXPORT int64_t mohist_pool_threads(const mohist_pool* pool);

// Runs a tape. Returns 0, or 1 + the index of an operation with an unknown opcode.
MOHIST_EXPORT int64_t mohist_run(mohist_pool* pool, const int64_t* ops, void* const* args, int64_t count);
MOHIST_EXPORT int64_t mohist_run_definition(const int64_t* ops, void* const* args, int64_t count);

#ifdef __cplusplus
}
#endif
