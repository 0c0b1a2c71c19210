// Sums of products of quantised weights and activations: R rows against a block of 16 columns.
#pragma once
#include "layout.h"
#include "quantized_rows.h"
#include "tile.h"

namespace mohist {

constexpr bool has_half_scales(int64_t format) { return format == MOHIST_Q6_K; }

// Four entries of each column are read at a time. Which ones at a step: those that share bytes come one after another,
// unless the halves of a block are summed apart.
template <int Format> constexpr int four_at(int step) {
  return Format == MOHIST_Q8_0 || has_half_scales(Format) ? step : step % 2 * 4 + step / 2;
}

// Weights are the unsigned operand of an instruction that multiplies bytes, so something is added to them. This takes off
// again what that adds to the sums of a block, or of the half that begins with the four `Begin`.
template <int Format, int Begin> static MOHIST_INLINE int32_t correction(const ByteBlock& x) {
  if (Format == MOHIST_Q4_0) return x.minus_8_sums;
  if (Format == MOHIST_Q6_K) return x.minus_32_sums[Begin / 4];
  return 0;
}

// IntegerSums<Format, Begin, Count, R>: of `Count` steps from `Begin` on, exact in any order; value(r) as numbers.
#if defined(MOHIST_VNNI)

constexpr int64_t kQuantizedRows = 8;

// Brings bit `Bit` of every byte to bit 4, and its neighbours along; the rest has to be masked off.
template <int Bit> static MOHIST_INLINE __m512i to_bit_4(__m512i v) {
  if constexpr (Bit < 4) return _mm512_slli_epi16(v, 4 - Bit);
  else return _mm512_srli_epi16(v, Bit - 4);
}

template <int Format, int Four> static MOHIST_INLINE __m512i load_four(const uint8_t* block) {
  const auto load = [&](int64_t at) MOHIST_INLINE_LAMBDA { return _mm512_loadu_si512(block + at); };
  if constexpr (Format == MOHIST_Q8_0) return _mm512_xor_si512(load(64 * Four), _mm512_set1_epi8(-128));
  const __m512i both = load(64 * (Four % 4));
  const __m512i low = _mm512_and_si512(Four < 4 ? both : _mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
  constexpr int kOrMasked = 0xF8;  // a | (b & c)
  if constexpr (Format == MOHIST_Q5_K)
    return _mm512_ternarylogic_epi32(low, to_bit_4<Four>(load(256)), _mm512_set1_epi8(0x10), kOrMasked);
  if constexpr (Format == MOHIST_Q6_K)
    return _mm512_ternarylogic_epi32(low, to_bit_4<Four % 4 * 2>(load(256 + Four / 4 * 64)), _mm512_set1_epi8(0x30), kOrMasked);
  return low;
}

template <int Format, int Begin> static MOHIST_INLINE int32_t correction(const WordBlock& x) { return x.minus_128_sums; }

static MOHIST_INLINE const int8_t* bytes_of(const ByteBlock& x, int) { return x.q; }
static MOHIST_INLINE const int8_t* bytes_of(const WordBlock& x, int i) { return x.bytes[i]; }

// One instruction adds four products of bytes to each of 16 sums. A word is two bytes, which are summed apart: that takes
// two instructions, as one for words would, but weights can stay as they are.
template <int Format, int Begin, int Count, int R> struct IntegerSums {
  static constexpr int kBytes = takes_words(Format) ? 2 : 1;
  static constexpr int kChains = R == 1 ? 4 : R == 2 ? 2 : 1;  // sums side by side, so that none waits for itself
  __m512i s[R][kBytes][kChains];

  MOHIST_INLINE void compute(const uint8_t* block, const ActivationBlock<Format>* const (&x)[R]) {
    repeat<R>([&](auto r) {
      repeat<kBytes>([&](auto i) { repeat<kChains>([&](auto c) { s[r][i][c] = _mm512_setzero_si512(); }); });
      s[r][kBytes - 1][0] = _mm512_set1_epi32(correction<Format, Begin>(*x[r]));
    });
    repeat<Count>([&](auto step) {
      constexpr int four = four_at<Format>(Begin + step), c = step % kChains;
      const __m512i w = load_four<Format, four>(block);
      repeat<R>([&](auto r) {
        repeat<kBytes>([&](auto i) { s[r][i][c] = add_products(s[r][i][c], w, bytes_of(*x[r], i) + 4 * four); });
      });
    });
  }

  MOHIST_INLINE vp value(int r) const {
    const auto total = [&](int i) MOHIST_INLINE_LAMBDA {
      __m512i sum = s[r][i][0];
      repeat<kChains - 1>([&](auto c) { sum = _mm512_add_epi32(sum, s[r][i][c + 1]); });
      return sum;
    };
    if constexpr (kBytes == 1) return _mm512_cvtepi32_ps(total(0));
    else return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(total(0), 8), total(1)));
  }

  // Written out, since the compiler spends an instruction of its own on every broadcast.
  static MOHIST_INLINE __m512i add_products(__m512i sum, __m512i w, const int8_t* four) {
    using Word = int32_t __attribute__((may_alias, aligned(1)));
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const Word*>(four)));
    return sum;
  }
};

#elif defined(MOHIST_AVX2)

constexpr int64_t kQuantizedRows = 4;

template <int Format, int Begin, int Count, int R> struct IntegerSums {
  vi s[R][2];

  MOHIST_INLINE void compute(const uint8_t* block, const ActivationBlock<Format>* const (&x)[R]) {
    if constexpr (Format == MOHIST_Q8_0) eight_bits(block, x);
    else if constexpr (Format == MOHIST_Q5_K) five_bits(block, x);
    else if constexpr (Format == MOHIST_Q6_K) six_bits(block, x);
    else four_bits(block, x);
  }

  MOHIST_INLINE vp value(int r) const { return pair(to_float(s[r][0]), to_float(s[r][1])); }

  template <class F> static MOHIST_INLINE void each(const F& f) {
    repeat<R>([&](auto r) { repeat<2>([&](auto c) { f(r, c); }); });
  }
  static MOHIST_INLINE vi broadcast4(const void* q) {
    int32_t bytes;
    memcpy(&bytes, q, 4);
    return _mm256_set1_epi32(bytes);
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

  // Weights become words in two vectors, those at even places and those at odd ones; two products are added at once.
  MOHIST_INLINE void eight_bits(const uint8_t* w, const WordBlock* const (&x)[R]) {
    each([&](auto r, auto c) { s[r][c] = iset1(0); });
#pragma GCC unroll 2
    for (int g = 0; g < 8; g++) {
      repeat<2>([&](auto c) {
        const vi v = iload(w + 64 * g + 32 * c);
        const vi even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), odd = _mm256_srai_epi16(v, 8);
        repeat<R>([&](auto r) {
          s[r][c] = add_dwords(s[r][c], _mm256_madd_epi16(even, broadcast4(x[r]->q + 4 * g)));
          s[r][c] = add_dwords(s[r][c], _mm256_madd_epi16(odd, broadcast4(x[r]->q + 4 * g + 2)));
        });
      });
    }
  }

  static MOHIST_INLINE vi low_nibbles(vi v) { return iand(v, _mm256_set1_epi8(15)); }
  static MOHIST_INLINE vi high_nibbles(vi v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }
  static MOHIST_INLINE void clear(vi (&words)[R][2]) {
    each([&](auto r, auto c) { words[r][c] = iset1(0); });
  }
  // Products of a four, pairs of them added in 16 bits.
  static MOHIST_INLINE void add_four(vi (&words)[R][2], vi left, vi right, const ByteBlock* const (&x)[R], int four) {
    repeat<R>([&](auto r) {
      const vi b = broadcast4(x[r]->q + 4 * four);
      words[r][0] = add_words(words[r][0], _mm256_maddubs_epi16(left, b));
      words[r][1] = add_words(words[r][1], _mm256_maddubs_epi16(right, b));
    });
  }
  MOHIST_INLINE void add_all(const vi (&words)[R][2]) {
    each([&](auto r, auto c) { s[r][c] = add_dwords(s[r][c], add_pairs(words[r][c])); });
  }

  // Sixteen products of at most 15 * 127 fit in 16 bits: pairs are added only once a block.
  MOHIST_INLINE void four_bits(const uint8_t* w, const ByteBlock* const (&x)[R]) {
    clear(s);
#pragma GCC unroll 2
    for (int g = 0; g < 4; g++) {
      const vi v[2] = {iload(w + 64 * g), iload(w + 64 * g + 32)};
      const vi low[2] = {low_nibbles(v[0]), low_nibbles(v[1])};
      const vi high[2] = {high_nibbles(v[0]), high_nibbles(v[1])};
      repeat<R>([&](auto r) {
        const vi b = broadcast4(x[r]->q + 4 * g), t = broadcast4(x[r]->q + 16 + 4 * g);
        repeat<2>([&](auto c) {
          s[r][c] = add_words(s[r][c], _mm256_maddubs_epi16(low[c], b));
          s[r][c] = add_words(s[r][c], _mm256_maddubs_epi16(high[c], t));
        });
      });
    }
    each([&](auto r, auto c) { s[r][c] = add_pairs(s[r][c]); });
    if (Format == MOHIST_Q4_0) each([&](auto r, auto c) { s[r][c] = iadd(s[r][c], iset1(correction<Format, Begin>(*x[r]))); });
  }

  // Of products of at most 31 * 127, eight fit.
  MOHIST_INLINE void five_bits(const uint8_t* w, const ByteBlock* const (&x)[R]) {
    const vi bit = _mm256_set1_epi8(16);
    vi above[2] = {iload(w + 256), iload(w + 288)};  // bits of the next low nibbles at 0, of the next high ones at 4
    clear(s);
    for (int g = 0; g < 4; g += 2) {
      vi words[R][2];
      clear(words);
      repeat<2>([&](auto i) {
        const vi v[2] = {iload(w + 64 * (g + i)), iload(w + 64 * (g + i) + 32)};
        vi four[2];
        repeat<2>([&](auto c) { four[c] = ior(low_nibbles(v[c]), iand(_mm256_slli_epi16(above[c], 4), bit)); });
        add_four(words, four[0], four[1], x, g + i);
        repeat<2>([&](auto c) { four[c] = ior(high_nibbles(v[c]), iand(above[c], bit)); });
        add_four(words, four[0], four[1], x, 4 + g + i);
        repeat<2>([&](auto c) { above[c] = _mm256_srli_epi16(above[c], 1); });
      });
      add_all(words);
    }
  }

  // Of products of at most 63 * 127, four fit. Half a block: its low nibbles or its high ones.
  MOHIST_INLINE void six_bits(const uint8_t* w, const ByteBlock* const (&x)[R]) {
    const vi bits = _mm256_set1_epi8(0x30);
    vi above[2] = {iload(w + 256 + 16 * Begin), iload(w + 288 + 16 * Begin)};  // those of the next four at 0
    each([&](auto r, auto c) { s[r][c] = iset1(correction<Format, Begin>(*x[r])); });
    for (int g = 0; g < 4; g += 2) {
      vi words[R][2];
      clear(words);
      repeat<2>([&](auto i) {
        vi four[2];
        repeat<2>([&](auto c) {
          const vi v = iload(w + 64 * (g + i) + 32 * c);
          four[c] = ior(Begin ? high_nibbles(v) : low_nibbles(v), iand(_mm256_slli_epi16(above[c], 4), bits));
          above[c] = _mm256_srli_epi16(above[c], 2);
        });
        add_four(words, four[0], four[1], x, Begin + g + i);
      });
      add_all(words);
    }
  }
};

#else

constexpr int64_t kQuantizedRows = 4;

template <int Format, int Begin, int Count, int R> struct IntegerSums {
  int32_t s[R][16];

  void compute(const uint8_t* block, const ActivationBlock<Format>* const (&x)[R]) {
    memset(s, 0, sizeof s);
    for (int step = Begin; step < Begin + Count; step++) {
      const int four = four_at<Format>(step);
      int8_t w[16][4];
      for (int c = 0; c < 16; c++)
        for (int i = 0; i < 4; i++) w[c][i] = static_cast<int8_t>(read_quant(Format, block, c, 4 * four + i));
      for (int r = 0; r < R; r++)
        for (int c = 0; c < 16; c++)
          for (int i = 0; i < 4; i++) s[r][c] += w[c][i] * x[r]->q[4 * four + i];
    }
  }

  vp value(int r) const {
    float v[16];
    for (int c = 0; c < 16; c++) v[c] = static_cast<float>(s[r][c]);
    return load16(v);
  }
};

#endif

// The sums of a block as numbers. Halves are multiplied by their scales before they are added: less than 2^24, so exact.
template <int Format, int R> struct BlockSums {
  vp sums[R];

  // half_scales: of the 16 columns, of the first half and then of the second.
  MOHIST_INLINE void compute(const uint8_t* block, const int8_t* half_scales, const ActivationBlock<Format>* const (&x)[R]) {
    if constexpr (has_half_scales(Format)) {
      const vp scale = load16_i8(half_scales);
      IntegerSums<Format, 0, 4, R> first;
      first.compute(block, x);
      repeat<R>([&](auto r) { sums[r] = mul(scale, first.value(r)); });
      const vp other = load16_i8(half_scales + 16);
      IntegerSums<Format, 4, 4, R> second;
      second.compute(block, x);
      repeat<R>([&](auto r) { sums[r] = fma(other, second.value(r), sums[r]); });
    } else {
      IntegerSums<Format, 0, 8, R> whole;
      whole.compute(block, x);
      repeat<R>([&](auto r) { sums[r] = whole.value(r); });
    }
  }
};

}  // namespace mohist
