// Gradients of attention. Probabilities are computed again, for blocks of (row, head) pairs that share a key/value head.
//
// A run is a stretch of one sequence's rows. Runs are computed apart, each with key and value gradients of its own,
// which are added up in the order of the runs: where sequences share blocks, and whoever computes what, the sums are
// the same. Inside a run every sum goes over one ascending index.
#include <algorithm>
#include <limits>
#include <vector>

#include "dense.h"
#include "elementary.h"
#include "ops.h"

namespace mohist {
namespace {

constexpr int64_t kPairs = 96;        // in a block; one row's pairs at least
constexpr int64_t kRunRows = 256;     // a longer sequence is cut into runs of so many rows, or into
constexpr int64_t kRunsASequence = 8; // so many, which bounds the memory that their gradients take

int64_t to_16(int64_t n) { return (n + 15) / 16 * 16; }

struct Run {
  int64_t row, rows;   // packed rows
  int64_t begin, end;  // multiples of 16: keys that some row sees
  int64_t offset;      // of its gradients, in numbers, for one key/value head

  int64_t keys() const { return end - begin; }
};

struct Backward {
  const mohist_attention_backward_args& a;
  const mohist_cache& cache;
  int64_t group, key_dim, value_dim;  // query heads a key/value head, and their widths
  std::vector<Run> runs;
  int64_t numbers = 0;  // of all runs' gradients, for one key/value head
  float* partial = nullptr;

  explicit Backward(const mohist_attention_backward_args& args)
      : a(args), cache(*args.cache), group(a.heads / cache.heads), key_dim(cache.key_dim), value_dim(cache.value_dim) {
    for (int64_t row = 0; row < a.rows;) {
      int64_t end = row + 1;
      while (end < a.rows && a.plan->sequences[end] == a.plan->sequences[row]) end++;
      const int64_t most = std::max(kRunRows, (end - row + kRunsASequence - 1) / kRunsASequence);
      for (; row < end; row += most) add_run(row, std::min(most, end - row));
      row = end;
    }
  }

  void add_run(int64_t row, int64_t rows) {
    const int64_t begin = first_key(row) / 16 * 16, end = (a.plan->positions[row + rows - 1] / 16 + 1) * 16;
    runs.push_back({row, rows, begin, end, numbers});
    numbers += (end - begin) * numbers_per_key();
  }
  int64_t numbers_per_key() const { return key_dim + (cache.values ? value_dim : 0); }

  int64_t first_key(int64_t row) const {
    return a.window ? std::max<int64_t>(0, a.plan->positions[row] - a.window + 1) : 0;
  }

  // Where the 16 keys from j on are in the cache or in its gradient, [key_dim][16]; and their values, [16][value_dim].
  int64_t keys_at(const Run& run, int64_t head, int64_t j) const {
    return ((block(run, j) * cache.heads + head) * cache.block_size + j % cache.block_size) * key_dim;
  }
  int64_t values_at(const Run& run, int64_t head, int64_t j) const {
    return ((block(run, j) * cache.heads + head) * cache.block_size + j % cache.block_size) * value_dim;
  }
  int64_t block(const Run& run, int64_t j) const {
    return a.plan->tables[a.plan->sequences[run.row] * a.plan->table_stride + j / cache.block_size];
  }

  // A run's own gradients: of keys [group of 16][key_dim][16], then of values [key][value_dim].
  float* dkeys(const Run& run, int64_t head) const { return partial + head * numbers + run.offset; }
  float* dvalues(const Run& run, int64_t head) const { return dkeys(run, head) + run.keys() * key_dim; }

  // Adds the runs' gradients of 16 dimensions of one head to the result.
  void reduce(int64_t head, int64_t slice) const {
    const int64_t key_slices = (key_dim + 15) / 16;
    for (const Run& run : runs)
      for (int64_t j = run.begin; j < run.end; j += 16) {
        if (slice < key_slices) {
          const int64_t d = 16 * slice, count = 16 * std::min<int64_t>(16, key_dim - d);
          const float* own = dkeys(run, head) + (j - run.begin) * key_dim + 16 * d;
          float* sum = a.dkeys + keys_at(run, head, j) + 16 * d;
          for (int64_t i = 0; i < count; i++) sum[i] += own[i];
        } else {
          const int64_t d = 16 * (slice - key_slices), count = std::min<int64_t>(16, value_dim - d);
          const float* own = dvalues(run, head) + (j - run.begin) * value_dim + d;
          float* sum = a.dvalues + values_at(run, head, j) + d;
          for (int64_t key = 0; key < 16; key++, own += value_dim, sum += value_dim)
            for (int64_t i = 0; i < count; i++) sum[i] += own[i];
        }
      }
  }
  int64_t slices() const { return (key_dim + 15) / 16 + (cache.values ? (value_dim + 15) / 16 : 0); }
};

// out[j][i] = in[i][j] for up to 16 x 16 numbers; in has `rows` rows of `columns`.
void transpose(const float* in, int64_t in_stride, int64_t rows, int64_t columns, float* out, int64_t out_stride) {
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) out[j * out_stride + i] = in[i * in_stride + j];
}

// Calls f(P, i) for P panels of 16 columns from i on at a time, then f(1, i) for those that are left.
template <int P, class F> inline void panels_of(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + 16 * (P - 1) < end; i += 16 * P) f(number<P>{}, i);
  for (; i < end; i += 16) f(number<1>{}, i);
}

// One run and key/value head.
class Worker {
 public:
  Worker(const Backward& all, const Run& run, int64_t head, Scratch& scratch)
      : all_(all), a_(all.a), run_(run), head_(head), key_dim_(all.key_dim), value_dim_(all.value_dim),
        value_room_(to_16(value_dim_)), rows_(std::max<int64_t>(1, kPairs / all.group)), stride_(run.keys() + 16) {
    const int64_t pairs = rows_ * all.group, keys = run.keys();
    key_rows_ = scratch.get<float>(keys * (to_16(key_dim_) + value_dim_) + pairs * (key_dim_ + value_room_ + 2 * stride_));
    value_groups_ = key_rows_ + keys * to_16(key_dim_);
    q_ = value_groups_ + keys * value_dim_;
    dy_ = q_ + pairs * key_dim_;
    p_ = dy_ + pairs * value_room_;
    ds_ = p_ + pairs * stride_;
  }

  void run() {
    std::fill_n(all_.dkeys(run_, head_), run_.keys() * all_.numbers_per_key(), 0.0f);
    turn_keys_and_values();
    for (int64_t row = run_.row; row < run_.row + run_.rows; row += rows_) {
      load_block(row, std::min(rows_, run_.row + run_.rows - row));
      scores();
      for (int64_t i = 0; i < pairs_; i++) softmax_backward(i);
      query_gradients();
      key_gradients();
      if (all_.cache.values) value_gradients();
    }
  }

 private:
  // Keys as panels [16 dimensions][key][16], for dq; values as groups [16 keys][value_dim][16], as keys are.
  void turn_keys_and_values() {
    for (int64_t j = 0; j < run_.keys(); j += 16) {
      for (int64_t d = 0; d < key_dim_; d += 16)
        transpose(keys(j) + 16 * d, 16, std::min<int64_t>(16, key_dim_ - d), 16, key_rows_ + d * run_.keys() + 16 * j, 16);
      if (!all_.cache.values) continue;
      const float* values = all_.cache.values + all_.values_at(run_, head_, run_.begin + j);
      for (int64_t d = 0; d < value_dim_; d += 16)
        transpose(values + d, value_dim_, 16, std::min<int64_t>(16, value_dim_ - d), value_groups_ + (j * value_dim_ + 16 * d), 16);
    }
  }
  const float* keys(int64_t j) const { return all_.cache.keys + all_.keys_at(run_, head_, run_.begin + j); }
  const float* values(int64_t j) const { return all_.cache.values ? value_groups_ + j * value_dim_ : keys(j); }

  void load_block(int64_t row, int64_t rows) {
    row_ = row;
    pairs_ = rows * all_.group;
    first_ = all_.first_key(row) - run_.begin;
    last_ = position(pairs_ - 1) - run_.begin;
    begin_ = first_ / 16 * 16;
    end_ = (last_ / 16 + 1) * 16;
    for (int64_t i = 0; i < pairs_; i++) {
      const int64_t t = row_ + i / all_.group, n = head_ * all_.group + i % all_.group;
      std::copy_n(a_.q + t * a_.q_stride + n * a_.q_head_stride, key_dim_, q_ + i * key_dim_);
      float* dy = std::copy_n(a_.dy + t * a_.dy_stride + n * a_.dy_head_stride, value_dim_, dy_ + i * value_room_);
      std::fill_n(dy, value_room_ - value_dim_, 0.0f);
    }
  }
  int64_t position(int64_t pair) const { return a_.plan->positions[row_ + pair / all_.group]; }

  // p = q K^T and ds = dy V^T, unscaled
  struct Scores {
    const Worker& w;
    int64_t pair;
    template <int R> void run() const {
      const float *q[R], *dy[R];
      repeat<R>([&](auto r) { q[r] = w.q_ + (pair + r) * w.key_dim_, dy[r] = w.dy_ + (pair + r) * w.value_room_; });
      panels_of<tile_panels<R>()>(w.begin_, w.end_, [&](auto count, int64_t j) {
        constexpr int P = count;
        const float *keys[P], *values[P];
        repeat<P>([&](auto i) { keys[i] = w.keys(j + 16 * i), values[i] = w.values(j + 16 * i); });
        multiply(q, keys, w.key_dim_, w.p_ + j - w.begin_);
        multiply(dy, values, w.value_dim_, w.ds_ + j - w.begin_);
      });
    }
    template <int R, int P> void multiply(const float* const (&x)[R], const float* const (&panel)[P], int64_t k, float* out) const {
      Accumulators<R, P> acc;
      acc.clear();
      acc.add_products(x, panel, k);
      acc.each([&](auto r, auto i, vp v) { store(out + (pair + r) * w.stride_ + 16 * i, v); });
    }
  };
  void scores() {
    const Tiles tiles(pairs_);
    for (int64_t t = 0; t < tiles.count; t++) with_rows(tiles.size(t), Scores{*this, tiles.begin(t)});
  }

  // Turns a pair's scores and dy V^T into probabilities p and score gradients ds, both 0 where it may not look.
  void softmax_backward(int64_t pair) {
    float *p = p_ + pair * stride_, *ds = ds_ + pair * stride_;
    const int64_t width = end_ - begin_, first = all_.first_key(row_ + pair / all_.group) - run_.begin - begin_;
    const int64_t end = position(pair) + 1 - run_.begin - begin_;
    std::fill(p, p + first, -std::numeric_limits<float>::infinity());
    std::fill(p + end, p + width, -std::numeric_limits<float>::infinity());
    std::fill(ds, ds + first, 0.0f);
    std::fill(ds + end, ds + width, 0.0f);
    if (a_.chosen && position(pair) >= a_.num_chosen) {
      const int32_t* chosen = a_.chosen + (row_ + pair / all_.group) * a_.num_chosen;
      const int64_t origin = run_.begin + begin_, past = position(pair) + 1;
      keep_chosen(chosen, a_.num_chosen, origin, p, past, -std::numeric_limits<float>::infinity());
      keep_chosen(chosen, a_.num_chosen, origin, ds, past, 0.0f);
    }
    const vp scale = fill16(a_.scale);
    const int64_t row = row_ + pair / all_.group, n = head_ * all_.group + pair % all_.group;
    vp most = fill16(a_.sinks ? a_.sinks[n] : -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < width; i += 16) most = max(most, mul(load16(p + i), scale));
    float m[16];
    store(m, most);
    const vp largest = fill16(*std::max_element(m, m + 16));
    vp sum = fill16(0.0f), dot = fill16(0.0f);
    for (int64_t i = 0; i < width; i += 16) {
      const vp u = exp(sub(mul(load16(p + i), scale), largest));
      store(p + i, u);
      sum = add(sum, u);
      dot = fma(u, load16(ds + i), dot);
    }
    const float sink = a_.sinks ? exp_scalar(a_.sinks[n] - *std::max_element(m, m + 16)) : 0.0f;
    const float reciprocal = 1.0f / (fold16(sum) + sink), mean = fold16(dot) * reciprocal;
    if (a_.sinks) a_.dsinks[row * a_.heads + n] = -(sink * reciprocal) * mean;
    for (int64_t i = 0; i < width; i += 16) {
      const vp u = mul(load16(p + i), fill16(reciprocal));
      store(p + i, u);
      store(ds + i, mul(mul(u, scale), sub(load16(ds + i), fill16(mean))));
    }
  }

  // dq = ds K
  struct QueryGradients {
    const Worker& w;
    int64_t pair;
    template <int R> void run() const {
      const float* ds[R];
      repeat<R>([&](auto r) { ds[r] = w.ds_ + (pair + r) * w.stride_ + w.first_ - w.begin_; });
      panels_of<tile_panels<R>()>(0, w.key_dim_, [&](auto count, int64_t d) {
        constexpr int P = count;
        const float* panel[P];
        repeat<P>([&](auto i) { panel[i] = w.key_rows_ + (d + 16 * i) * w.run_.keys() + 16 * w.first_; });
        Accumulators<R, P> acc;
        acc.clear();
        acc.add_products(ds, panel, w.last_ + 1 - w.first_);
        acc.each([&](auto r, auto i, vp v) { store(w.dq(pair + r) + d + 16 * i, v, w.key_dim_ - d - 16 * i); });
      });
    }
  };
  void query_gradients() {
    const Tiles tiles(pairs_);
    for (int64_t t = 0; t < tiles.count; t++) with_rows(tiles.size(t), QueryGradients{*this, tiles.begin(t)});
  }
  float* dq(int64_t pair) const {
    return a_.dq + ((row_ + pair / all_.group) * a_.heads + head_ * all_.group + pair % all_.group) * key_dim_;
  }

  // The first pair that sees key j: earlier rows end before it.
  int64_t first_pair(int64_t j) const { return std::max<int64_t>(0, run_.begin + j - position(0)) * all_.group; }

  // dkeys[key][d] += x[pair][d] * weight[pair][key], for dimensions that lie side by side in x
  struct Outer {
    const Worker& w;
    const float *x, *weight;
    int64_t x_stride, d, begin, end;
    template <int R> void run() const {
      panels_of<tile_panels<R>()>(begin, end, [&](auto count, int64_t j) {
        constexpr int P = count;
        const int64_t from = w.first_pair(j);
        const float* panel[P];
        float* sum[P];
        repeat<P>([&](auto i) {
          panel[i] = weight + from * w.stride_ + j + 16 * i - w.begin_;
          sum[i] = w.all_.dkeys(w.run_, w.head_) + (j + 16 * i) * w.key_dim_ + 16 * d;
        });
        Accumulators<R, P> acc;
        acc.each([&](auto r, auto i, vp& v) { v = load16(sum[i] + 16 * r); });
        add_outer_products(acc, x + from * x_stride + d, x_stride, panel, w.pairs_ - from, w.stride_);
        acc.each([&](auto r, auto i, vp v) { store(sum[i] + 16 * r, v); });
      });
    }
  };
  void outer(const float* x, int64_t x_stride, int64_t dim, const float* weight) const {
    const Tiles tiles(dim);
    const int64_t step = 16 * tile_panels<kTileRows>();
    for (int64_t j = begin_; j < end_; j += step)
      for (int64_t t = 0; t < tiles.count; t++)
        with_rows(tiles.size(t), Outer{*this, x, weight, x_stride, tiles.begin(t), j, std::min(end_, j + step)});
  }

  // dK = ds^T q, and, where values are part of the keys, + p^T dy
  void key_gradients() {
    outer(q_, key_dim_, key_dim_, ds_);
    if (!all_.cache.values) outer(dy_, value_room_, value_dim_, p_);
  }

  // dV = p^T dy
  struct ValueGradients {
    const Worker& w;
    int64_t key, from;
    template <int R> void run() const {
      float* sum = w.all_.dvalues(w.run_, w.head_) + key * w.value_dim_;
      panels_of<tile_panels<R>()>(0, w.value_dim_, [&](auto count, int64_t d) {
        constexpr int P = count;
        const int64_t columns = w.value_dim_ - d;
        const float* panel[P];
        repeat<P>([&](auto i) { panel[i] = w.dy_ + from * w.value_room_ + d + 16 * i; });
        Accumulators<R, P> acc;
        acc.each([&](auto r, auto i, vp& v) { v = load16(sum + r * w.value_dim_ + d + 16 * i, columns - 16 * i); });
        add_outer_products(acc, w.p_ + from * w.stride_ + key - w.begin_, w.stride_, panel, w.pairs_ - from, w.value_room_);
        acc.each([&](auto r, auto i, vp v) { store(sum + r * w.value_dim_ + d + 16 * i, v, columns - 16 * i); });
      });
    }
  };
  void value_gradients() {
    const Tiles tiles(last_ + 1 - first_);
    for (int64_t t = 0; t < tiles.count; t++) {
      const int64_t key = first_ + tiles.begin(t);
      with_rows(tiles.size(t), ValueGradients{*this, key, first_pair(key)});
    }
  }

  const Backward& all_;
  const mohist_attention_backward_args& a_;
  const Run& run_;
  int64_t head_, key_dim_, value_dim_, value_room_, rows_, stride_;
  float *key_rows_, *value_groups_;  // of the run
  float *q_, *dy_, *p_, *ds_;        // of the block, a row a pair
  // the block; keys count from the run's first
  int64_t row_ = 0, pairs_ = 0, first_ = 0, last_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace

void attention_backward(mohist_pool& pool, const mohist_attention_backward_args& a) {
  Backward all(a);
  const int64_t heads = a.cache->heads, runs = static_cast<int64_t>(all.runs.size());
  all.partial = pool.shared(0).get<float>(all.numbers * heads);
  pool.parallel(runs * heads, [&](int64_t task, int thread) {
    Worker(all, all.runs[task / heads], task % heads, pool.local(thread)).run();
  });
  pool.parallel(heads * all.slices(), [&](int64_t task, int) { all.reduce(task % heads, task / heads); });
}

void store_backward(mohist_pool& pool, const mohist_store_backward_args& a) {
  const mohist_cache& gradient = *a.gradient;
  const int64_t heads = gradient.heads, key_dim = gradient.key_dim, value_dim = gradient.value_dim;
  parallel_rows(pool, a.rows, heads * (key_dim + value_dim), [&](int64_t t) {
    const int64_t position = a.plan->positions[t], slot = position % gradient.block_size;
    const int32_t* table = a.plan->tables + a.plan->sequences[t] * a.plan->table_stride;
    for (int64_t h = 0; h < heads; h++) {
      const int64_t at = (table[position / gradient.block_size] * heads + h) * gradient.block_size;
      float* key = gradient.keys + (at + slot / 16 * 16) * key_dim + slot % 16;
      for (int64_t d = 0; d < key_dim; d++) {
        a.dkeys[(t * heads + h) * key_dim + d] = key[16 * d];
        if (a.clear) key[16 * d] = 0.0f;
      }
      if (!gradient.values) continue;
      float* value = gradient.values + (at + slot) * value_dim;
      std::copy_n(value, value_dim, a.dvalues + (t * heads + h) * value_dim);
      if (a.clear) std::fill_n(value, value_dim, 0.0f);
    }
  });
}

}  // namespace mohist
