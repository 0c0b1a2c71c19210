// What becomes of a gate g and the number u beside it, and how gradients flow back: mohist_glu_args, mohist_moe_args.
#pragma once
#include <algorithm>

#include "elementary.h"
#include "mohist.h"

namespace mohist {

static inline float sigmoid(float x) { return 1.0f / (1.0f + exp_scalar(-x)); }
static inline vf sigmoid(vf x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// silu(g) * u
struct Silu {
  float operator()(float g, float u) const { return silu_scalar(g) * u; }
  vf operator()(vf g, vf u) const { return mul(silu(g), u); }

  void backward(float g, float u, float dy, float* dg, float* du) const {
    const float open = sigmoid(g);
    *dg = dy * u * open * __builtin_fmaf(g, 1.0f - open, 1.0f);
    *du = dy * g * open;
  }
  void backward(vf g, vf u, vf dy, vf* dg, vf* du) const {
    const vf one = set1(1.0f), open = sigmoid(g);
    *dg = mul(mul(mul(dy, u), open), fma(g, sub(one, open), one));
    *du = mul(mul(dy, g), open);
  }
};

// gelu(g) * u
struct GeluTanh {
  float operator()(float g, float u) const { return gelu_scalar(g) * u; }
  vf operator()(vf g, vf u) const { return mul(gelu(g), u); }

  void backward(float g, float u, float dy, float* dg, float* du) const {
    const float square = g * g, open = sigmoid(g * __builtin_fmaf(square, kGeluCube, kGelu));
    const float slope = __builtin_fmaf(square, 3.0f * kGeluCube, kGelu);
    *dg = dy * u * open * __builtin_fmaf(g * slope, 1.0f - open, 1.0f);
    *du = dy * g * open;
  }
  void backward(vf g, vf u, vf dy, vf* dg, vf* du) const {
    const vf one = set1(1.0f), square = mul(g, g), open = sigmoid(mul(g, fma(square, set1(kGeluCube), set1(kGelu))));
    const vf slope = fma(square, set1(3.0f * kGeluCube), set1(kGelu));
    *dg = mul(mul(mul(dy, u), open), fma(mul(g, slope), sub(one, open), one));
    *du = mul(mul(dy, g), open);
  }
};

// (u + 1) * g * sigmoid(steepness g), with g at most, and u within, a limit (gpt-oss). Beyond it nothing flows back.
struct ClampedSilu {
  float steepness, limit;

  float operator()(float g, float u) const {
    g = std::min(g, limit);
    return (std::min(std::max(u, -limit), limit) + 1.0f) * (g / (1.0f + exp_scalar(-(steepness * g))));
  }
  vf operator()(vf g, vf u) const {
    const vf one = set1(1.0f), most = set1(limit), zero = set1(0.0f);
    g = min(g, most);
    return mul(add(min(max(u, set1(-limit)), most), one), div(g, add(one, exp(sub(zero, mul(set1(steepness), g))))));
  }

  void backward(float g, float u, float dy, float* dg, float* du) const {
    const float gate = std::min(g, limit), shifted = std::min(std::max(u, -limit), limit) + 1.0f;
    const float open = sigmoid(steepness * gate);
    *dg = g > limit ? 0.0f : dy * shifted * open * __builtin_fmaf(steepness * gate, 1.0f - open, 1.0f);
    *du = u > limit || u < -limit ? 0.0f : dy * gate * open;
  }
  void backward(vf g, vf u, vf dy, vf* dg, vf* du) const {
    const vf one = set1(1.0f), zero = set1(0.0f), most = set1(limit), least = set1(-limit);
    const vf gate = min(g, most), shifted = add(min(max(u, least), most), one);
    const vf steep = mul(set1(steepness), gate), open = sigmoid(steep);
    *dg = select(less(most, g), zero, mul(mul(mul(dy, shifted), open), fma(steep, sub(one, open), one)));
    *du = select(less(most, u), zero, select(less(u, least), zero, mul(mul(dy, gate), open)));
  }
};

// sigmoid(g) * u
struct Sigmoid {
  float operator()(float g, float u) const { return sigmoid(g) * u; }
  vf operator()(vf g, vf u) const { return mul(sigmoid(g), u); }

  void backward(float g, float u, float dy, float* dg, float* du) const {
    const float open = sigmoid(g);
    *dg = dy * u * open * (1.0f - open);
    *du = dy * open;
  }
  void backward(vf g, vf u, vf dy, vf* dg, vf* du) const {
    const vf open = sigmoid(g);
    *dg = mul(mul(mul(dy, u), open), sub(set1(1.0f), open));
    *du = mul(dy, open);
  }
};

// Calls f with the activation that is meant.
template <class F> static inline void with_activation(const mohist_activation& a, const F& f) {
  switch (a.kind) {
    case MOHIST_GATE_GELU_TANH: return f(GeluTanh{});
    case MOHIST_GATE_CLAMPED_SILU: return f(ClampedSilu{a.steepness, a.limit});
    case MOHIST_GATE_SIGMOID: return f(Sigmoid{});
    default: return f(Silu{});
  }
}

}  // namespace mohist
