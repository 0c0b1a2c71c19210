// Matrix products with packed weights, the work of linear, linear_grouped and moe.
#pragma once
#include "mohist.h"
#include "pool.h"
#include "quantized_rows.h"

namespace mohist {

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
