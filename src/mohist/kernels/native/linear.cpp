#include "linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tile.h"

#if defined(MOHIST_AVX512) && defined(__AVX512VNNI__)
#define MOHIST_VNNI 1
#endif

namespace mohist {
namespace {

constexpr int64_t kNumbersPerTask = 131072;  // activations that stay in the second-level cache, but no fewer rows than
constexpr int64_t kLeastRows = 48;           // these, nor more than
constexpr int64_t kMostRows = 144;           // those, for which weights from memory come as fast as they are used
constexpr int64_t kPanelsPerTask = 16;  // at most

int64_t block_bytes(int64_t format) { return format == MOHIST_Q8_0 ? 544 : format == MOHIST_Q4_0 ? 288 : 320; }

int64_t panel_bytes(const mohist_weight& w) {
  if (w.format == MOHIST_F32) return w.k * 64;
  if (w.format == MOHIST_BF16) return w.k * 32;
  return w.k / 32 * block_bytes(w.format);
}

const uint8_t* panel_data(const mohist_weight& w, int64_t panel) {
  return static_cast<const uint8_t*>(w.data) + panel * panel_bytes(w);
}

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

// R rows against one panel: the integer sums of a block, value(r) as numbers.
#ifdef MOHIST_VNNI

// One instruction adds four products of unsigned and signed bytes to each of 16 sums. Weights are the unsigned operand:
// the nibbles as they are, bytes with 128 added. What that adds to the sums, they begin with taken off.
template <int Format, int R> struct BlockSums {
  static constexpr int kChains = R == 1 ? 4 : R == 2 ? 2 : 1;  // sums side by side, so that none waits for itself
  __m512i s[R][kChains];

  // w: the quants of a block of 16 columns.
  MOHIST_INLINE void compute(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
    repeat<R>([&](auto r) {
      repeat<kChains>([&](auto i) { s[r][i] = _mm512_setzero_si512(); });
      if constexpr (Format == MOHIST_Q8_0) s[r][0] = _mm512_set1_epi32(x[r]->minus_128_sums);
      if constexpr (Format == MOHIST_Q4_0) s[r][0] = _mm512_set1_epi32(x[r]->minus_8_sums);
    });
    if constexpr (Format == MOHIST_Q8_0) {
      const __m512i flip = _mm512_set1_epi8(-128);
      repeat<8>([&](auto g) { add_fours(g, _mm512_xor_si512(load(w + 64 * g), flip), x, 4 * g); });
    } else {
      const __m512i mask = _mm512_set1_epi8(15);
      repeat<4>([&](auto g) {
        const __m512i v = load(w + 64 * g);
        add_fours(number<2 * g>{}, _mm512_and_si512(v, mask), x, 4 * g);
        add_fours(number<2 * g + 1>{}, _mm512_and_si512(_mm512_srli_epi16(v, 4), mask), x, 16 + 4 * g);
      });
    }
  }

  MOHIST_INLINE vp value(int r) const {
    __m512i total = s[r][0];
    repeat<kChains - 1>([&](auto i) { total = _mm512_add_epi32(total, s[r][i + 1]); });
    return _mm512_cvtepi32_ps(total);
  }

  static MOHIST_INLINE __m512i load(const uint8_t* w) { return _mm512_loadu_si512(w); }
  // Written out, since the compiler spends an instruction of its own on every broadcast.
  static MOHIST_INLINE __m512i add_products(__m512i sum, __m512i w, const int8_t* four) {
    using Word = int32_t __attribute__((may_alias, aligned(1)));
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const Word*>(four)));
    return sum;
  }
  template <class I> MOHIST_INLINE void add_fours(I, __m512i w, const QuantizedBlock* const (&x)[R], int at) {
    repeat<R>([&](auto r) {
      constexpr int i = I::value % kChains;
      s[r][i] = add_products(s[r][i], w, x[r]->q + at);
    });
  }
};

constexpr int64_t kQuantizedRows = 8;

#else

template <int Format, int R> struct BlockSums {
  vi s[R][2];

  // w: the quants of a block of 16 columns.
  MOHIST_INLINE void compute(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
    each([&](auto r, auto c) { s[r][c] = iset1(0); });
    if constexpr (Format == MOHIST_Q8_0) bytes(w, x);
    else nibbles(w, x);
    if constexpr (Format == MOHIST_Q4_0) each([&](auto r, auto c) { s[r][c] = iadd(s[r][c], iset1(x[r]->minus_8_sums)); });
  }

  MOHIST_INLINE vp value(int r) const { return pair(to_float(s[r][0]), to_float(s[r][1])); }

  template <class F> static MOHIST_INLINE void each(const F& f) {
    repeat<R>([&](auto r) { repeat<2>([&](auto c) { f(r, c); }); });
  }

#ifdef MOHIST_AVX2
  static MOHIST_INLINE vi broadcast4(const int8_t* q) {
    int32_t word;
    memcpy(&word, q, 4);
    return _mm256_set1_epi32(word);
  }
  // Adds in this order and no other: compilers regroup integer sums and then run out of registers.
  static MOHIST_INLINE vi add_words(vi sum, vi a) {
    vi total = _mm256_add_epi16(sum, a);
    asm("" : "+x"(total));
    return total;
  }
  static MOHIST_INLINE vi add_dwords(vi sum, vi a) {
    vi total = _mm256_add_epi32(sum, a);
    asm("" : "+x"(total));
    return total;
  }
  static MOHIST_INLINE vi add_pairs(vi a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }

  // |w| times x with w's sign: two products of at most 128 * 127 fit in 16 bits.
  MOHIST_INLINE void bytes(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
#pragma GCC unroll 2
    for (int g = 0; g < 8; g++) {
      const vi v[2] = {iload(w + 64 * g), iload(w + 64 * g + 32)};
      const vi size[2] = {_mm256_abs_epi8(v[0]), _mm256_abs_epi8(v[1])};
      repeat<R>([&](auto r) {
        const vi b = broadcast4(x[r]->q + 4 * g);
        repeat<2>([&](auto c) {
          s[r][c] = add_dwords(s[r][c], add_pairs(_mm256_maddubs_epi16(size[c], _mm256_sign_epi8(b, v[c]))));
        });
      });
    }
  }

  // Sixteen products of at most 15 * 127 fit in 16 bits: pairs are added only once a block.
  MOHIST_INLINE void nibbles(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
    const vi mask = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int g = 0; g < 4; g++) {
      const vi v[2] = {iload(w + 64 * g), iload(w + 64 * g + 32)};
      const vi low[2] = {iand(v[0], mask), iand(v[1], mask)};
      const vi high[2] = {iand(_mm256_srli_epi16(v[0], 4), mask), iand(_mm256_srli_epi16(v[1], 4), mask)};
      repeat<R>([&](auto r) {
        const vi b = broadcast4(x[r]->q + 4 * g), t = broadcast4(x[r]->q + 16 + 4 * g);
        repeat<2>([&](auto c) {
          s[r][c] = add_words(s[r][c], _mm256_maddubs_epi16(low[c], b));
          s[r][c] = add_words(s[r][c], _mm256_maddubs_epi16(high[c], t));
        });
      });
    }
    each([&](auto r, auto c) { s[r][c] = add_pairs(s[r][c]); });
  }
#else
  void bytes(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
    for (int g = 0; g < 8; g++)
      for (int r = 0; r < R; r++)
        for (int c = 0; c < 16; c++)
          for (int i = 0; i < 4; i++)
            s[r][c / 8][c % 8] += static_cast<int8_t>(w[64 * g + 4 * c + i]) * x[r]->q[4 * g + i];
  }
  void nibbles(const uint8_t* w, const QuantizedBlock* const (&x)[R]) {
    for (int g = 0; g < 4; g++)
      for (int r = 0; r < R; r++)
        for (int c = 0; c < 16; c++)
          for (int i = 0; i < 4; i++) {
            const uint8_t byte = w[64 * g + 4 * c + i];
            s[r][c / 8][c % 8] += (byte & 15) * x[r]->q[4 * g + i] + (byte >> 4) * x[r]->q[16 + 4 * g + i];
          }
  }
#endif
};

constexpr int64_t kQuantizedRows = 4;

#endif

// Weights come from memory: ask for them ahead of time. With few rows, at the pace of the loop; else the first tile of
// rows asks for the panel after the one that all tiles read.
constexpr int64_t kPrefetchBytes = 3072;
inline void prefetch_all(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) prefetch(p + i);
}

template <int Format> struct QuantizedTile {
  static constexpr int64_t kRows = kQuantizedRows;
  const Product& p;
  int64_t row, panel, panels;
  bool first;  // of the tiles of rows

  template <int R> void tile(int64_t at) const {
    const int64_t blocks = p.weight->k / 32;
    const uint8_t* w = panel_data(*p.weight, at);
    const QuantizedBlock* x[R];
    repeat<R>([&](auto r) { x[r] = p.quantized.row(source_row(p, row + r)); });
    const int64_t ahead = R <= 2 ? kPrefetchBytes : panel_bytes(*p.weight);
    Accumulators<R, 1> acc;
    acc.clear();
    for (int64_t b = 0; b < blocks; b++) {
      const uint16_t* scales = reinterpret_cast<const uint16_t*>(w);
      constexpr int64_t header = Format == MOHIST_Q4_1 ? 64 : 32, quants = Format == MOHIST_Q8_0 ? 512 : 256;
      if (first) prefetch_all(w + ahead, header + quants);
      BlockSums<Format, R> sums;
      sums.compute(w + header, x);
      const vp d = load16_f16(scales);
      acc.each([&](auto r, auto, vp& a) { a = fma(mul(d, fill16(x[r]->d)), sums.value(r), a); });
      if (Format == MOHIST_Q4_1) {
        const vp m = load16_f16(scales + 16);
        acc.each([&](auto r, auto, vp& a) { a = fma(m, fill16(x[r]->d_sum), a); });
      }
      repeat<R>([&](auto r) { x[r]++; });
      w += header + quants;
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
    default: run_rows<QuantizedTile<MOHIST_Q4_1>>(p, row, rows, panel, panels); break;
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
    const int64_t least = threads * (p.rows <= 4 ? 3 : 6);
    run = threads == 1 ? panels : std::min((panels + least - 1) / least, kPanelsPerTask);
    panel_runs = (panels + run - 1) / run;
  }
  int64_t tasks() const { return row_blocks * panel_runs; }
};

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
    const vi total = iadd(iadd(n[0], n[1]), iadd(n[2], n[3]));
    int32_t t[8];
    memcpy(t, &total, 32);
    int32_t s = 0;
    for (int i = 0; i < 8; i++) s += t[i];
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
      for (int64_t b = 0; b < w.k / 32; b++, panel += block_bytes(w.format)) {
        const uint16_t* half = reinterpret_cast<const uint16_t*>(panel);
        const float d = f16_to_float(half[c]), m = w.format == MOHIST_Q4_1 ? f16_to_float(half[16 + c]) : 0.0f;
        const uint8_t* q = panel + (w.format == MOHIST_Q4_1 ? 64 : 32);
        for (int k = 0; k < 32; k++) {
          const uint8_t byte = q[(w.format == MOHIST_Q8_0 ? k / 4 : k % 16 / 4) * 64 + c * 4 + k % 4];
          const int v = w.format == MOHIST_Q8_0 ? static_cast<int8_t>(byte)
                                                : (k < 16 ? byte & 15 : byte >> 4) - (w.format == MOHIST_Q4_0 ? 8 : 0);
          const float value = d * static_cast<float>(v);
          y[32 * b + k] = w.format == MOHIST_Q4_1 ? value + m : value;
        }
      }
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
