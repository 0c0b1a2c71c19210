// Causal attention over the paged cache, in tiles of (row, head) pairs that share a sequence and a key/value head.
//
// A group of 16 keys lies transposed in the cache, [key_dim][16]: just like a panel of weights, so scores come from
// the same register tile as matrix products. Values [16][value_dim] are a panel for the weighted sum. In the latent
// form the value is the key, transposed: there the 16 exponentials of 16 pairs are the panel and the latent rows
// are what is broadcast. Either way every sum runs over one ascending index with one accumulator.
#include "ops.h"

#include <algorithm>
#include <limits>

#include "elementary.h"
#include "tile.h"

namespace mohist {
namespace {

constexpr int64_t kLatentPairs = 16;

struct Task {
  int64_t row, head, pair, pairs;  // pairs [pair, pair + pairs) of the run of rows that begins at `row`
};

struct Attention {
  const mohist_attention_args& a;
  const mohist_cache& cache;
  int64_t group;  // query heads that share a key/value head

  explicit Attention(const mohist_attention_args& args) : a(args), cache(*args.cache), group(a.heads / cache.heads) {}

  int64_t pairs_per_task() const { return cache.values ? kTileRows : kLatentPairs; }

  struct Pair {
    const float* q;
    float* y;
    int64_t first, last;  // keys it sees
    const float* sink;    // or null
    const int32_t* chosen;  // of all these, those that it sees; or null
  };
  Pair pair(const Task& task, int64_t i) const {
    const int64_t row = task.row + (task.pair + i) / group, n = task.head * group + (task.pair + i) % group;
    const int64_t last = a.plan->positions[row];
    return {a.q + row * a.q_stride + n * a.q_head_stride, a.y + row * a.y_stride + n * a.y_head_stride,
            a.window ? std::max<int64_t>(0, last - a.window + 1) : 0, last, a.sinks ? a.sinks + n : nullptr,
            a.chosen && last >= a.num_chosen ? a.chosen + row * a.num_chosen : nullptr};
  }

  // The 16 keys of group j / 16 of a sequence, [key_dim][16].
  const float* keys(const int32_t* table, int64_t head, int64_t j) const {
    const int64_t groups = cache.block_size / 16, offset = j % cache.block_size;
    const int64_t block = table[j / cache.block_size];
    return cache.keys + ((block * cache.heads + head) * groups + offset / 16) * cache.key_dim * 16;
  }
  const float* values(const int32_t* table, int64_t head, int64_t j) const {
    const int64_t block = table[j / cache.block_size];
    return cache.values + ((block * cache.heads + head) * cache.block_size + j % cache.block_size) * cache.value_dim;
  }

  // ---- scores: e[r][j - begin] for j in [begin, end), multiples of 16 -------------------------------------------
  struct Scores {
    const Attention& self;
    const int32_t* table;
    int64_t head, begin, end;
    const Pair* pairs;
    float* e;

    template <int R, int P> void groups(const float* const (&q)[R], int64_t j) const {
      const float *panel[P], *next[P];
      for (int p = 0; p < P; p++) {
        panel[p] = self.keys(table, head, j + 16 * p);
        next[p] = j + 16 * (p + P) < end ? self.keys(table, head, j + 16 * (p + P)) : panel[p];
      }
      Accumulators<R, P> acc;
      acc.clear();
      acc.add_products(q, panel, self.cache.key_dim, 16, [&](int64_t k) MOHIST_INLINE_LAMBDA {
        repeat<P>([&](auto p) { prefetch(next[p] + 16 * k); });
      });
      const vp scale = fill16(self.a.scale);
      acc.each([&](int r, int p, vp v) { store(e + r * (end - begin) + (j - begin) + 16 * p, mul(v, scale)); });
    }

    template <int R> void run() const {
      constexpr int P = tile_panels<R>();
      const float* q[R];
      for (int r = 0; r < R; r++) q[r] = pairs[r].q;
      int64_t j = begin;
      for (; j + 16 * P <= end; j += 16 * P) groups<R, P>(q, j);
      for (; j < end; j += 16) groups<R, 1>(q, j);
    }
  };

  // Turns one pair's scores into exponentials, zero where it may not look; returns their sum.
  float exponentials(const Pair& p, float* e, int64_t begin, int64_t end) const {
    const float lowest = -std::numeric_limits<float>::infinity();
    std::fill(e, e + (p.first - begin), lowest);
    std::fill(e + (p.last + 1 - begin), e + (end - begin), lowest);
    if (p.chosen) keep_chosen(p.chosen, a.num_chosen, begin, e, p.last + 1, lowest);
    vp most = fill16(p.sink ? *p.sink : lowest);
    for (int64_t i = 0; i < end - begin; i += 16) most = max(most, load16(e + i));
    float m[16];
    store(m, most);
    const vp largest = fill16(*std::max_element(m, m + 16));
    vp sum = fill16(0.0f);
    for (int64_t i = 0; i < end - begin; i += 16) {
      const vp u = exp(sub(load16(e + i), largest));
      store(e + i, u);
      sum = add(sum, u);
    }
    return p.sink ? fold16(sum) + exp_scalar(*p.sink - *std::max_element(m, m + 16)) : fold16(sum);
  }

  // ---- values ---------------------------------------------------------------------------------------------------
  struct Values {
    const Attention& self;
    const int32_t* table;
    int64_t head, begin, end, first, last;  // scores cover [begin, end); someone looks at keys first..last
    const Pair* pairs;
    const float* e;
    const float* total;

    template <int R> void run() const {
      constexpr int P = tile_panels<R>();
      const int64_t dim = self.cache.value_dim;
      int64_t d = 0;
      for (; d + 16 * P <= dim; d += 16 * P) columns<R, P>(d, 16 * P);
      for (; d < dim; d += 16) columns<R, 1>(d, std::min<int64_t>(16, dim - d));
    }

    // Entries [d, d + count) of the values; count is 16 P, or less with P = 1.
    template <int R, int P> void columns(int64_t d, int64_t count) const {
      const int64_t dim = self.cache.value_dim;
      Accumulators<R, P> acc;
      acc.clear();
      for (int64_t j = first; j <= last;) {
        const int64_t keys = std::min((j / 16 + 1) * 16, last + 1) - j;
        const float* x[R];
        repeat<R>([&](auto r) { x[r] = e + r * (end - begin) + (j - begin); });
        const float* v = self.values(table, head, j) + d;
        const float* panel[P];
        repeat<P>([&](auto p) { panel[p] = v + 16 * p; });
        if (count == 16 * P) {
          const float* next = j + 16 <= last ? self.values(table, head, (j / 16 + 1) * 16) + d : v;
          acc.add_products(x, panel, keys, dim, [&](int64_t k) MOHIST_INLINE_LAMBDA {
            repeat<P>([&](auto p) { prefetch(next + k * dim + 16 * p); });
          });
        } else {  // do not read past the end of a row
          float padded[16 * 16] = {};
          for (int64_t i = 0; i < keys; i++) std::copy(v + i * dim, v + i * dim + count, padded + 16 * i);
          panel[0] = padded;
          acc.add_products(x, panel, keys);
        }
        j += keys;
      }
      acc.each([&](int r, int p, vp sum) {
        store(pairs[r].y + d + 16 * p, div(sum, fill16(total[r])), count);
      });
    }
  };

  // sum[d][pair] += over the `count` keys from `latent` on, [value_dim][16], of e[key][pair].
  struct LatentValues {
    const float* latent;
    const float* e;
    int64_t count;
    float* sum;

    template <int R> void run() const {
      const float* x[R];
      repeat<R>([&](auto r) { x[r] = latent + 16 * r; });
      const float* const panel[1] = {e};
      Accumulators<R, 1> acc;
      repeat<R>([&](auto r) { acc.a[r][0] = load16(sum + 16 * r); });
      acc.add_products(x, panel, count);
      acc.each([&](int r, int, vp v) { store(sum + 16 * r, v); });
    }
  };

  void latent_values(const Task& task, const int32_t* table, int64_t begin, int64_t end, int64_t first, int64_t last,
                     const Pair* pairs, const float* e, const float* total, float* scratch) const {
    const int64_t dim = cache.value_dim;
    float* sum = scratch;               // [dim][16]
    float* turned = scratch + 16 * dim; // e of 16 keys, [key][pair]
    std::fill(sum, sum + 16 * dim, 0.0f);
    std::fill(turned, turned + 256, 0.0f);
    for (int64_t j = first; j <= last;) {
      const int64_t count = std::min((j / 16 + 1) * 16, last + 1) - j;
      for (int64_t i = 0; i < count; i++)
        for (int64_t r = 0; r < task.pairs; r++) turned[16 * i + r] = e[r * (end - begin) + (j - begin) + i];
      const float* latent = keys(table, task.head, j) + j % 16;
      for (int64_t d = 0; d < dim; d += kTileRows)
        with_rows(std::min(kTileRows, dim - d), LatentValues{latent + 16 * d, turned, count, sum + 16 * d});
      j += count;
    }
    for (int64_t r = 0; r < task.pairs; r++)
      for (int64_t d = 0; d < dim; d++) pairs[r].y[d] = sum[16 * d + r] / total[r];
  }

  void run(const Task& task, Scratch& scratch) const {
    Pair pairs[kLatentPairs];
    int64_t first = std::numeric_limits<int64_t>::max(), last = 0;
    for (int64_t i = 0; i < task.pairs; i++) {
      pairs[i] = pair(task, i);
      first = std::min(first, pairs[i].first);
      last = std::max(last, pairs[i].last);
    }
    const int64_t begin = first / 16 * 16, end = (last / 16 + 1) * 16, width = end - begin;
    const int32_t* table = a.plan->tables + a.plan->sequences[task.row] * a.plan->table_stride;
    float* e = scratch.get<float>(task.pairs * width + (cache.values ? 0 : 16 * cache.value_dim + 256));
    const Tiles tiles(task.pairs);
    for (int64_t t = 0; t < tiles.count; t++) {
      const int64_t r = tiles.begin(t);
      with_rows(tiles.size(t), Scores{*this, table, task.head, begin, end, pairs + r, e + r * width});
    }
    if (cache.values) {  // on their way while the exponentials are computed
      const float* v = values(table, task.head, first);
      for (int64_t i = 0; i < 16 * cache.value_dim; i += 16) prefetch(v + i);
    }
    float total[kLatentPairs];
    for (int64_t i = 0; i < task.pairs; i++) total[i] = exponentials(pairs[i], e + i * width, begin, end);
    if (cache.values)
      with_rows(task.pairs, Values{*this, table, task.head, begin, end, first, last, pairs, e, total});
    else
      latent_values(task, table, begin, end, first, last, pairs, e, total, e + task.pairs * width);
  }
};

}  // namespace

void attention(mohist_pool& pool, const mohist_attention_args& a) {
  const Attention attention(a);
  const int64_t per_task = attention.pairs_per_task();
  int64_t count = 0;
  Task* tasks = pool.shared(6).get<Task>(a.rows * a.heads);  // at least one pair a task
  for (int64_t row = 0; row < a.rows;) {
    int64_t end = row + 1;
    while (end < a.rows && a.plan->sequences[end] == a.plan->sequences[row]) end++;
    const int64_t pairs = (end - row) * attention.group;
    for (int64_t pair = 0; pair < pairs; pair += per_task)
      for (int64_t head = 0; head < a.cache->heads; head++)
        tasks[count++] = {row, head, pair, std::min(per_task, pairs - pair)};
    row = end;
  }
  // long rows last to be claimed first: tasks are taken from the end
  pool.parallel(count, [&](int64_t i, int thread) { attention.run(tasks[i], pool.local(thread)); });
}

void store(mohist_pool& pool, const mohist_store_args& a) {
  const mohist_cache& cache = *a.cache;
  const int64_t groups = cache.block_size / 16;
  const int64_t per_task = a.rows < 64 ? 4 : 16;  // neighbours of one sequence share the cache lines of their keys
  pool.parallel((a.rows + per_task - 1) / per_task, [&](int64_t task, int) {
    for (int64_t t = task * per_task; t < std::min(a.rows, (task + 1) * per_task); t++) {
      const int64_t position = a.plan->positions[t], offset = position % cache.block_size;
      const int64_t block = a.plan->tables[a.plan->sequences[t] * a.plan->table_stride + position / cache.block_size];
      for (int64_t h = 0; h < cache.heads; h++) {
        float* key = cache.keys + ((block * cache.heads + h) * groups + offset / 16) * cache.key_dim * 16 + offset % 16;
        const float* k = a.keys + t * a.key_stride + h * a.key_head_stride;
        for (int64_t d = 0; d < cache.key_dim; d++) __builtin_prefetch(key + 16 * d, 1);
        for (int64_t d = 0; d < cache.key_dim; d++) key[16 * d] = k[d];
        if (!cache.values) continue;
        const float* v = a.values + t * a.value_stride + h * a.value_head_stride;
        std::copy(v, v + cache.value_dim,
                  cache.values + ((block * cache.heads + h) * cache.block_size + offset) * cache.value_dim);
      }
    }
  });
}

}  // namespace mohist
