// Activations as integers: what quantised weights are multiplied with (numerics.md).
#pragma once
#include <type_traits>

#include "mohist.h"
#include "pool.h"
#include "simd.h"

#if defined(MOHIST_AVX512) && defined(__AVX512VNNI__)
#define MOHIST_VNNI 1
#endif

namespace mohist {

// 32 activations as integers up to 127 with a scale, and what the kernels need of their sums.
struct ByteBlock {
  static constexpr float kMost = 127.0f;
  int8_t q[32];
  float d, d_sum;                          // the scale, and the scale times the sum
  int32_t minus_8_sums, minus_32_sums[2];  // the last for each half
};

// 32 activations as integers up to 32,639, which two bytes hold that both have a sign.
struct WordBlock {
  static constexpr float kMost = 32639.0f;
#if defined(MOHIST_VNNI)
  int8_t bytes[2][32];  // 256 times the first plus the second
  int32_t minus_128_sums;
#else
  int16_t q[32];  // for AVX2 the second and the third of every four have changed places
#endif
  float d;
};

// Which of them the weights of a format are multiplied with.
constexpr bool takes_words(int64_t format) { return format == MOHIST_Q8_0; }
template <int Format> using ActivationBlock = std::conditional_t<takes_words(Format), WordBlock, ByteBlock>;

// Rows of such blocks, one after another; none of a kind that is not needed.
struct QuantizedRows {
  int64_t per_row = 0;
  const ByteBlock* bytes = nullptr;
  const WordBlock* words = nullptr;

  template <class Block> const Block* row(int64_t i) const {
    if constexpr (std::is_same_v<Block, WordBlock>) return words + i * per_row;
    else return bytes + i * per_row;
  }
  // The same without the first i rows.
  QuantizedRows from(int64_t i) const {
    return {per_row, bytes ? row<ByteBlock>(i) : nullptr, words ? row<WordBlock>(i) : nullptr};
  }
};

// x [rows, k] as these weights need it, in scratch memory: valid until this is called again.
QuantizedRows quantize_rows(mohist_pool& pool, const mohist_weight* weights, int64_t num_weights, const float* x,
                            int64_t stride, int64_t rows, int64_t k);

}  // namespace mohist
