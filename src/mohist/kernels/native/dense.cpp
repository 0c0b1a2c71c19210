// Blocks of c stay in the cache of a core. For every block, slices of a and b are packed in the order in which the
// register tiles read them: b in panels of 16 columns, a (when it lies transposed) in runs of as many rows as a tile has.
#include "dense.h"

#include <algorithm>

#include "ops.h"
#include "tile.h"

namespace mohist {
namespace {

constexpr int64_t kDepth = 256;         // contraction steps between two visits to c
constexpr int64_t kBlockRows = 384;     // of c, in a task
constexpr int64_t kBlockColumns = 384;
constexpr int64_t kStripe = 8;          // contraction steps that are packed together
// Numbers between packed panels: not a power of two, or all would compete for the same few lines of the first-level cache.
constexpr int64_t kPanel = 16 * kDepth + 16;
// What it costs to pack a number of a and of b, in multiply-adds; and to wait, in tasks.
constexpr double kPackA = 12.0, kPackB = 6.0, kWait = 0.2;

int64_t at(const int32_t* index, int64_t i) { return index ? index[i] : i; }

// How c is cut into tasks: large blocks, whose packing is shared by many tiles, but as many for one thread as for another.
struct Cut {
  int64_t row_blocks = 1, column_blocks = 1;

  Cut(const mohist_product& p, int64_t threads) {
    const int64_t panels = (p.n + 15) / 16, least_rows = up(p.m, kBlockRows), least_columns = up(p.n, kBlockColumns);
    double best = 0.0;
    for (int64_t r = least_rows; r <= std::min(p.m, 4 * least_rows); r++)
      for (int64_t c = least_columns; c <= std::min(panels, 4 * least_columns); c++) {
        // a thread's tasks, and what it waits for the last of the others
        const double rounds = static_cast<double>(up(r * c, threads)) + (threads > 1 ? kWait : 0.0);
        const double busy = static_cast<double>(r * c) / (rounds * static_cast<double>(threads));
        const double rows = static_cast<double>(p.m) / static_cast<double>(r), columns = static_cast<double>(p.n) / static_cast<double>(c);
        const double good = busy / (1.0 + kPackA / columns + kPackB / rows);
        if (good > best) best = good, row_blocks = r, column_blocks = c;
      }
  }
  static int64_t up(int64_t n, int64_t by) { return (n + by - 1) / by; }
  int64_t tasks() const { return row_blocks * column_blocks; }
};

// Rows [row, row + rows) and columns [column, column + columns) of a product's result.
class Block {
 public:
  Block(const mohist_product& p, int64_t row, int64_t rows, int64_t column, int64_t columns, Scratch& scratch)
      : p_(p), row_(row), column_(column), columns_(columns), panels_((columns + 15) / 16), tiles_(rows) {
    packed_b_ = scratch.get<float>(kPanel * panels_ + kDepth * rows);
    packed_a_ = packed_b_ + kPanel * panels_;
  }

  void run() {
    if (!p_.k && !p_.add) clear();
    for (int64_t begin = 0; begin < p_.k; begin += kDepth) {
      begin_ = begin;
      depth_ = std::min(kDepth, p_.k - begin);
      pack_b();
      if (p_.transposed) pack_a();
      // all tiles against few panels at a time, which stay in the first-level cache
      const int64_t step = tiles_.count == 1 ? panels_ : tile_panels<kTileRows>();
      for (int64_t panel = 0; panel < panels_; panel += step)
        for (int64_t t = 0; t < tiles_.count; t++)
          with_rows(tiles_.size(t), Tile{*this, t, panel, std::min(panels_, panel + step)});
    }
  }

 private:
  struct Tile {
    const Block& block;
    int64_t index, panel, end;
    template <int R> void run() const {
      constexpr int P = tile_panels<R>();
      int64_t i = panel;
      for (; i + P <= end; i += P) block.tile<R, P>(index, i);
      for (; i < end; i++) block.tile<R, 1>(index, i);
    }
  };

  template <int R, int P> void tile(int64_t index, int64_t panel) const {
    const int64_t first = tiles_.begin(index);
    const float* b[P];
    repeat<P>([&](auto j) { b[j] = packed_b_ + (panel + j) * kPanel; });
    Accumulators<R, P> acc;
    if (begin_ || p_.add) acc.each([&](auto r, auto j, vp& v) { v = load16(place(first + r, panel + j), columns_ - 16 * (panel + j)); });
    else acc.clear();
    if (p_.transposed) {
      add_outer_products(acc, packed_a_ + first * kDepth, R, b, depth_);
    } else {
      const float* a[R];
      repeat<R>([&](auto r) { a[r] = p_.a + at(p_.a_index, row_ + first + r) * p_.a_stride + begin_; });
      acc.add_products(a, b, depth_);
    }
    acc.each([&](auto r, auto j, vp v) { store(place(first + r, panel + j), v, columns_ - 16 * (panel + j)); });
  }

  float* place(int64_t row, int64_t panel) const { return p_.c + (row_ + row) * p_.c_stride + column_ + 16 * panel; }

  void pack_b() {
    for (int64_t i = 0; i < depth_; i++) {
      const float* b = p_.b + at(p_.b_index, begin_ + i) * p_.b_stride + column_;
      float* out = packed_b_ + 16 * i;
      int64_t c = 0;
      for (; c + 16 <= columns_; c += 16, out += kPanel) store(out, load16(b + c));
      if (c == columns_) continue;
      std::fill_n(std::copy_n(b + c, columns_ - c, out), 16 - (columns_ - c), 0.0f);
    }
  }

  // A few rows at a time, so that a cache line which tiles share is read once.
  void pack_a() {
    for (int64_t begin = 0; begin < depth_; begin += kStripe) {
      const int64_t end = std::min(depth_, begin + kStripe);
      for (int64_t t = 0; t < tiles_.count; t++) {
        const int64_t first = tiles_.begin(t), size = tiles_.size(t);
        float* out = packed_a_ + first * kDepth + begin * size;
        for (int64_t i = begin; i < end; i++, out += size) {
          const float* a = p_.a + at(p_.a_index, begin_ + i) * p_.a_stride + row_ + first;
          if (size == kTileRows) memcpy(out, a, kTileRows * sizeof(float));  // of a known size: two moves
          else std::copy_n(a, size, out);
        }
      }
    }
  }

  void clear() const {
    for (int64_t r = 0; r < tiles_.rows; r++) std::fill_n(place(r, 0), columns_, 0.0f);
  }

  const mohist_product& p_;
  int64_t row_, column_, columns_, panels_;
  Tiles tiles_;
  float *packed_a_, *packed_b_;
  int64_t begin_ = 0, depth_ = 0;  // the slice of the contraction that is packed
};

}  // namespace

void multiply(mohist_pool& pool, const mohist_product* products, int64_t count) {
  // Products that add up to one result, and the tasks that all of them are cut into.
  struct Sum {
    int64_t first, last;
    Cut cut;
    int64_t end;  // of its tasks
  };
  Sum* sums = pool.shared(7).get<Sum>(count);
  int64_t num_sums = 0, total = 0;
  for (int64_t i = 0; i < count; i++) {
    const mohist_product& p = products[i];
    if (i && p.add && p.c == products[i - 1].c && p.m == products[i - 1].m) {  // those of no rows may share their place
      sums[num_sums - 1].last = i;
      continue;
    }
    const Cut cut(p, pool.threads());
    sums[num_sums++] = {i, i, cut, total += p.m && p.n ? cut.tasks() : 0};
  }
  pool.parallel(total, [&](int64_t task, int thread) {
    const Sum* sum = std::upper_bound(sums, sums + num_sums, task, [](int64_t t, const Sum& s) { return t < s.end; });
    const mohist_product& p = products[sum->first];
    const Cut& cut = sum->cut;
    const int64_t index = task - (sum == sums ? 0 : sum[-1].end), r = index / cut.column_blocks, c = index % cut.column_blocks;
    const int64_t panels = (p.n + 15) / 16;
    const int64_t row = p.m * r / cut.row_blocks, row_end = p.m * (r + 1) / cut.row_blocks;
    const int64_t column = panels * c / cut.column_blocks * 16;
    const int64_t column_end = std::min(p.n, panels * (c + 1) / cut.column_blocks * 16);
    for (int64_t i = sum->first; i <= sum->last; i++)
      Block(products[i], row, row_end - row, column, column_end - column, pool.local(thread)).run();
  });
}

void products(mohist_pool& pool, const mohist_products_args& a) { multiply(pool, a.products, a.count); }

}  // namespace mohist
