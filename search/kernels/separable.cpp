// A unit of a cell, forward and backward, channels last:
//
//   y = pointwise(depthwise(relu(a x + b)))          the batch norm behind it is an affine map of y
//
// A kernel of 1 is no depthwise convolution: the 1x1 convolution then reads the frame itself.
// An image passes through all of it before the next one is looked at, so that what lies in between
// stays in the processor's cache and is never stored: the backward pass computes it again. The
// affine map (a, b per channel) is the batch norm of a unit before this one, also never stored.
// Channels are padded to whole vectors in scratch memory, so any number of them is served.
#include <cmath>

#include "lanes.h"
#include "rows.h"

namespace {

struct Unit {
  int64_t n, h, w, ci, co, ho, wo, kernel, stride, dilation;
  int64_t pad() const { return dilation * (kernel - 1) / 2; }
  bool deep() const { return kernel > 1; }
  int64_t wide() const { return deep() ? w + 2 * pad() + kMargin : w; }  // a padded row
  int64_t pi() const { return up(ci); }
  int64_t po() const { return up(co); }
  // rows of output that are worked on together: enough pixels to fill the multiplication below
  int64_t band() const { return std::min(ho, std::max<int64_t>(1, 32 / wo)); }
  static constexpr int64_t kMargin = 8;
};

// Asks for memory that is read soon, so that the work before it need not wait for it then.
inline void ahead(const float* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// relu(a x + b) of one image into the middle of a frame whose borders are zero.
void frame(const Unit& u, const float* x, const float* a, const float* b, float* out) {
  const int64_t p = u.pad(), pi = u.pi();
  for (int64_t h = 0; h < u.h; h++) {
    float* row = out + ((h + p) * u.wide() + p) * pi;
    for (int64_t w = 0; w < u.w; w++, x += u.ci, row += pi) {
      each_vector(u.ci, [&](int64_t c, auto lanes) {
        V v = take(x + c, lanes);
        if (a) v = v * load(a + c) + load(b + c);
        store(row + c, positive(v));
      });
    }
  }
}

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

// Output row `ho` of the depthwise convolution of a frame; weights are (kernel * kernel, pi).
void depthwise_row(const Unit& u, const float* framed, const float* weights, int64_t ho, float* out,
                   std::vector<Tap>& taps) {
  const int64_t pi = u.pi();
  taps.clear();
  for (int64_t dy = 0; dy < u.kernel; dy++) {
    for (int64_t dx = 0; dx < u.kernel; dx++) {
      const int64_t at = (ho * u.stride + dy * u.dilation) * u.wide() + dx * u.dilation;
      taps.push_back({at * pi, weights + (dy * u.kernel + dx) * pi});
    }
  }
  taps_row(taps, framed, u.stride * pi, out, u.wo, pi);
}

// gw[dy][dx][c] += sum over one row of g[w] x[w * stride + dx * dilation], for ROWS neighbouring dy.
template <int K, int ROWS>
inline void taps_gradient(const Unit& u, const float* x, const float* g, float* gw) {
  const int64_t pi = u.pi(), step = u.stride * pi, tap = u.dilation * pi, down = u.dilation * u.wide() * pi;
  for (int64_t c = 0; c < pi; c += L) {
    V sums[ROWS][K];
#pragma GCC unroll 8
    for (int dy = 0; dy < ROWS; dy++)
#pragma GCC unroll 8
      for (int dx = 0; dx < K; dx++) sums[dy][dx] = load(gw + (dy * K + dx) * pi + c);
    const float *xp = x + c, *gp = g + c;
    for (int64_t w = 0; w < u.wo; w++, xp += step, gp += pi) {
      const V value = load(gp);
#pragma GCC unroll 8
      for (int dy = 0; dy < ROWS; dy++)
#pragma GCC unroll 8
        for (int dx = 0; dx < K; dx++) sums[dy][dx] += value * load(xp + dy * down + dx * tap);
    }
#pragma GCC unroll 8
    for (int dy = 0; dy < ROWS; dy++)
#pragma GCC unroll 8
      for (int dx = 0; dx < K; dx++) store(gw + (dy * K + dx) * pi + c, sums[dy][dx]);
  }
}

template <int K>
void depthwise_gradient_row(const Unit& u, const float* framed, const float* g, int64_t ho, float* gw) {
  constexpr int ROWS = K == 3 ? 3 : K == 5 ? 2 : 1;  // as many sums as there are registers
  const float* x = framed + ho * u.stride * u.wide() * u.pi();
  const int64_t down = u.dilation * u.wide() * u.pi();
  int dy = 0;
  for (; dy + ROWS <= K; dy += ROWS) taps_gradient<K, ROWS>(u, x + dy * down, g, gw + dy * K * u.pi());
  for (; dy < K; dy++) taps_gradient<K, 1>(u, x + dy * down, g, gw + dy * K * u.pi());
}

void gradient_row(const Unit& u, const float* framed, const float* g, int64_t ho, float* gw) {
  switch (u.kernel) {
    case 3: return depthwise_gradient_row<3>(u, framed, g, ho, gw);
    case 5: return depthwise_gradient_row<5>(u, framed, g, ho, gw);
    default: return depthwise_gradient_row<7>(u, framed, g, ho, gw);
  }
}

// Sums of one part, about a pivot so that a large mean costs no precision.
struct Moments {
  std::vector<double> sum, squares;
  std::vector<float> pivot;
  double count = 0;
};

struct Scratch {
  int64_t call = 0;
  std::vector<float> framed, gradients, depthwise, out, row, s, q;
  std::vector<Tap> taps;
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

// Writes a band of outputs and adds to the image's sums.
void settle(const Unit& u, const float* band, int64_t pixels, float* y, Moments& m, Scratch& s) {
  const int64_t po = u.po();
  if (m.pivot.empty()) {
    m.pivot.assign(po, 0.f);
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = 0; c < u.co; c++) m.pivot[c] += band[i * po + c] / pixels;
  }
  each_vector(u.co, [&](int64_t c, auto lanes) {
    const V pivot = load(&m.pivot[c]);
    V sum = load(&s.s[c]), squares = load(&s.q[c]);
    for (int64_t i = 0; i < pixels; i++) {
      const V v = load(band + i * po + c), off = v - pivot;
      sum += off;
      squares += off * off;
      put(y + i * u.co + c, v, lanes);
    }
    store(&s.s[c], sum);
    store(&s.q[c], squares);
  });
}

// What the 1x1 convolution reads for rows `from` to `to` of its output, pixel behind pixel.
const float* deep_rows(const Unit& u, const Weights& weights, int64_t from, int64_t to, Scratch& s) {
  const int64_t row = u.wo * u.pi();
  if (!u.deep()) return s.framed.data() + from * row;
  for (int64_t ho = from; ho < to; ho++) {
    depthwise_row(u, s.framed.data(), weights.taps.data(), ho, s.depthwise.data() + (ho - from) * row, s.taps);
  }
  return s.depthwise.data();
}

void forward_image(const Unit& u, const float* x, const float* a, const float* b, const Weights& weights,
                   float* y, Moments& m, Scratch& s) {
  const int64_t pi = u.pi(), po = u.po();
  frame(u, x, a, b, s.framed.data());
  s.s.assign(po, 0.f);
  s.q.assign(po, 0.f);
  for (int64_t from = 0; from < u.ho; from += u.band()) {
    const int64_t to = std::min(u.ho, from + u.band()), pixels = (to - from) * u.wo;
    const float* deep = deep_rows(u, weights, from, to, s);
    multiply(deep, pi, weights.across.data(), s.out.data(), po, po, pixels, u.ci);
    settle(u, s.out.data(), pixels, y + from * u.wo * u.co, m, s);
  }
  for (int64_t c = 0; c < u.co; c++) {
    m.sum[c] += s.s[c];
    m.squares[c] += s.q[c];
  }
  m.count += double(u.ho) * double(u.wo);
}

std::atomic<int64_t> calls{0};

// Room for one call; the borders of frames are zero and stay so.
void resize(const Unit& u, Scratch& s, int64_t call) {
  if (s.call == call) return;
  s.call = call;
  const int64_t pixels = u.band() * u.wo;
  s.framed.assign((u.h + 2 * u.pad()) * u.wide() * u.pi(), 0.f);
  s.gradients.assign(u.ho * (u.wo + 2 * (u.pad() + 1)) * u.pi(), 0.f);
  s.depthwise.resize(pixels * u.pi());
  s.out.assign(pixels * u.po(), 0.f);
  s.row.resize(u.w * u.pi());
}

// Mean and biased variance of all parts; from them the norm's moments, its affine map, its statistics.
void settle_norm(const std::vector<Moments>& parts, const Forward& f) {
  const int64_t step = padded(f.u.co);
  std::memset(f.norm, 0, 4 * step * sizeof(float));
  for (int64_t c = 0; c < f.u.co; c++) {
    double count = 0, mean = 0, squares = 0;
    for (const Moments& m : parts) {
      const double off = m.pivot[c] + m.sum[c] / m.count - mean;
      squares += m.squares[c] - m.sum[c] * m.sum[c] / m.count + off * off * count * m.count / (count + m.count);
      mean += off * m.count / (count + m.count);
      count += m.count;
    }
    const double variance = std::max(0.0, squares / count), inverse = 1.0 / std::sqrt(variance + f.epsilon);
    const double slope = inverse * (f.gamma ? f.gamma[c] : 1.0);
    f.norm[c] = float(mean);
    f.norm[step + c] = float(inverse);
    f.norm[2 * step + c] = float(slope);
    f.norm[3 * step + c] = float((f.beta ? f.beta[c] : 0.0) - slope * mean);
    if (!f.running_mean) continue;
    const double unbiased = variance * count / std::max(1.0, count - 1);
    f.running_mean[c] += float(f.momentum * (mean - f.running_mean[c]));
    f.running_variance[c] += float(f.momentum * (unbiased - f.running_variance[c]));
  }
}

// What batch norm does to the gradient g of its output: A g + B y + C is that of y.
struct NormGradient {
  std::vector<float> A, B, C;
  explicit NormGradient(const Backward& f) : A(f.u.po(), 0.f), B(f.u.po(), 0.f), C(f.u.po(), 0.f) {
    const double count = double(f.u.n) * double(f.u.ho) * double(f.u.wo);
    const float *means = f.norm, *inverses = f.norm + padded(f.u.co);
    for (int64_t c = 0; c < f.u.co; c++) {
      const double inverse = inverses[c], mean = means[c];
      const double product = inverse * (f.products[c] - mean * f.sums[c]);
      const double slope = (f.gamma ? f.gamma[c] : 1.0) * inverse * f.scale;
      const double bend = -slope * inverse * product / count;
      A[c] = float(slope);
      B[c] = float(bend);
      C[c] = float(-slope * f.sums[c] / count - bend * mean);
      if (f.ggamma) f.ggamma[c] = float(f.scale * product);
      if (f.gbeta) f.gbeta[c] = float(f.scale * f.sums[c]);
    }
  }
};

// Gradients of one part's weights and the sums of what it hands back.
struct Gradients {
  std::vector<float> taps, across;
  std::vector<double> all_taps, all_across, sums, products;
  void flush() {
    for (size_t i = 0; i < taps.size(); i++) all_taps[i] += taps[i];
    for (size_t i = 0; i < across.size(); i++) all_across[i] += across[i];
    std::fill(taps.begin(), taps.end(), 0.f);
    std::fill(across.begin(), across.end(), 0.f);
  }
};

// One image's gradient of the depthwise convolution's output, framed; adds the weights' gradients.
void backward_bands(const Unit& u, const float* g, const float* y, const NormGradient& norm, const Weights& weights,
                    bool of_weights, Gradients& out, Scratch& s) {
  const int64_t pi = u.pi(), po = u.po(), wide = u.wo + 2 * (u.pad() + 1);
  for (int64_t from = 0; from < u.ho; from += u.band()) {
    const int64_t to = std::min(u.ho, from + u.band()), pixels = (to - from) * u.wo;
    ahead(g + to * u.wo * u.co, pixels * u.co);
    ahead(y + to * u.wo * u.co, pixels * u.co);
    each_vector(u.co, [&](int64_t c, auto lanes) {
      const V A = load(&norm.A[c]), B = load(&norm.B[c]), C = load(&norm.C[c]);
      const int64_t at = from * u.wo * u.co + c;
      for (int64_t i = 0; i < pixels; i++) {
        const V v = A * take(g + at + i * u.co, lanes) + B * take(y + at + i * u.co, lanes) + C;
        store(&s.out[i * po + c], v);
      }
    });
    for (int64_t ho = from; ho < to; ho++) {
      float* row = s.gradients.data() + (ho * wide + u.pad() + 1) * pi;
      multiply(s.out.data() + (ho - from) * u.wo * po, po, weights.back.data(), row, pi, pi, u.wo, u.co);
      if (of_weights && u.deep()) gradient_row(u, s.framed.data(), row, ho, out.taps.data());
    }
    if (of_weights) outer(deep_rows(u, weights, from, to, s), pi, s.out.data(), po, out.across.data(), pixels);
  }
}

// Row `h` of the gradient of relu(a x + b), columns first, first + stride, ...: each tap that reached
// them gives back. Columns outside the output lie in the frame, which is zero there.
const float* input_row(const Unit& u, const Weights& weights, int64_t h, int64_t first, int64_t columns, Scratch& s) {
  const int64_t pi = u.pi(), p = u.pad(), wide = u.wo + 2 * (p + 1);
  if (!u.deep()) return s.gradients.data() + (h * wide + 1) * pi;
  s.taps.clear();
  for (int64_t dy = 0; dy < u.kernel; dy++) {
    const int64_t down = h + p - dy * u.dilation;
    if (down < 0 || down % u.stride || down / u.stride >= u.ho) continue;
    for (int64_t dx = 0; dx < u.kernel; dx++) {
      const int64_t across = first + p - dx * u.dilation;
      if (across % u.stride) continue;
      const int64_t at = down / u.stride * wide + across / u.stride + p + 1;
      s.taps.push_back({at * pi, weights.taps.data() + (dy * u.kernel + dx) * pi});
    }
  }
  taps_row(s.taps, s.gradients.data(), pi, s.row.data(), columns, pi);
  return s.row.data();
}

struct Source {
  const float *x, *a, *b;
  float* gradient;
  bool add;  // to what the gradient already holds
};

// Hands the gradient of one image to the unit's input.
void backward_input(const Unit& u, const Weights& weights, const Source& source, int64_t image, bool sums,
                    Gradients& out, Scratch& s) {
  const int64_t pi = u.pi();
  s.s.assign(pi, 0.f);
  s.q.assign(pi, 0.f);
  for (int64_t h = 0; h < u.h; h++) {
    const int64_t next = (image * u.h + h + 1) * u.w * u.ci;
    ahead(source.x + next, u.w * u.ci);
    if (source.add) ahead(source.gradient + next, u.w * u.ci);
    for (int64_t first = 0; first < std::min(u.stride, u.w); first++) {
      const int64_t columns = (u.w - first + u.stride - 1) / u.stride;
      const float* row = input_row(u, weights, h, first, columns, s);
      const int64_t at = ((image * u.h + h) * u.w + first) * u.ci, step = u.stride * u.ci;
      each_vector(u.ci, [&](int64_t c, auto lanes) {
        V sum = load(&s.s[c]), products = load(&s.q[c]);
        for (int64_t i = 0; i < columns; i++) {
          V v = load(row + i * pi + c);
          const V x = take(source.x + at + i * step + c, lanes);
          const V z = source.a ? x * load(source.a + c) + load(source.b + c) : x;
          v = z > zero() ? v : zero();
          sum += v;
          products += v * x;
          float* to = source.gradient + at + i * step + c;
          put(to, source.add ? v + take(to, lanes) : v, lanes);
        }
        store(&s.s[c], sum);
        store(&s.q[c], products);
      });
    }
  }
  if (!sums) return;
  for (int64_t c = 0; c < u.ci; c++) {
    out.sums[c] += s.s[c];
    out.products[c] += s.q[c];
  }
}

thread_local Scratch scratch;

}  // namespace

extern "C" void unit_forward(const Forward* given) {
  const Forward& f = *given;
  const Unit& u = f.u;
  const Weights weights(u, f.depthwise, f.pointwise);
  const int64_t parts = parts_of(u.n);
  const int64_t call = ++calls;
  std::vector<Moments> moments(parts);
  in_parts(parts, f.threads, [&](int64_t part) {
    Moments& m = moments[part];
    m.sum.assign(u.po(), 0.0);
    m.squares.assign(u.po(), 0.0);
    Scratch& own = scratch;
    resize(u, own, call);
    for (int64_t i = u.n * part / parts; i < u.n * (part + 1) / parts; i++) {
      forward_image(u, f.x + i * u.h * u.w * u.ci, f.a, f.b, weights, f.y + i * u.ho * u.wo * u.co, m, own);
    }
  });
  settle_norm(moments, f);
}

extern "C" void unit_backward(const Backward* given) {
  const Backward& f = *given;
  const Unit& u = f.u;
  const Weights weights(u, f.depthwise, f.pointwise);
  const NormGradient norm(f);
  const int64_t parts = parts_of(u.n), k2 = u.kernel * u.kernel, pi = u.pi(), po = u.po();
  const int64_t call = ++calls;
  std::vector<Gradients> found(parts);
  in_parts(parts, f.threads, [&](int64_t part) {
    Gradients& out = found[part];
    if (f.gpointwise) {
      out.taps.assign(k2 * pi, 0.f), out.all_taps.assign(k2 * pi, 0.0);
      out.across.assign(pi * po, 0.f), out.all_across.assign(pi * po, 0.0);
    }
    if (f.gsums) out.sums.assign(pi, 0.0), out.products.assign(pi, 0.0);
    Scratch& own = scratch;
    resize(u, own, call);
    for (int64_t i = u.n * part / parts; i < u.n * (part + 1) / parts; i++) {
      if (f.gpointwise) frame(u, f.x + i * u.h * u.w * u.ci, f.a, f.b, own.framed.data());
      const int64_t image = i * u.ho * u.wo * u.co;
      backward_bands(u, f.g + image, f.y + image, norm, weights, f.gpointwise, out, own);
      if (f.gx) backward_input(u, weights, {f.x, f.a, f.b, f.gx, bool(f.add)}, i, f.gsums, out, own);
      out.flush();
    }
  });
  auto total = [&](auto pick) {
    double sum = 0;
    for (const Gradients& out : found) sum += pick(out);
    return sum;
  };
  for (int64_t c = 0; f.gsums && c < u.ci; c++) {
    f.gsums[c] = total([&](const Gradients& out) { return out.sums[c]; });
    f.gproducts[c] = total([&](const Gradients& out) { return out.products[c]; });
  }
  for (int64_t i = 0; f.gdepthwise && i < u.ci; i++)
    for (int64_t t = 0; t < k2; t++)
      f.gdepthwise[i * k2 + t] = float(total([&](const Gradients& out) { return out.all_taps[t * pi + i]; }));
  for (int64_t o = 0; f.gpointwise && o < u.co; o++)
    for (int64_t i = 0; i < u.ci; i++)
      f.gpointwise[o * u.ci + i] = float(total([&](const Gradients& out) { return out.all_across[i * po + o]; }));
}
