#include "linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "block_sums.h"
#include "layout.h"
#include "tile.h"

namespace mohist {
namespace {

constexpr int64_t kNumbersPerTask = 131072;  // activations that stay in the second-level cache, but no fewer rows than
constexpr int64_t kLeastRows = 48;           // these, nor more than
constexpr int64_t kMostRows = 144;           // those, for which weights from memory come as fast as they are used
constexpr int64_t kPanelsPerTask = 16;  // at most
constexpr int64_t kFewRows = 4;         // which use weights faster than they come from memory
constexpr int64_t kExpectBytes = 1 << 19;  // what a thread takes in advance: half of its second-level cache
constexpr int64_t kApartBytes = 4096;      // weights side by side have less than this between them

// Adds bias and residual to 16 columns of a row and writes those that exist.
inline void finish(const Product& p, int64_t row, int64_t column, vp value) {
  const int64_t columns = p.weight->n - column;
  float* y = p.y + row * p.y_stride + column;
  const float* residual = p.residual ? p.residual + row * p.residual_stride + column : nullptr;
  if (columns >= 16) {
    if (p.bias) value = add(value, load16(p.bias + column));
    if (residual) value = add(load16(residual), value);
    store(y, value);
    return;
  }
  float v[16];
  store(v, value);
  for (int64_t c = 0; c < columns; c++) {
    if (p.bias) v[c] = v[c] + p.bias[column + c];
    y[c] = residual ? residual[c] + v[c] : v[c];
  }
}

int64_t source_row(const Product& p, int64_t row) { return p.index ? p.index[row] : row; }

// ---- float weights ----------------------------------------------------------------------------------------------

template <class W> struct FloatTile {
  static constexpr int64_t kRows = kTileRows;
  const Product& p;
  int64_t row, panel, panels;  // panels: how many are left for this task
  bool first;                  // of the tiles of rows

  template <int R, int P> void tile(int64_t at) const {
    const float* x[R];
    repeat<R>([&](auto r) { x[r] = p.x + source_row(p, row + r) * p.x_stride; });
    const W* w[P];
    repeat<P>([&](auto j) { w[j] = reinterpret_cast<const W*>(panel_data(*p.weight, at + j)); });
    Accumulators<R, P> acc;
    acc.clear();
    // the next panels of the run; who need not ask for them asks for what is there
    const int64_t ahead = first ? P * 16 * p.weight->k : 0;
    if constexpr (R > 2)
      acc.add_products(x, w, p.weight->k, 16, [&](int64_t k) MOHIST_INLINE_LAMBDA {
        repeat<P>([&](auto j) { prefetch(w[j] + ahead + 16 * k); });
      });
    else
      acc.add_products(x, w, p.weight->k);
    acc.each([&](int r, int j, vp value) { finish(p, row + r, (at + j) * 16, value); });
  }

  template <int R> void run() const {
    constexpr int P = tile_panels<R>();
    int64_t i = 0;
    for (; i + P <= panels; i += P) tile<R, P>(panel + i);
    for (; i < panels; i++) tile<R, 1>(panel + i);
  }
};

// ---- quantised weights ------------------------------------------------------------------------------------------

// Weights come from memory: ask for them ahead of time. With few rows, at the pace of the loop; else the first tile of
// rows asks for the panel after the one that all tiles read.
constexpr int64_t kPrefetchBytes = 3072;
inline void prefetch_all(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) prefetch(p + i);
}

// The scales of 16 columns: of block b, d and, in some formats, what is added to d times a quant.
template <int Format> struct Header {
  static constexpr bool kSmallScales = Format == MOHIST_Q4_K || Format == MOHIST_Q5_K;
  const uint8_t* at;

  MOHIST_INLINE vp half(int i) const { return load16_f16(reinterpret_cast<const uint16_t*>(at) + 16 * i); }
  MOHIST_INLINE vp d(int64_t b) const { return kSmallScales ? mul(half(0), load16_u8(at + 64 + 16 * b)) : half(0); }
  MOHIST_INLINE vp minimum(int64_t b) const {
    return kSmallScales ? mul(mul(half(1), fill16(-1.0f)), load16_u8(at + 192 + 16 * b)) : half(1);
  }
  MOHIST_INLINE const int8_t* half_scales(int64_t b) const { return reinterpret_cast<const int8_t*>(at) + 32 + 32 * b; }
};

template <int Format> struct QuantizedTile {
  static constexpr int64_t kRows = kQuantizedRows;
  static constexpr Layout kLayout = layout_of(Format);
  const Product& p;
  int64_t row, panel, panels;
  bool first;  // of the tiles of rows

  template <int R> void tile(int64_t at) const {
    const uint8_t* w = panel_data(*p.weight, at);
    const QuantizedBlock* x[R];
    repeat<R>([&](auto r) { x[r] = p.quantized.row(source_row(p, row + r)); });
    const int64_t ahead = R <= 2 ? kPrefetchBytes : panel_bytes(*p.weight);
    Accumulators<R, 1> acc;
    acc.clear();
    for (int64_t group = p.weight->k / kLayout.values; group > 0; group--) {
      const Header<Format> header{w};
      if (first) prefetch_all(w + ahead, kLayout.header);
      w += kLayout.header;
      for (int64_t b = 0; b < kLayout.values / 32; b++) {
        if (first) prefetch_all(w + ahead, kLayout.block);
        BlockSums<Format, R> block;
        block.compute(w, header.half_scales(b), x);
        const vp d = header.d(b);
        acc.each([&](auto r, auto, vp& a) { a = fma(mul(d, fill16(x[r]->d)), block.sums[r], a); });
        if (has_minimum(Format)) {
          const vp m = header.minimum(b);
          acc.each([&](auto r, auto, vp& a) { a = fma(m, fill16(x[r]->d_sum), a); });
        }
        repeat<R>([&](auto r) { x[r]++; });
        w += kLayout.block;
      }
    }
    acc.each([&](int r, int, vp value) { finish(p, row + r, at * 16, value); });
  }

  template <int R> void run() const {
    for (int64_t i = 0; i < panels; i++) tile<R>(panel + i);
  }
};

template <class Tile> void run_rows(const Product& p, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  const Tiles tiles(rows, Tile::kRows);
  // all rows against one panel at a time, which stays in the first-level cache
  const int64_t step = tiles.count == 1 ? panels : 1;
  for (int64_t i = 0; i < panels; i += step)
    for (int64_t t = 0; t < tiles.count; t++)
      with_rows<Tile::kRows>(tiles.size(t), Tile{p, row + tiles.begin(t), panel + i, std::min(step, panels - i), t == 0});
}

void run_block(const Product& p, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  switch (p.weight->format) {
    case MOHIST_F32: run_rows<FloatTile<float>>(p, row, rows, panel, panels); break;
    case MOHIST_BF16: run_rows<FloatTile<uint16_t>>(p, row, rows, panel, panels); break;
    case MOHIST_Q8_0: run_rows<QuantizedTile<MOHIST_Q8_0>>(p, row, rows, panel, panels); break;
    case MOHIST_Q4_0: run_rows<QuantizedTile<MOHIST_Q4_0>>(p, row, rows, panel, panels); break;
    case MOHIST_Q4_1: run_rows<QuantizedTile<MOHIST_Q4_1>>(p, row, rows, panel, panels); break;
    case MOHIST_Q4_K: run_rows<QuantizedTile<MOHIST_Q4_K>>(p, row, rows, panel, panels); break;
    case MOHIST_Q5_K: run_rows<QuantizedTile<MOHIST_Q5_K>>(p, row, rows, panel, panels); break;
    default: run_rows<QuantizedTile<MOHIST_Q6_K>>(p, row, rows, panel, panels); break;
  }
}

// How a product is cut into tasks: blocks of rows times runs of panels. As many for every thread, a few more than one
// so that a thread which comes late is helped; long runs, since the first panel of each comes unasked from memory.
struct Cut {
  int64_t row_blocks, panel_runs, panels, run;
  Cut(const Product& p, int threads) {
    panels = (p.weight->n + 15) / 16;
    const int64_t rows = std::clamp(kNumbersPerTask / p.weight->k, kLeastRows, kMostRows);
    row_blocks = (p.rows + rows - 1) / rows;
    const int64_t least = threads * (p.rows <= kFewRows ? 3 : 6);
    run = threads == 1 ? panels : std::min((panels + least - 1) / least, kPanelsPerTask);
    panel_runs = (panels + run - 1) / run;
  }
  int64_t tasks() const { return row_blocks * panel_runs; }
};

int32_t total(vi a) {
  int32_t lanes[8], sum = 0;
  memcpy(lanes, &a, 32);
  for (int32_t lane : lanes) sum += lane;
  return sum;
}

void quantize_row(const float* x, int64_t count, QuantizedBlock* blocks) {
  for (int64_t b = 0; b < count; b++, x += 32) {
    QuantizedBlock& block = blocks[b];
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
    float scale = l[0] / 127.0f;
    if (scale < std::numeric_limits<float>::min()) scale = 0.0f;
    const vf inverse = set1(scale > 0.0f ? 1.0f / scale : 0.0f);
    vi n[4];
    for (int i = 0; i < 4; i++) n[i] = to_int(mul(v[i], inverse));
    const int32_t first = total(iadd(n[0], n[1])), second = total(iadd(n[2], n[3])), s = first + second;
#ifdef MOHIST_AVX2
    const vi words = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    const vi ordered = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<vi*>(block.q), ordered);
#else
    for (int i = 0; i < 32; i++) block.q[i] = static_cast<int8_t>(n[i / 8][i % 8]);
#endif
    block.d = scale;
    block.d_sum = scale * static_cast<float>(s);
    block.minus_8_sums = -8 * s;
    block.minus_128_sums = -128 * s;
    block.minus_32_sums[0] = -32 * first;
    block.minus_32_sums[1] = -32 * second;
  }
}

}  // namespace

bool is_quantized(const mohist_weight& weight) { return weight.format >= MOHIST_Q8_0; }

QuantizedRows quantize_rows(mohist_pool& pool, int slot, const float* x, int64_t stride, int64_t rows, int64_t k) {
  const int64_t per_row = k / 32, per_task = std::max<int64_t>(1, 16384 / k);
  QuantizedBlock* blocks = pool.shared(slot).get<QuantizedBlock>(rows * per_row);
  pool.parallel((rows + per_task - 1) / per_task, [&](int64_t task, int) {
    for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); r++)
      quantize_row(x + r * stride, per_row, blocks + r * per_row);
  });
  return {blocks, per_row};
}

void multiply(mohist_pool& pool, const Product* products, int64_t count) {
  int64_t* first = pool.shared(7).get<int64_t>(count + 1);  // the first task of each product
  first[0] = 0;
  for (int64_t i = 0; i < count; i++) first[i + 1] = first[i] + Cut(products[i], pool.threads()).tasks();
  pool.parallel(first[count], [&](int64_t task, int) {
    const int64_t i = std::upper_bound(first, first + count, task) - first - 1;
    const Product& p = products[i];
    const Cut cut(p, pool.threads());
    const int64_t run = (task - first[i]) % cut.panel_runs, block = (task - first[i]) / cut.panel_runs;
    const int64_t begin = p.rows * block / cut.row_blocks, end = p.rows * (block + 1) / cut.row_blocks;
    run_block(p, begin, end - begin, run * cut.run, std::min(cut.run, cut.panels - run * cut.run));
  });
}

void linear(mohist_pool& pool, const mohist_linear_args& a) {
  Product* products = pool.shared(6).get<Product>(a.num_weights);
  QuantizedRows quantized;
  int64_t column = 0;
  for (int64_t i = 0; i < a.num_weights; i++) {
    const mohist_weight& w = a.weights[i];
    if (is_quantized(w) && !quantized.blocks) quantized = quantize_rows(pool, 0, a.x, a.x_stride, a.rows, w.k);
    products[i] = {&w, a.x, a.x_stride, quantized, nullptr, a.rows, a.y + column, a.y_stride,
                   a.bias ? a.bias + column : nullptr, a.residual ? a.residual + column : nullptr, a.residual_stride};
    column += w.n;
  }
  multiply(pool, products, a.num_weights);
}

void expect_weights(mohist_pool& pool, const mohist_linear_args& a) {
  if (a.rows > kFewRows) return;
  int64_t bytes = 0;
  for (int64_t i = 0; i < a.num_weights; i++) bytes += (a.weights[i].n + 15) / 16 * panel_bytes(a.weights[i]);
  const mohist_weight &first = a.weights[0], &last = a.weights[a.num_weights - 1];
  const uint8_t *begin = panel_data(first, 0), *end = panel_data(last, (last.n + 15) / 16);
  if (end - begin > bytes + kApartBytes * a.num_weights) return;
  pool.expect(begin, end, std::min(bytes / pool.threads() / 1024 * 1024, kExpectBytes));
}

void linear_grouped(mohist_pool& pool, const mohist_linear_grouped_args& a) {
  Product* products = pool.shared(6).get<Product>(a.groups);
  const bool quantized = is_quantized(a.weights[0]);
  const int64_t k = a.weights[0].k;
  QuantizedRows rows;
  if (quantized) {  // every head of every row is a row of its own
    float* flat = pool.shared(1).get<float>(a.rows * a.groups * k);
    for (int64_t t = 0; t < a.rows; t++)
      for (int64_t g = 0; g < a.groups; g++)
        memcpy(flat + (g * a.rows + t) * k, a.x + t * a.x_stride + g * a.x_group_stride, k * sizeof(float));
    rows = quantize_rows(pool, 0, flat, k, a.rows * a.groups, k);
  }
  for (int64_t g = 0; g < a.groups; g++) {
    const QuantizedRows own = quantized ? rows.from(g * a.rows) : rows;
    products[g] = {&a.weights[g], a.x + g * a.x_group_stride, a.x_stride, own, nullptr, a.rows,
                   a.y + g * a.y_group_stride, a.y_stride, nullptr, nullptr, 0};
  }
  multiply(pool, products, a.groups);
}

}  // namespace mohist
