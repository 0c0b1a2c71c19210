// Linear attention with a decay: rows one after another, heads and columns of the state side by side.
//
// A task owns some panels of 16 columns of one head's state for all rows. Columns do not meet, so neither tasks nor
// threads change a sum; and rows go in order, so a sequence can begin with the block that another has just filled.
#include <algorithm>

#include "ops.h"
#include "tile.h"

namespace mohist {
namespace {

constexpr int64_t kPanels = 4;  // of a task: as many chains at once

struct Lightning {
  const mohist_lightning_args& a;
  int64_t panels;

  explicit Lightning(const mohist_lightning_args& args) : a(args), panels((args.value_dim + 15) / 16) {}

  int64_t block(int64_t t, int64_t position) const {
    return a.plan->tables[a.plan->sequences[t] * a.plan->table_stride + position / a.block_size];
  }
  float* state(int64_t block, int64_t head, int64_t panel) const {
    return a.states + ((block * a.heads + head) * panels + panel) * a.key_dim * 16;
  }
  const float* q(int64_t t, int64_t head) const { return a.q + t * a.q_stride + head * a.q_head_stride; }
  const float* k(int64_t t, int64_t head) const { return a.k + t * a.k_stride + head * a.k_head_stride; }

  // P panels from `first` on, of one head.
  struct Columns {
    const Lightning& self;
    int64_t head, first;

    template <int P> void run() const {
      const mohist_lightning_args& a = self.a;
      if (a.reverse)
        for (int64_t t = a.rows - 1; t >= 0; t--) backward<P>(t);
      else
        for (int64_t t = 0; t < a.rows; t++) forward<P>(t);
    }

    template <int P> void load_values(int64_t t, vp (&v)[P]) const {
      const float* values = self.a.v + t * self.a.v_stride + head * self.a.v_head_stride;
      repeat<P>([&](auto p) { v[p] = load16(values + 16 * (first + p), self.a.value_dim - 16 * (first + p)); });
    }
    template <int P> void store_result(int64_t t, const vp (&sum)[P]) const {
      float* y = self.a.y + (t * self.a.heads + head) * self.a.value_dim;
      repeat<P>([&](auto p) { store(y + 16 * (first + p), sum[p], self.a.value_dim - 16 * (first + p)); });
    }

    // S = decay S + k v^T; y = q S
    template <int P> void forward(int64_t t) const {
      const int64_t position = self.a.plan->positions[t], size = self.a.key_dim * 16;
      const float *q = self.q(t, head), *k = self.k(t, head);
      float* own = self.state(self.block(t, position), head, first);
      const float* before = position ? self.state(self.block(t, position - 1), head, first) : nullptr;
      const vp decay = fill16(self.a.decays[head]);
      vp v[P], sum[P];
      load_values<P>(t, v);
      repeat<P>([&](auto p) { sum[p] = fill16(0.0f); });
      for (int64_t d = 0; d < self.a.key_dim; d++) {
        const vp key = fill16(k[d]), query = fill16(q[d]);
        repeat<P>([&](auto p) {
          const vp decayed = before ? mul(decay, load16(before + p * size + 16 * d)) : fill16(0.0f);
          const vp s = fma(key, v[p], decayed);
          store(own + p * size + 16 * d, s);
          sum[p] = fma(query, s, sum[p]);
        });
      }
      store_result<P>(t, sum);
    }

    // G = k v^T + what later rows left; y = q G; decay G is left for the row before
    template <int P> void backward(int64_t t) const {
      const int64_t position = self.a.plan->positions[t], size = self.a.key_dim * 16;
      const float *q = self.q(t, head), *k = self.k(t, head);
      const int64_t block = self.block(t, position), earlier = position ? self.block(t, position - 1) : -1;
      float* own = self.state(block, head, first);
      float* before = position && earlier != block ? self.state(earlier, head, first) : nullptr;
      const vp decay = fill16(self.a.decays[head]), zero = fill16(0.0f);
      vp v[P], sum[P];
      load_values<P>(t, v);
      repeat<P>([&](auto p) { sum[p] = zero; });
      for (int64_t d = 0; d < self.a.key_dim; d++) {
        const vp key = fill16(k[d]), query = fill16(q[d]);
        repeat<P>([&](auto p) {
          float* here = own + p * size + 16 * d;
          const vp g = fma(key, v[p], load16(here));
          sum[p] = fma(query, g, sum[p]);
          store(here, before ? zero : mul(decay, g));
          if (before) store(before + p * size + 16 * d, fma(decay, g, load16(before + p * size + 16 * d)));
        });
      }
      store_result<P>(t, sum);
    }
  };
};

}  // namespace

void lightning(mohist_pool& pool, const mohist_lightning_args& a) {
  const Lightning lightning(a);
  const int64_t groups = (lightning.panels + kPanels - 1) / kPanels;
  pool.parallel(a.heads * groups, [&](int64_t task, int) {
    const int64_t first = task % groups * kPanels;
    with_rows<kPanels>(std::min(kPanels, lightning.panels - first), Lightning::Columns{lightning, task / groups, first});
  });
}

}  // namespace mohist
