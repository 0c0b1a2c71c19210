#include "linear.h"

#include <algorithm>

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
    const ActivationBlock<Format>* x[R];
    repeat<R>([&](auto r) { x[r] = p.quantized.row<ActivationBlock<Format>>(source_row(p, row + r)); });
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
        if constexpr (has_minimum(Format)) {
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

}  // namespace

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
  const QuantizedRows quantized = quantize_rows(pool, a.weights, a.num_weights, a.x, a.x_stride, a.rows, a.weights[0].k);
  int64_t column = 0;
  for (int64_t i = 0; i < a.num_weights; i++) {
    const mohist_weight& w = a.weights[i];
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
  const int64_t k = a.weights[0].k;
  QuantizedRows rows;
  if (is_quantized(a.weights[0].format)) {  // every head of every row is a row of its own
    float* flat = pool.shared(2).get<float>(a.rows * a.groups * k);
    for (int64_t t = 0; t < a.rows; t++)
      for (int64_t g = 0; g < a.groups; g++)
        memcpy(flat + (g * a.rows + t) * k, a.x + t * a.x_stride + g * a.x_group_stride, k * sizeof(float));
    rows = quantize_rows(pool, a.weights, a.groups, flat, k, a.rows * a.groups, k);
  }
  for (int64_t g = 0; g < a.groups; g++) {
    products[g] = {&a.weights[g], a.x + g * a.x_group_stride, a.x_stride, rows.from(g * a.rows), nullptr, a.rows,
                   a.y + g * a.y_group_stride, a.y_stride, nullptr, nullptr, 0};
  }
  multiply(pool, products, a.groups);
}

}  // namespace mohist
