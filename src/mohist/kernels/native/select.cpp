// Which keys a row attends to: scores of all that it could see, then the best of them.
#include <algorithm>

#include "ops.h"
#include "tile.h"

namespace mohist {
namespace {

struct Row {
  const mohist_select_args& a;
  const mohist_cache& cache;
  int64_t t, end;  // a multiple of 16: keys [0, end) are scored
  float* score;

  // The 16 keys from j on, [key_dim][16].
  const float* keys(int64_t j) const {
    const int32_t* table = a.plan->tables + a.plan->sequences[t] * a.plan->table_stride;
    return cache.keys + (table[j / cache.block_size] * cache.block_size + j % cache.block_size) * cache.key_dim;
  }

  // R heads from `first` on, added to the scores of those before them.
  struct Heads {
    const Row& row;
    int64_t first;

    template <int R> void run() const {
      const float* q[R];
      vp weight[R];
      repeat<R>([&](auto r) {
        q[r] = row.a.q + row.t * row.a.q_stride + (first + r) * row.a.q_head_stride;
        weight[r] = fill16(row.a.weights[row.t * row.a.weights_stride + first + r]);
      });
      for (int64_t j = 0; j < row.end; j += 16) {
        const float* const panel[1] = {row.keys(j)};
        Accumulators<R, 1> acc;
        acc.clear();
        acc.add_products(q, panel, row.cache.key_dim);
        vp sum = first ? load16(row.score + j) : fill16(0.0f);
        acc.each([&](auto r, auto, vp v) { sum = fma(weight[r], max(v, fill16(0.0f)), sum); });
        store(row.score + j, sum);
      }
    }
  };

  void run(int32_t* order) const {
    const Tiles tiles(a.heads);
    for (int64_t i = 0; i < tiles.count; i++) with_rows(tiles.size(i), Heads{*this, tiles.begin(i)});
    const int64_t count = a.plan->positions[t] + 1;
    for (int64_t j = 0; j < count; j++) order[j] = static_cast<int32_t>(j);
    const float* s = score;
    std::nth_element(order, order + a.top_k - 1, order + count,
                     [s](int32_t i, int32_t j) { return s[i] > s[j] || (s[i] == s[j] && i < j); });
    std::sort(order, order + a.top_k);
    std::copy(order, order + a.top_k, a.chosen + t * a.top_k);
  }
};

}  // namespace

void select(mohist_pool& pool, const mohist_select_args& a) {
  pool.parallel(a.rows, [&](int64_t t, int thread) {
    if (a.plan->positions[t] < a.top_k) return;
    const int64_t end = (a.plan->positions[t] / 16 + 1) * 16;
    float* score = pool.local(thread).get<float>(2 * end);
    Row{a, *a.cache, t, end, score}.run(reinterpret_cast<int32_t*>(score + end));
  });
}

}  // namespace mohist
