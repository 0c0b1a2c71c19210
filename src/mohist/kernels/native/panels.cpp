// Rows into panels and out of them.
#include <algorithm>

#include "layout.h"
#include "ops.h"
#include "simd.h"

namespace mohist {
namespace {

// Row c of a panel.
void embed_quantized(const mohist_weight& w, const uint8_t* panel, int64_t c, float* y) {
  const Layout layout = layout_of(w.format);
  for (int64_t group = w.k / layout.values; group > 0; group--) {
    const uint8_t* header = panel;
    const uint16_t* half = reinterpret_cast<const uint16_t*>(header);
    panel += layout.header;
    for (int64_t b = 0; b < layout.values / 32; b++, panel += layout.block) {
      float d[2], m = 0.0f;  // of both halves of the block
      d[0] = d[1] = f16_to_float(half[c]);
      if (has_minimum(w.format)) m = f16_to_float(half[16 + c]);
      if (w.format == MOHIST_Q4_K || w.format == MOHIST_Q5_K) {
        d[0] = d[1] = d[0] * static_cast<float>(header[64 + 16 * b + c]);
        m = -(m * static_cast<float>(header[192 + 16 * b + c]));
      } else if (w.format == MOHIST_Q6_K) {
        for (int h = 0; h < 2; h++) d[h] = d[h] * static_cast<float>(static_cast<int8_t>(header[32 + 32 * b + 16 * h + c]));
      }
      for (int k = 0; k < 32; k++) {
        const float value = d[k / 16] * static_cast<float>(read_quant(w.format, panel, c, k));
        *y++ = has_minimum(w.format) ? value + m : value;
      }
    }
  }
}

}  // namespace

void embed(mohist_pool& pool, const mohist_embed_args& a) {
  const mohist_weight& w = *a.weight;
  pool.parallel(a.rows, [&](int64_t t, int) {
    const int64_t n = a.tokens[t], c = n % 16;
    const uint8_t* panel = panel_data(w, n / 16);
    float* y = a.y + t * a.y_stride;
    if (w.format == MOHIST_F32) {
      for (int64_t k = 0; k < w.k; k++) y[k] = reinterpret_cast<const float*>(panel)[k * 16 + c];
    } else if (w.format == MOHIST_BF16) {
      for (int64_t k = 0; k < w.k; k++) y[k] = bf16_to_float(reinterpret_cast<const uint16_t*>(panel)[k * 16 + c]);
    } else {
      embed_quantized(w, panel, c, y);
    }
  });
}

namespace {

template <class T> void pack_panel(const mohist_pack_args& a, int64_t panel) {
  const T* rows = static_cast<const T*>(a.rows) + panel * 16 * a.row_stride;
  T* out = static_cast<T*>(a.panels) + panel * 16 * a.k;
  const int64_t columns = std::min<int64_t>(16, a.n - panel * 16);
  for (int64_t k0 = 0; k0 < a.k; k0 += 16)  // squares of 16 x 16: whole cache lines in and out
    for (int64_t c = 0; c < 16; c++)
      for (int64_t k = k0; k < std::min(a.k, k0 + 16); k++) out[k * 16 + c] = c < columns ? rows[c * a.row_stride + k] : T{};
}

}  // namespace

void pack(mohist_pool& pool, const mohist_pack_args& a) {
  pool.parallel((a.n + 15) / 16, [&](int64_t panel, int) {
    if (a.format == MOHIST_F32) pack_panel<float>(a, panel);
    else pack_panel<uint16_t>(a, panel);
  });
}

}  // namespace mohist
