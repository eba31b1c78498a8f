// A unit of a cell, channels last; units_forward.cpp and units_backward.cpp are its two passes:
//
//   y = pointwise(depthwise(relu(a x + b)))          the batch norm behind it is an affine map of y
//
// A kernel of 1 is no depthwise convolution: the 1x1 convolution then reads the frame itself.
// An image passes through all of it before the next one is looked at, so that what lies in between
// stays in the processor's cache and is never stored: the backward pass computes it again. The
// affine map (a, b per channel) is the batch norm of a unit before this one, also never stored.
// Channels are padded to whole vectors in scratch memory, so any number of them is served.
//
// Units that read the same image are computed side by side: it is read, and its gradient written, once
// for all of them.
#pragma once
#include "lanes.h"
#include "rows.h"

namespace {

struct Unit {
  int64_t n, h, w, ci, co, ho, wo, kernel, stride, dilation;
  int64_t pad() const { return dilation * (kernel - 1) / 2; }
  bool deep() const { return kernel > 1; }
  int64_t pi() const { return up(ci); }
  int64_t po() const { return up(co); }
  // rows of output that are worked on together: enough pixels to fill the multiplication below
  int64_t band() const { return std::min(ho, std::max<int64_t>(1, 32 / wo)); }
  // pixels of a row of the frame around the gradient of the depthwise convolution's output
  int64_t gradient_wide() const { return wo + 2 * (pad() + 1); }
};

// How many of `count` passes, from the first, can be computed side by side.
template <class Pass>
int64_t side_by_side(const Pass* passes, int64_t count) {
  const Unit& u = passes[0].u;
  int64_t alike = 1;
  auto same = [&](const Pass& other) {
    return other.x == passes[0].x && u.deep() && other.u.deep() && other.u.stride == u.stride;
  };
  while (alike < count && same(passes[alike])) alike++;
  return alike;
}

// The frame around an image: zeros, as wide as the widest of some units needs.
struct Frame {
  int64_t pad = 0, wide, rows, pi;
  template <class Pass>
  Frame(const Pass* passes, int64_t count) {
    const Unit& u = passes[0].u;
    for (int64_t i = 0; i < count; i++) pad = std::max(pad, passes[i].u.pad());
    wide = u.w + 2 * pad, rows = u.h + 2 * pad, pi = u.pi();
  }
  // where the frame of a unit that needs less begins
  int64_t start(const Unit& u) const { return (pad - u.pad()) * (wide + 1) * pi; }
};

// What a forward pass is given. x: (n, h, w, ci); a, b: (ci and zeros up to whole vectors), or null;
// depthwise: (ci, kernel, kernel), null with a kernel of 1; pointwise: (co, ci); y: (n, ho, wo, co);
// gamma, beta, running_mean, running_variance: (co), or null; norm: (4, co and zeros), the mean of y,
// its inverse standard deviation, and the affine map that the batch norm is.
struct Forward {
  Unit u;
  const float *x, *a, *b, *depthwise, *pointwise;
  float* y;
  const float *gamma, *beta;
  float *running_mean, *running_variance, *norm;
  double epsilon, momentum;
  int64_t threads;
};

// What a backward pass is given beside that. g: gradient of `scale` times the batch norm of y; sums,
// products: (co), of g and of g y over all pixels; add: whether gx is added to. gdepthwise, gpointwise:
// null where they are not needed; gsums, gproducts: (ci), of gx and of gx x, or null.
struct Backward {
  Unit u;
  const float *x, *a, *b, *depthwise, *pointwise, *y, *g;
  const double *sums, *products;
  const float *gamma, *norm;
  float *ggamma, *gbeta, *gx, *gdepthwise, *gpointwise;
  double *gsums, *gproducts, scale;
  int64_t add, threads;
};

// relu(a x + b) of one image into the middle of a frame whose borders are zero.
void fill(const Frame& frame, const Unit& u, const float* x, const float* a, const float* b, float* out) {
  for (int64_t h = 0; h < u.h; h++) {
    float* row = out + ((h + frame.pad) * frame.wide + frame.pad) * frame.pi;
    for (int64_t w = 0; w < u.w; w++, x += u.ci, row += frame.pi) {
      each_vector(u.ci, [&](int64_t c, auto lanes) {
        V v = take(x + c, lanes);
        if (a) v = v * load(a + c) + load(b + c);
        store(row + c, positive(v));
      });
    }
  }
}

// An image in its frame, as a unit sees it: rows are `wide` pixels apart.
struct Framed {
  const float* data;
  int64_t wide;
};

// What the first row of the depthwise convolution's output is made of; weights are (kernel * kernel, pi).
void taps_of(const Unit& u, Framed in, const float* weights, std::vector<Tap>& taps) {
  const int64_t pi = u.pi();
  taps.clear();
  for (int64_t dy = 0; u.deep() && dy < u.kernel; dy++) {
    for (int64_t dx = 0; dx < u.kernel; dx++) {
      const int64_t at = dy * u.dilation * in.wide + dx * u.dilation;
      taps.push_back({in.data + at * pi, weights + (dy * u.kernel + dx) * pi});
    }
  }
}

struct Scratch {
  std::vector<float> framed, depthwise, out, row, s, q;
  std::vector<std::vector<float>> gradients;  // of each unit's depthwise convolution, framed
  std::vector<Tap> taps;
  std::vector<std::vector<Tap>> back;  // for each row of the image and each column of a stride
};

// Weights as the loops read them: taps by channel, and the 1x1 convolution both ways round.
struct Weights {
  std::vector<float> taps, across, back;
  Weights(const Unit& u, const float* depthwise, const float* pointwise)
      : taps(u.kernel * u.kernel * u.pi(), 0.f), across(u.ci * u.po(), 0.f), back(u.co * u.pi(), 0.f) {
    const int64_t k2 = u.kernel * u.kernel;
    for (int64_t c = 0; c < u.ci; c++)
      for (int64_t t = 0; u.deep() && t < k2; t++) taps[t * u.pi() + c] = depthwise[c * k2 + t];
    for (int64_t o = 0; o < u.co; o++) {
      for (int64_t i = 0; i < u.ci; i++) {
        across[i * u.po() + o] = pointwise[o * u.ci + i];
        back[o * u.pi() + i] = pointwise[o * u.ci + i];
      }
    }
  }
};

// What the 1x1 convolution reads for rows `from` to `to` of its output, pixel behind pixel.
const float* deep_rows(const Unit& u, Framed in, int64_t from, int64_t to, Scratch& s) {
  const int64_t row = u.wo * u.pi(), down = u.stride * in.wide * u.pi();
  if (!u.deep()) return in.data + from * row;
  for (int64_t ho = from; ho < to; ho++) {
    taps_row(s.taps, ho * down, u.stride * u.pi(), s.depthwise.data() + (ho - from) * row, u.wo, u.pi());
  }
  return s.depthwise.data();
}

// Room for some units side by side; the borders of frames are zero and stay so.
template <class Pass>
void resize(const Frame& frame, const Pass* passes, int64_t count, Scratch& s) {
  s.framed.assign(frame.rows * frame.wide * frame.pi, 0.f);
  s.gradients.resize(std::max<size_t>(s.gradients.size(), count));
  int64_t deep = 0, out = 0;
  for (int64_t i = 0; i < count; i++) {
    const Unit& u = passes[i].u;
    deep = std::max(deep, u.band() * u.wo * u.pi());
    out = std::max(out, u.band() * u.wo * u.po());
    if constexpr (std::is_same_v<Pass, Backward>) s.gradients[i].assign(u.ho * u.gradient_wide() * u.pi(), 0.f);
  }
  s.depthwise.resize(deep);
  s.out.assign(out, 0.f);
  s.row.resize(passes[0].u.w * frame.pi);
}

thread_local Scratch scratch;

}  // namespace
