// How weights lie in memory (weight.py describes the layouts): panels of 16 rows; of quantised ones, groups of blocks of 32
// entries a row, with a header before them.
#pragma once
#include "mohist.h"

namespace mohist {

struct Layout {
  int64_t values;  // entries of a row that a header is for
  int64_t header;  // bytes of it: what the scales of 16 rows are
  int64_t block;   // bytes of 16 times 32 quants
};

constexpr Layout layout_of(int64_t format) {
  switch (format) {
    case MOHIST_Q8_0: return {32, 32, 512};
    case MOHIST_Q4_0: return {32, 32, 256};
    case MOHIST_Q4_1: return {32, 64, 256};
    case MOHIST_Q4_K: return {256, 320, 256};
    case MOHIST_Q5_K: return {256, 320, 320};
    default: return {256, 288, 384};  // MOHIST_Q6_K
  }
}

constexpr bool is_quantized(int64_t format) { return format >= MOHIST_Q8_0; }

constexpr bool has_minimum(int64_t format) {
  return format == MOHIST_Q4_1 || format == MOHIST_Q4_K || format == MOHIST_Q5_K;
}

inline int64_t panel_bytes(const mohist_weight& w) {
  if (w.format == MOHIST_F32) return w.k * 64;
  if (w.format == MOHIST_BF16) return w.k * 32;
  const Layout layout = layout_of(w.format);
  return w.k / layout.values * layout.header + w.k / 32 * layout.block;
}

inline const uint8_t* panel_data(const mohist_weight& w, int64_t panel) {
  return static_cast<const uint8_t*>(w.data) + panel * panel_bytes(w);
}

// What a block holds for entry k of row c, before any scale.
inline int read_quant(int64_t format, const uint8_t* block, int64_t c, int k) {
  const int four = k / 4;
  const int64_t at = c * 4 + k % 4;
  if (format == MOHIST_Q8_0) return static_cast<int8_t>(block[64 * four + at]);
  const int low = k < 16 ? block[64 * four + at] & 15 : block[64 * (four - 4) + at] >> 4;
  if (format == MOHIST_Q4_0) return low - 8;
  if (format == MOHIST_Q5_K) return low | (block[256 + at] >> four & 1) << 4;
  if (format == MOHIST_Q6_K) return (low | (block[256 + 64 * (four / 4) + at] >> 2 * (four % 4) & 3) << 4) - 32;
  return low;
}

}  // namespace mohist
