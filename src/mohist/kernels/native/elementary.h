// exp, log, sine and cosine as fixed sequences of IEEE operations: the same bits on every machine.
// Polynomials after Cephes (expf, logf) and fdlibm (sin, cos).
#pragma once
#include "simd.h"

namespace mohist {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kExpMin = -104.0f, kExpMax = 89.0f;  // beyond: 0 and infinity
constexpr float kExp[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                           4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
constexpr float kLog[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                           -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
constexpr float kSqrtHalf = 0.707106781186547524f;

static inline float bits_to_float(int32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static inline int32_t float_to_bits(float f) {
  int32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

// e^x; relative error below 2 ulp, monotone limits 0 and infinity, NaN stays.
static inline float exp_scalar(float x) {
  x = x < kExpMin ? kExpMin : x;
  x = x > kExpMax ? kExpMax : x;
  float n = __builtin_rintf(x * kLog2e);
  float r = __builtin_fmaf(n, -kLn2High, x);
  r = __builtin_fmaf(n, -kLn2Low, r);
  float p = kExp[0];
  for (int i = 1; i < 6; i++) p = __builtin_fmaf(p, r, kExp[i]);
  p = __builtin_fmaf(p, r * r, r) + 1.0f;
  if (x != x) return x;
  // 2^n in two halves, so that both ends of the range round once
  int32_t k = static_cast<int32_t>(n), half = k >> 1;
  return p * bits_to_float((half + 127) << 23) * bits_to_float((k - half + 127) << 23);
}

static inline vf exp(vf x) {
  x = max(set1(kExpMin), x);
  x = min(set1(kExpMax), x);
  vf n = round_even(mul(x, set1(kLog2e)));
  vf r = fma(n, set1(-kLn2High), x);
  r = fma(n, set1(-kLn2Low), r);
  vf p = set1(kExp[0]);
  for (int i = 1; i < 6; i++) p = fma(p, r, set1(kExp[i]));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  vi k = to_int(n), half = shift_right_signed<1>(k), bias = iset1(127);
  vf low = as_float(shift_left<23>(iadd(half, bias)));
  vf high = as_float(shift_left<23>(iadd(isub(k, half), bias)));
  return mul(mul(p, low), high);
}

#ifdef MOHIST_AVX512
static inline vp exp(vp x) {
  x = _mm512_max_ps(fill16(kExpMin), x);  // a NaN in the second operand stays
  x = _mm512_min_ps(fill16(kExpMax), x);
  const vp n = _mm512_roundscale_ps(mul(x, fill16(kLog2e)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  vp r = fma(n, fill16(-kLn2High), x);
  r = fma(n, fill16(-kLn2Low), r);
  vp p = fill16(kExp[0]);
  for (int i = 1; i < 6; i++) p = fma(p, r, fill16(kExp[i]));
  p = add(fma(p, mul(r, r), r), fill16(1.0f));
  const __m512i k = _mm512_cvtps_epi32(n), half = _mm512_srai_epi32(k, 1), bias = _mm512_set1_epi32(127);
  const vp low = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
  const vp high = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, half), bias), 23));
  return mul(mul(p, low), high);
}
#else
static inline vp exp(vp x) { return {exp(x.low), exp(x.high)}; }
#endif

// ln x for positive normal x.
static inline float log_scalar(float x) {
  int32_t bits = float_to_bits(x);
  float e = static_cast<float>(((bits >> 23) & 255) - 126);
  float m = bits_to_float((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  bool small = m < kSqrtHalf;
  e = e - (small ? 1.0f : 0.0f);
  m = (m + (small ? m : 0.0f)) - 1.0f;
  float z = m * m, p = kLog[0];
  for (int i = 1; i < 9; i++) p = __builtin_fmaf(p, m, kLog[i]);
  float y = p * m * z;
  y = __builtin_fmaf(e, kLn2Low, y);
  y = __builtin_fmaf(-0.5f, z, y);
  return __builtin_fmaf(e, kLn2High, m + y);
}

static inline vf log(vf x) {
  vi bits = as_int(x);
  vf e = to_float(isub(iand(shift_right<23>(bits), iset1(255)), iset1(126)));
  vf m = as_float(ior(iand(bits, iset1(0x007fffff)), iset1(0x3f000000)));
  vf small = less(m, set1(kSqrtHalf));
  e = sub(e, select(small, set1(1.0f), set1(0.0f)));
  m = sub(add(m, select(small, m, set1(0.0f))), set1(1.0f));
  vf z = mul(m, m), p = set1(kLog[0]);
  for (int i = 1; i < 9; i++) p = fma(p, m, set1(kLog[i]));
  vf y = mul(mul(p, m), z);
  y = fma(e, set1(kLn2Low), y);
  y = fma(set1(-0.5f), z, y);
  return fma(e, set1(kLn2High), add(m, y));
}

// x * sigmoid(x)
static inline float silu_scalar(float x) { return x / (1.0f + exp_scalar(-x)); }
static inline vf silu(vf x) { return div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// GELU in its tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x * sigmoid of twice that argument.
constexpr float kGelu = 1.59576912160573071176f, kGeluCube = 0.0713548162726008650f;  // 2 sqrt(2/pi), 0.044715 times it
static inline float gelu_scalar(float x) {
  return x / (1.0f + exp_scalar(-(x * __builtin_fmaf(x * x, kGeluCube, kGelu))));
}
static inline vf gelu(vf x) {
  const vf z = mul(x, fma(mul(x, x), set1(kGeluCube), set1(kGelu)));
  return div(x, add(set1(1.0f), exp(sub(set1(0.0f), z))));
}

// cos and sin of a non-negative angle below 2^31 quarter turns, in double precision.
static inline void cos_sin(double x, double* cosine, double* sine) {
  double n = __builtin_rint(x * 0.63661977236758134308);
  double r = __builtin_fma(-n, 1.57079632679489655800, x);
  r = __builtin_fma(-n, 6.12323399573676603587e-17, r);
  double z = r * r;
  const double s[6] = {1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
                       -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01};
  const double c[6] = {-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
                       2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02};
  double ps = s[0], pc = c[0];
  for (int i = 1; i < 6; i++) {
    ps = __builtin_fma(ps, z, s[i]);
    pc = __builtin_fma(pc, z, c[i]);
  }
  double sin_r = __builtin_fma(r * z, ps, r);
  double cos_r = __builtin_fma(z * z, pc, __builtin_fma(-0.5, z, 1.0));
  switch (static_cast<int64_t>(n) & 3) {
    case 0: *cosine = cos_r, *sine = sin_r; break;
    case 1: *cosine = -sin_r, *sine = cos_r; break;
    case 2: *cosine = -cos_r, *sine = -sin_r; break;
    default: *cosine = sin_r, *sine = -cos_r; break;
  }
}

// Philox4x32-10 (Salmon et al., SC 2011): four words of noise for a counter under a key.
constexpr uint32_t kPhiloxMul0 = 0xD2511F53u, kPhiloxMul1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;
struct Noise {
  uint32_t word[4];
};
static inline Noise philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = static_cast<uint64_t>(kPhiloxMul0) * c0, p1 = static_cast<uint64_t>(kPhiloxMul1) * c2;
    uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = static_cast<uint32_t>(p1), c2 = n2, c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxKey0, k1 += kPhiloxKey1;
  }
  return {{c0, c1, c2, c3}};
}
// The noise of token `id` at one position of one sample: ids 32b + 8j + i share counter 8b + i and take its word j,
// so that eight counters at once make 32 consecutive numbers.
static inline uint32_t token_noise(uint32_t id, uint32_t position, uint32_t sample, uint64_t seed) {
  return philox(id / 32 * 8 + id % 8, position, sample, 0, seed).word[id % 32 / 8];
}

// A word of noise as a number in (0, 1), fine near 0 where rare tokens are decided: 31 bits, half a step off zero.
constexpr float kUniformScale = 4.656612873077392578125e-10f;  // 2^-31
constexpr float kUniformMax = 0.999999940395355224609375f;     // 1 - 2^-24
constexpr float kSmallUniform = 0.000244140625f;               // 2^-12
static inline float uniform(uint32_t word) {
  float v = (static_cast<float>(static_cast<int32_t>(word >> 1)) + 0.5f) * kUniformScale;
  return v > kUniformMax ? kUniformMax : v;
}
// An exponential variate from a uniform one: -ln(1 - v), by its series where v is small.
static inline float exponential(float v) {
  float series = __builtin_fmaf(__builtin_fmaf(v, 0.33333334f, 0.5f), v * v, v);
  return v < kSmallUniform ? series : -log_scalar(1.0f - v);
}

}  // namespace mohist
