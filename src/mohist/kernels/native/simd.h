// Eight float lanes under one name on every machine: AVX2 intrinsics where they exist, the compiler's vector
// extension elsewhere. Multiplies and adds are fused only where `fma` says so (-ffp-contract=off), hence every
// build computes the same bits.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define MOHIST_AVX2 1
#endif

namespace mohist {

constexpr int kLanes = 8;

#ifdef MOHIST_AVX2

using vf = __m256;
using vi = __m256i;

static inline vf load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf set1(float a) { return _mm256_set1_ps(a); }
static inline vf broadcast(const float* p) { return _mm256_broadcast_ss(p); }
static inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf fms(vf a, vf b, vf c) { return _mm256_fmsub_ps(a, b, c); }
static inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
// a NaN in the second operand stays
static inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf round_even(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vi to_int(vf a) { return _mm256_cvtps_epi32(a); }
static inline vf to_float(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vi iset1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi iadd(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi isub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
static inline vi iand(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi ior(vi a, vi b) { return _mm256_or_si256(a, b); }
template <int S> static inline vi shift_left(vi a) { return _mm256_slli_epi32(a, S); }
template <int S> static inline vi shift_right(vi a) { return _mm256_srli_epi32(a, S); }
template <int S> static inline vi shift_right_signed(vi a) { return _mm256_srai_epi32(a, S); }
static inline vf as_float(vi a) { return _mm256_castsi256_ps(a); }
static inline vi as_int(vf a) { return _mm256_castps_si256(a); }
static inline vi iload(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// eight bf16 or f16 numbers, widened
static inline vf load_bf16(const uint16_t* p) {
  return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
static inline vf load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// eight small integers as numbers
static inline vf load_u8(const uint8_t* p) {
  return to_float(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline vf load_i8(const int8_t* p) {
  return to_float(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
// lane masks: all ones or all zeros
static inline vf less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vf select(vf mask, vf yes, vf no) { return _mm256_blendv_ps(no, yes, mask); }
static inline vf mask_first(int n) {
  return as_float(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
static inline int any(vf mask) { return _mm256_movemask_ps(mask); }

#else

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));

static inline vf load(const float* p) {
  vf a;
  memcpy(&a, p, 32);
  return a;
}
static inline void store(float* p, vf a) { memcpy(p, &a, 32); }
static inline vf set1(float a) { return vf{a, a, a, a, a, a, a, a}; }
static inline vf broadcast(const float* p) { return set1(*p); }
static inline vf fma(vf a, vf b, vf c) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
}
static inline vf fms(vf a, vf b, vf c) { return fma(a, b, -c); }
static inline vf add(vf a, vf b) { return a + b; }
static inline vf sub(vf a, vf b) { return a - b; }
static inline vf mul(vf a, vf b) { return a * b; }
static inline vf div(vf a, vf b) { return a / b; }
static inline vf max(vf a, vf b) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = a[i] > b[i] ? a[i] : b[i];
  return r;
}
static inline vf min(vf a, vf b) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = a[i] < b[i] ? a[i] : b[i];
  return r;
}
static inline vf round_even(vf a) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = __builtin_rintf(a[i]);
  return r;
}
static inline vi to_int(vf a) {
  vi r;
  for (int i = 0; i < 8; i++) r[i] = static_cast<int32_t>(__builtin_rintf(a[i]));
  return r;
}
static inline vf to_float(vi a) { return __builtin_convertvector(a, vf); }
static inline vi iset1(int32_t a) { return vi{a, a, a, a, a, a, a, a}; }
static inline vi iadd(vi a, vi b) { return a + b; }
static inline vi isub(vi a, vi b) { return a - b; }
static inline vi iand(vi a, vi b) { return a & b; }
static inline vi ior(vi a, vi b) { return a | b; }
template <int S> static inline vi shift_left(vi a) { return a << S; }
template <int S> static inline vi shift_right(vi a) { return (vi)((vu)a >> S); }
template <int S> static inline vi shift_right_signed(vi a) { return a >> S; }
static inline vf as_float(vi a) {
  vf r;
  memcpy(&r, &a, 32);
  return r;
}
static inline vi as_int(vf a) {
  vi r;
  memcpy(&r, &a, 32);
  return r;
}
static inline vi iload(const void* p) {
  vi a;
  memcpy(&a, p, 32);
  return a;
}
static inline vf less(vf a, vf b) { return as_float((vi)(a < b)); }
static inline vf select(vf mask, vf yes, vf no) {
  vi m = as_int(mask);
  return as_float((as_int(yes) & m) | (as_int(no) & ~m));
}
static inline vf mask_first(int n) { return as_float((vi)(vi{0, 1, 2, 3, 4, 5, 6, 7} < iset1(n))); }
static inline int any(vf mask) {
  vi m = as_int(mask);
  int bits = 0;
  for (int i = 0; i < 8; i++) bits |= (m[i] != 0) << i;
  return bits;
}

#endif

// f16 bits to float, without hardware help.
static inline float f16_to_float(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent == 0) {
    float tiny = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24, exact
    memcpy(&bits, &tiny, 4);
    bits |= sign;
  } else {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  }
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline float bf16_to_float(uint16_t h) {
  uint32_t bits = static_cast<uint32_t>(h) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

#ifndef MOHIST_AVX2
static inline vf load_bf16(const uint16_t* p) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = bf16_to_float(p[i]);
  return r;
}
static inline vf load_f16(const uint16_t* p) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = f16_to_float(p[i]);
  return r;
}
static inline vf load_u8(const uint8_t* p) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = static_cast<float>(p[i]);
  return r;
}
static inline vf load_i8(const int8_t* p) {
  vf r;
  for (int i = 0; i < 8; i++) r[i] = static_cast<float>(p[i]);
  return r;
}
#endif

// ---- sixteen lanes: a panel's columns, a group's keys -------------------------------------------------------------

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define MOHIST_AVX512 1

using vp = __m512;

static inline vp load16(const float* p) { return _mm512_loadu_ps(p); }
static inline vp load16_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vp load16_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline vp load16_u8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline vp load16_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline void store(float* p, vp a) { _mm512_storeu_ps(p, a); }
static inline vp pair(vf low, vf high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }
static inline vp fill16(float a) { return _mm512_set1_ps(a); }
static inline vp fma(vp a, vp b, vp c) { return _mm512_fmadd_ps(a, b, c); }
static inline vp add(vp a, vp b) { return _mm512_add_ps(a, b); }
static inline vp mul(vp a, vp b) { return _mm512_mul_ps(a, b); }
static inline vp sub(vp a, vp b) { return _mm512_sub_ps(a, b); }
static inline vp div(vp a, vp b) { return _mm512_div_ps(a, b); }
static inline vp max(vp a, vp b) { return _mm512_max_ps(a, b); }

#else

struct vp {
  vf low, high;
};

static inline vp load16(const float* p) { return {load(p), load(p + 8)}; }
static inline vp load16_bf16(const uint16_t* p) { return {load_bf16(p), load_bf16(p + 8)}; }
static inline vp load16_f16(const uint16_t* p) { return {load_f16(p), load_f16(p + 8)}; }
static inline vp load16_u8(const uint8_t* p) { return {load_u8(p), load_u8(p + 8)}; }
static inline vp load16_i8(const int8_t* p) { return {load_i8(p), load_i8(p + 8)}; }
static inline void store(float* p, vp a) {
  store(p, a.low);
  store(p + 8, a.high);
}
static inline vp pair(vf low, vf high) { return {low, high}; }
static inline vp fill16(float a) { return {set1(a), set1(a)}; }
static inline vp fma(vp a, vp b, vp c) { return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)}; }
static inline vp add(vp a, vp b) { return {add(a.low, b.low), add(a.high, b.high)}; }
static inline vp mul(vp a, vp b) { return {mul(a.low, b.low), mul(a.high, b.high)}; }
static inline vp sub(vp a, vp b) { return {sub(a.low, b.low), sub(a.high, b.high)}; }
static inline vp div(vp a, vp b) { return {div(a.low, b.low), div(a.high, b.high)}; }
static inline vp max(vp a, vp b) { return {max(a.low, b.low), max(a.high, b.high)}; }

#endif

// The first `count` of sixteen lanes, or all: nothing is read or written beyond. Without a call where the machine can mask
// lanes, since what lives in registers, such as a tile's sums, would move to memory around it.
#if defined(MOHIST_AVX512)
static inline vp load16(const float* p, int64_t count) {
  if (count >= 16) return load16(p);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), p);
}
static inline void store(float* p, vp a, int64_t count) {
  if (count >= 16) return store(p, a);
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1 << count) - 1), a);
}
#elif defined(MOHIST_AVX2)
static inline vp load16(const float* p, int64_t count) {
  if (count >= 16) return load16(p);
  const int n = static_cast<int>(count);
  return {_mm256_maskload_ps(p, as_int(mask_first(n))), _mm256_maskload_ps(p + 8, as_int(mask_first(n - 8)))};
}
static inline void store(float* p, vp a, int64_t count) {
  if (count >= 16) return store(p, a);
  const int n = static_cast<int>(count);
  _mm256_maskstore_ps(p, as_int(mask_first(n)), a.low);
  _mm256_maskstore_ps(p + 8, as_int(mask_first(n - 8)), a.high);
}
#else
static inline vp load16(const float* p, int64_t count) {
  float l[16] = {};
  memcpy(l, p, (count < 16 ? count : 16) * sizeof(float));
  return load16(l);
}
static inline void store(float* p, vp a, int64_t count) {
  float l[16];
  store(l, a);
  memcpy(p, l, (count < 16 ? count : 16) * sizeof(float));
}
#endif

// The one order in which sixteen lanes become a number: i + (i + 8), then + 4, + 2, + 1.
static inline float fold16(vp a) {
  float l[16];
  store(l, a);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) l[i] = l[i] + l[i + half];
  return l[0];
}

}  // namespace mohist
