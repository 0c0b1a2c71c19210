// Matrix products with packed weights, the work of linear, linear_grouped and moe.
#pragma once
#include "mohist.h"
#include "pool.h"

namespace mohist {

// 32 activations as 8-bit integers with a scale, and what the kernels need of their sum.
struct QuantizedBlock {
  int8_t q[32];
  float d, d_sum;          // the scale, and the scale times the sum
  int32_t minus_8_sums, minus_128_sums, minus_32_sums[2];  // the last for each half
};

// Rows of such blocks, one after another.
struct QuantizedRows {
  const QuantizedBlock* blocks = nullptr;
  int64_t per_row = 0;
  const QuantizedBlock* row(int64_t i) const { return blocks + i * per_row; }
  QuantizedRows from(int64_t i) const { return {row(i), per_row}; }
};

bool is_quantized(const mohist_weight& weight);

// Fills scratch memory; valid until the same slot is used again.
QuantizedRows quantize_rows(mohist_pool& pool, int slot, const float* x, int64_t stride, int64_t rows, int64_t k);

// y[i] = x[index ? index[i] : i] W^T, then + bias, then residual + y.
struct Product {
  const mohist_weight* weight;
  const float* x;
  int64_t x_stride;
  QuantizedRows quantized;  // of x, when the weight is quantised
  const int32_t* index;
  int64_t rows;
  float* y;
  int64_t y_stride;
  const float* bias;
  const float* residual;
  int64_t residual_stride;
};

// Computes all of them as one parallel loop.
void multiply(mohist_pool& pool, const Product* products, int64_t count);

void linear(mohist_pool& pool, const mohist_linear_args& a);
// Tells the pool what `linear` will read, where that comes from memory.
void expect_weights(mohist_pool& pool, const mohist_linear_args& a);
void linear_grouped(mohist_pool& pool, const mohist_linear_grouped_args& a);

}  // namespace mohist
