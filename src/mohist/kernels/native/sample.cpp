// Log-probabilities and sampling, one row a task.
#include <algorithm>
#include <limits>
#include <vector>

#include "elementary.h"
#include "ops.h"

namespace mohist {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Normalizer {
  float largest, log_sum;
  float logprob(float logit) const { return (logit - largest) - log_sum; }
};

float largest_of(const float* x, int64_t n) {
  vf most[4] = {set1(-kInfinity), set1(-kInfinity), set1(-kInfinity), set1(-kInfinity)};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 4; j++) most[j] = max(most[j], load(x + i + 8 * j));
  float m[8];
  store(m, max(max(most[0], most[1]), max(most[2], most[3])));
  float largest = *std::max_element(m, m + 8);
  for (; i < n; i++) largest = std::max(largest, x[i]);
  return largest;
}

// weight[i] = exp(x[i] - largest), when asked for; returns their 16-lane sum.
float exponentials(const float* x, int64_t n, float largest, float* weight) {
  vp sum = fill16(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const vp u = exp(sub(load16(x + i), fill16(largest)));
    if (weight) store(weight + i, u);
    sum = add(sum, u);
  }
  if (i < n) {
    float rest[16] = {};
    for (int64_t j = i; j < n; j++) {
      rest[j - i] = exp_scalar(x[j] - largest);
      if (weight) weight[j] = rest[j - i];
    }
    sum = add(sum, load16(rest));
  }
  return fold16(sum);
}

// The head of the ranking by logit (largest first, the lower id on a tie), extended on demand.
class Ranking {
 public:
  Ranking(const float* logits, int64_t vocab, float largest) : logits_(logits), vocab_(vocab), largest_(largest) {}

  // The first n ids, or all.
  const std::vector<int32_t>& at_least(int64_t n) {
    while (static_cast<int64_t>(order_.size()) < std::min(n, vocab_)) extend();
    return order_;
  }
  bool extend() {
    if (static_cast<int64_t>(order_.size()) == vocab_) return false;
    reach_ = reach_ == 0.0f ? 4.0f : reach_ < 20.0f ? 3.0f * reach_ : kInfinity;
    const float floor = largest_ - reach_;
    std::vector<int32_t> more;
    const float reached = floor_;
    for (int64_t i = 0; i < vocab_; i++)
      if (logits_[i] >= floor && !(logits_[i] >= reached)) more.push_back(static_cast<int32_t>(i));
    if (reach_ == kInfinity)  // whatever compares to nothing comes last
      for (int64_t i = 0; i < vocab_; i++)
        if (logits_[i] != logits_[i]) more.push_back(static_cast<int32_t>(i));
    std::sort(more.begin(), more.end(), [this](int32_t i, int32_t j) {
      return logits_[i] > logits_[j] || (logits_[i] == logits_[j] && i < j);
    });
    order_.insert(order_.end(), more.begin(), more.end());
    floor_ = floor;
    return true;
  }

 private:
  const float* logits_;
  int64_t vocab_;
  float largest_, reach_ = 0.0f, floor_ = kInfinity;
  std::vector<int32_t> order_;
};

// The tokens that top-k and top-p keep, ids ascending.
std::vector<int32_t> kept_tokens(const mohist_sample_row& p, Ranking& ranking, const float* weight, float weight_sum,
                                 int64_t vocab) {
  const int64_t most = p.top_k > 0 ? std::min<int64_t>(p.top_k, vocab) : vocab;
  std::vector<int32_t> kept;
  if (p.top_k > 0) {
    const std::vector<int32_t>& order = ranking.at_least(most);
    kept.assign(order.begin(), order.begin() + most);
  }
  if (p.top_p < 1.0f) {
    if (p.top_k > 0) {
      std::vector<int32_t> by_id = kept;
      std::sort(by_id.begin(), by_id.end());
      float lanes[16] = {};
      for (int32_t i : by_id) lanes[i % 16] = lanes[i % 16] + weight[i];
      weight_sum = fold16(load16(lanes));
    }
    const float goal = p.top_p * weight_sum;
    float reached = 0.0f;
    int64_t count = 0;
    for (; count < most && !(reached >= goal); count++)
      reached = reached + weight[ranking.at_least(count + 1)[count]];
    const std::vector<int32_t>& order = ranking.at_least(count);
    kept.assign(order.begin(), order.begin() + count);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

// Gumbel-max in its exponential form: token i waits E_i / weight_i, and the first to arrive is drawn.
struct Race {
  const mohist_sample_row& p;
  float best = kInfinity;
  int32_t winner = -1;

  void enter(int32_t id, float v, float weight) {
    const float wait = exponential(v) / weight;
    if (wait < best) best = wait, winner = id;
  }
  void enter(int32_t id, float weight) { enter(id, uniform(token_noise(id, p.position, p.sample, p.seed)), weight); }

  void all(const float* weight, int64_t vocab) {
    int64_t i = 0;
#ifdef MOHIST_AVX2
    for (; i + 32 <= vocab; i += 32) {
      vi word[4];
      noise32(static_cast<uint32_t>(i), word);
      for (int j = 0; j < 4; j++) {
        const vf v = min(mul(add(to_float(shift_right<1>(word[j])), set1(0.5f)), set1(kUniformScale)), set1(kUniformMax));
        // E > 0.999 v: most tokens are too late whatever the rest of E says
        const int close = any(less(mul(v, set1(0.999f)), mul(set1(best), load(weight + i + 8 * j))));
        if (!close) continue;
        float u[8];
        store(u, v);
        for (int lane = 0; lane < 8; lane++)
          if (close >> lane & 1) enter(static_cast<int32_t>(i + 8 * j + lane), u[lane], weight[i + 8 * j + lane]);
      }
    }
#endif
    for (; i < vocab; i++) enter(static_cast<int32_t>(i), weight[i]);
  }

#ifdef MOHIST_AVX2
  static void multiply(vi a, uint32_t b, vi& high, vi& low) {
    const vi factor = iset1(static_cast<int32_t>(b));
    const vi even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
  void noise32(uint32_t id, vi (&word)[4]) const {
    vi c0 = iadd(iset1(static_cast<int32_t>(id / 32 * 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    vi c1 = iset1(static_cast<int32_t>(p.position)), c2 = iset1(static_cast<int32_t>(p.sample)), c3 = iset1(0);
    uint32_t k0 = static_cast<uint32_t>(p.seed), k1 = static_cast<uint32_t>(p.seed >> 32);
    for (int round = 0; round < 10; round++) {
      vi high0, low0, high1, low1;
      multiply(c0, kPhiloxMul0, high0, low0);
      multiply(c2, kPhiloxMul1, high1, low1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), iset1(static_cast<int32_t>(k0)));
      c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), iset1(static_cast<int32_t>(k1)));
      c1 = low1, c3 = low0;
      k0 += kPhiloxKey0, k1 += kPhiloxKey1;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }
#endif
};

void penalize(const mohist_sample_row& p, float* logits) {
  for (int64_t i = 0; i < p.num_seen; i++) {
    float& l = logits[p.seen[i]];
    if (p.repetition_penalty != 1.0f) l = l > 0.0f ? l / p.repetition_penalty : l * p.repetition_penalty;
    if (p.seen_counts[i] > 0) {
      l = l - p.presence_penalty;
      l = __builtin_fmaf(-p.frequency_penalty, static_cast<float>(p.seen_counts[i]), l);
    }
  }
}

// Logits of -infinity for tokens that may not be drawn.
void forbid(const uint8_t* allowed, float* logits, int64_t vocab) {
  for (int64_t first = 0; first < vocab; first += 8) {
    const uint8_t bits = allowed[first / 8];
    if (bits == 0xFF) continue;
    for (int64_t i = first; i < std::min(first + 8, vocab); i++)
      if (!(bits >> (i - first) & 1)) logits[i] = -kInfinity;
  }
}

void sample_row(const mohist_sample_args& a, int64_t row, Scratch& scratch) {
  const mohist_sample_row& p = a.params[row];
  const int64_t vocab = a.vocab;
  const float* raw = a.logits + row * a.logits_stride;
  float* weight = scratch.get<float>(2 * vocab);
  float* changed = weight + vocab;
  const float raw_largest = largest_of(raw, vocab);
  const float raw_sum = exponentials(raw, vocab, raw_largest, weight);
  const Normalizer raw_norm{raw_largest, log_scalar(raw_sum)};
  if (p.num_top) {
    Ranking ranking(raw, vocab, raw_largest);
    const std::vector<int32_t>& order = ranking.at_least(p.num_top);
    for (int64_t i = 0; i < p.num_top; i++) {
      a.top_tokens[row * a.max_top + i] = order[i];
      a.top_logprobs[row * a.max_top + i] = raw_norm.logprob(raw[order[i]]);
    }
  }
  const float* logits = raw;
  const auto finish = [&](int32_t token, float sampled_logprob) {
    const bool fails = p.allowed && !(logits[token] > -kInfinity);
    a.tokens[row] = fails ? -1 : token;
    a.logprobs[row] = fails ? -kInfinity : raw_norm.logprob(raw[token]);
    a.sampled_logprobs[row] = fails ? -kInfinity : sampled_logprob;
  };
  float largest = raw_largest, sum = raw_sum;
  const bool greedy = p.temperature == 0.0f;
  if (p.num_seen || p.allowed || (!greedy && p.temperature != 1.0f)) {
    std::copy(raw, raw + vocab, changed);
    penalize(p, changed);
    if (p.allowed) forbid(p.allowed, changed, vocab);
    if (!greedy && p.temperature != 1.0f) {
      int64_t i = 0;
      for (; i + 8 <= vocab; i += 8) store(changed + i, div(load(changed + i), set1(p.temperature)));
      for (; i < vocab; i++) changed[i] = changed[i] / p.temperature;
    }
    logits = changed;
    largest = largest_of(changed, vocab);
    if (!greedy) sum = exponentials(changed, vocab, largest, weight);
  }
  if (greedy) {
    const float* at = std::find(logits, logits + vocab, largest);
    return finish(at == logits + vocab ? 0 : static_cast<int32_t>(at - logits), 0.0f);
  }
  Race race{p};
  float kept_sum = sum;
  if (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f) {
    Ranking ranking(logits, vocab, largest);
    std::vector<int32_t> kept;
    if (p.top_k > 0 || p.top_p < 1.0f) {
      kept = kept_tokens(p, ranking, weight, sum, vocab);
    } else {
      for (int64_t i = 0; i < vocab; i++)
        if (weight[i] >= p.min_p) kept.push_back(static_cast<int32_t>(i));
    }
    float lanes[16] = {};
    for (int32_t i : kept) {
      if (weight[i] < p.min_p) continue;
      lanes[i % 16] = lanes[i % 16] + weight[i];
      race.enter(i, weight[i]);
    }
    kept_sum = fold16(load16(lanes));
  } else {
    race.all(weight, vocab);
  }
  const int32_t token = race.winner < 0 ? 0 : race.winner;  // no winner: every logit is NaN
  finish(token, Normalizer{largest, log_scalar(kept_sum)}.logprob(logits[token]));
}

// One row's distribution under temperature and truncation, the target kept.
struct Distribution {
  const float* logits;  // over the temperature
  const float* weight;  // exponentials, 0 where not kept
  float largest, sum;

  // scratch: 2 * vocab numbers
  template <class Args> Distribution(const Args& a, int64_t row, float* scratch) {
    float* changed = scratch + a.vocab;
    logits = a.logits + row * a.logits_stride;
    if (a.temperature != 1.0f) {
      for (int64_t i = 0; i < a.vocab; i++) changed[i] = logits[i] / a.temperature;
      logits = changed;
    }
    weight = scratch;
    largest = largest_of(logits, a.vocab);
    sum = exponentials(logits, a.vocab, largest, scratch);
    if (a.top_k > 0 || a.top_p < 1.0f || a.min_p > 0.0f) truncate(a, a.targets[row], scratch);
  }

  float log_sum() const { return log_scalar(sum); }

 private:
  template <class Args> void truncate(const Args& a, int32_t target, float* w) {
    const float own = w[target];
    if (a.top_k > 0 || a.top_p < 1.0f) {
      mohist_sample_row p = {};
      p.top_k = static_cast<int32_t>(a.top_k);
      p.top_p = a.top_p;
      Ranking ranking(logits, a.vocab, largest);
      const std::vector<int32_t> kept = kept_tokens(p, ranking, w, sum, a.vocab);
      std::vector<float> values;
      for (int32_t i : kept) values.push_back(w[i]);
      std::fill(w, w + a.vocab, 0.0f);
      for (size_t i = 0; i < kept.size(); i++) w[kept[i]] = values[i];
    }
    for (int64_t i = 0; i < a.vocab; i++) w[i] = w[i] < a.min_p ? 0.0f : w[i];
    w[target] = own;
    vp lanes = fill16(0.0f);
    for (int64_t i = 0; i < a.vocab; i += 16) lanes = add(lanes, load16(w + i, a.vocab - i));
    sum = fold16(lanes);
  }
};

// -sum p log p = log(sum of w) - (sum of w * log w) / (sum of w), log w bounded where w is 0
float entropy(const Distribution& d, int64_t vocab) {
  const vp largest = fill16(d.largest), least = fill16(kExpMin);
  vp lanes = fill16(0.0f);  // a weight beyond the vocabulary is 0
  for (int64_t i = 0; i < vocab; i += 16)
    lanes = fma(load16(d.weight + i, vocab - i), max(least, sub(load16(d.logits + i, vocab - i), largest)), lanes);
  return d.log_sum() - fold16(lanes) / d.sum;
}

}  // namespace

void logprobs(mohist_pool& pool, const mohist_logprobs_args& a) {
  pool.parallel(a.rows, [&](int64_t t, int thread) {
    const Distribution d(a, t, pool.local(thread).get<float>(2 * a.vocab));
    a.logprobs[t] = Normalizer{d.largest, d.log_sum()}.logprob(d.logits[a.targets[t]]);
    a.entropies[t] = entropy(d, a.vocab);
  });
}

void logprobs_backward(mohist_pool& pool, const mohist_logprobs_backward_args& a) {
  pool.parallel(a.rows, [&](int64_t t, int thread) {
    const Distribution d(a, t, pool.local(thread).get<float>(2 * a.vocab));
    float* out = a.logits + t * a.logits_stride;
    const float gradient = a.dlogprobs[t] / a.temperature, factor = -gradient / d.sum;
    for (int64_t i = 0; i < a.vocab; i++) out[i] = d.weight[i] * factor;
    out[a.targets[t]] += gradient;
  });
}

void sample(mohist_pool& pool, const mohist_sample_args& a) {
  pool.parallel(a.rows, [&](int64_t row, int thread) { sample_row(a, row, pool.local(thread)); });
}

}  // namespace mohist
