#include "quantized_rows.h"

#include <algorithm>
#include <limits>

#include "layout.h"

namespace mohist {
namespace {

// The scale by which the largest of 32 numbers becomes `most`, and what they become.
struct Rounded {
  float scale;
  vi n[4];

  Rounded(const float* x, float most) {
    const vf sign = as_float(iset1(0x7fffffff));
    vf v[4], largest = set1(0.0f);
    for (int i = 0; i < 4; i++) {
      v[i] = load(x + 8 * i);
      largest = max(largest, as_float(iand(as_int(v[i]), as_int(sign))));
    }
    float l[8];
    store(l, largest);
    for (int half = 4; half; half /= 2)
      for (int i = 0; i < half; i++) l[i] = l[i] < l[i + half] ? l[i + half] : l[i];
    scale = l[0] / most;
    if (scale < std::numeric_limits<float>::min()) scale = 0.0f;
    const vf inverse = set1(scale > 0.0f ? 1.0f / scale : 0.0f);
    for (int i = 0; i < 4; i++) n[i] = to_int(mul(v[i], inverse));
  }
};

int32_t total(vi a) {
  int32_t lanes[8], sum = 0;
  memcpy(lanes, &a, 32);
  for (int32_t lane : lanes) sum += lane;
  return sum;
}

void quantize(const float* x, ByteBlock& block) {
  const Rounded rounded(x, ByteBlock::kMost);
  const vi* n = rounded.n;
#ifdef MOHIST_AVX2
  const vi words = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  const vi ordered = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<vi*>(block.q), ordered);
#else
  for (int i = 0; i < 32; i++) block.q[i] = static_cast<int8_t>(n[i / 8][i % 8]);
#endif
  const int32_t first = total(iadd(n[0], n[1])), second = total(iadd(n[2], n[3])), sum = first + second;
  block.d = rounded.scale;
  block.d_sum = rounded.scale * static_cast<float>(sum);
  block.minus_8_sums = -8 * sum;
  block.minus_32_sums[0] = -32 * first;
  block.minus_32_sums[1] = -32 * second;
}

void quantize(const float* x, WordBlock& block) {
  const Rounded rounded(x, WordBlock::kMost);
  const vi* n = rounded.n;
#if defined(MOHIST_VNNI)
  for (int i = 0; i < 4; i++) {
    const vi high = shift_right_signed<8>(iadd(n[i], iset1(128)));  // what is left of n is from -128 to 127
    _mm256_mask_cvtepi32_storeu_epi8(block.bytes[0] + 8 * i, 0xff, high);
    _mm256_mask_cvtepi32_storeu_epi8(block.bytes[1] + 8 * i, 0xff, n[i]);
  }
  block.minus_128_sums = -128 * total(iadd(iadd(n[0], n[1]), iadd(n[2], n[3])));
#elif defined(MOHIST_AVX2)
  const vi swap = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  for (int i = 0; i < 4; i += 2) {
    const vi words = _mm256_permute4x64_epi64(_mm256_packs_epi32(n[i], n[i + 1]), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<vi*>(block.q + 8 * i), _mm256_shuffle_epi8(words, swap));
  }
#else
  for (int i = 0; i < 32; i++) block.q[i] = static_cast<int16_t>(n[i / 8][i % 8]);
#endif
  block.d = rounded.scale;
}

template <class Block>
const Block* quantize_all(mohist_pool& pool, int slot, const float* x, int64_t stride, int64_t rows, int64_t k) {
  const int64_t per_row = k / 32, per_task = std::max<int64_t>(1, 16384 / k);
  Block* blocks = pool.shared(slot).get<Block>(rows * per_row);
  pool.parallel((rows + per_task - 1) / per_task, [&](int64_t task, int) {
    for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); r++)
      for (int64_t b = 0; b < per_row; b++) quantize(x + r * stride + 32 * b, blocks[r * per_row + b]);
  });
  return blocks;
}

}  // namespace

QuantizedRows quantize_rows(mohist_pool& pool, const mohist_weight* weights, int64_t num_weights, const float* x,
                            int64_t stride, int64_t rows, int64_t k) {
  const auto any = [&](const auto& is_so) { return std::any_of(weights, weights + num_weights, is_so); };
  QuantizedRows quantized;
  quantized.per_row = k / 32;
  if (any([](const mohist_weight& w) { return is_quantized(w.format) && !takes_words(w.format); }))
    quantized.bytes = quantize_all<ByteBlock>(pool, 0, x, stride, rows, k);
  if (any([](const mohist_weight& w) { return takes_words(w.format); }))
    quantized.words = quantize_all<WordBlock>(pool, 1, x, stride, rows, k);
  return quantized;
}

}  // namespace mohist
