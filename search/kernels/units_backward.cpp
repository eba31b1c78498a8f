// Units backward: what lies between the input and the 1x1 convolution is computed again where the
// gradients of the weights need it.
#include "units.h"

namespace {

// Asks for memory that is read soon, so that the work before it need not wait for it then.
inline void ahead(const float* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// gw[dy][dx][c] += sum over one row of g[w] x[w * stride + dx * dilation], for ROWS neighbouring dy.
template <int K, int ROWS>
inline void taps_gradient(const Unit& u, const float* x, int64_t down, const float* g, float* gw) {
  const int64_t pi = u.pi(), step = u.stride * pi, tap = u.dilation * pi;
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
void depthwise_gradient_row(const Unit& u, Framed in, const float* g, int64_t ho, float* gw) {
  constexpr int ROWS = K == 3 ? 3 : K == 5 ? kRegisters / 16 + 1 : kRegisters / 16;  // as many sums as registers
  const float* x = in.data + ho * u.stride * in.wide * u.pi();
  const int64_t down = u.dilation * in.wide * u.pi();
  int dy = 0;
  for (; dy + ROWS <= K; dy += ROWS) taps_gradient<K, ROWS>(u, x + dy * down, down, g, gw + dy * K * u.pi());
  if constexpr (K % ROWS > 0) taps_gradient<K, K % ROWS>(u, x + dy * down, down, g, gw + dy * K * u.pi());
}

void gradient_row(const Unit& u, Framed in, const float* g, int64_t ho, float* gw) {
  switch (u.kernel) {
    case 3: return depthwise_gradient_row<3>(u, in, g, ho, gw);
    case 5: return depthwise_gradient_row<5>(u, in, g, ho, gw);
    default: return depthwise_gradient_row<7>(u, in, g, ho, gw);
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

// Gradients of a unit's weights in one part.
struct Gradients {
  std::vector<float> taps, across;
  std::vector<double> all_taps, all_across;
  void begin(const Unit& u) {
    taps.assign(u.kernel * u.kernel * u.pi(), 0.f), all_taps.assign(taps.size(), 0.0);
    across.assign(u.pi() * u.po(), 0.f), all_across.assign(across.size(), 0.0);
  }
  void flush() {
    for (size_t i = 0; i < taps.size(); i++) all_taps[i] += taps[i];
    for (size_t i = 0; i < across.size(); i++) all_across[i] += across[i];
    std::fill(taps.begin(), taps.end(), 0.f);
    std::fill(across.begin(), across.end(), 0.f);
  }
};

// One image's gradient of the depthwise convolution's output, framed; adds the weights' gradients.
void backward_bands(const Unit& u, Framed in, const float* g, const float* y, const NormGradient& norm,
                    const Weights& weights, bool of_weights, float* framed, Gradients& out, Scratch& s) {
  const int64_t pi = u.pi(), po = u.po(), wide = u.gradient_wide();
  if (of_weights) taps_of(u, in, weights.taps.data(), s.taps);
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
      float* row = framed + (ho * wide + u.pad() + 1) * pi;
      multiply(s.out.data() + (ho - from) * u.wo * po, po, weights.back.data(), row, pi, pi, u.wo, u.co);
      if (of_weights && u.deep()) gradient_row(u, in, row, ho, out.taps.data());
    }
    if (of_weights) outer(deep_rows(u, in, from, to, s), pi, s.out.data(), po, out.across.data(), pixels);
  }
}

// A unit on its way back: what it was given, and what all images need of that.
struct Way {
  const Backward& f;
  Weights weights;
  NormGradient norm;
  explicit Way(const Backward& given) : f(given), weights(f.u, f.depthwise, f.pointwise), norm(f) {}
};

// The taps through which column `first` of row `h` of the image reached the output of a unit, whose
// gradient is framed. Columns outside the output lie in the frame, which is zero there.
void taps_back(const Way& way, const float* framed, int64_t h, int64_t first, std::vector<Tap>& taps) {
  const Unit& u = way.f.u;
  const int64_t pi = u.pi(), p = u.pad(), wide = u.gradient_wide();
  for (int64_t dy = 0; dy < u.kernel; dy++) {
    const int64_t down = h + p - dy * u.dilation;
    if (down < 0 || down % u.stride || down / u.stride >= u.ho) continue;
    for (int64_t dx = 0; dx < u.kernel; dx++) {
      const int64_t across = first + p - dx * u.dilation;
      if (across % u.stride) continue;
      const int64_t at = down / u.stride * wide + across / u.stride + p + 1;
      taps.push_back({framed + at * pi, way.weights.taps.data() + (dy * u.kernel + dx) * pi});
    }
  }
}

// Those of all units and rows, which are the same for all images.
void all_taps_back(const std::vector<Way>& ways, Scratch& s) {
  const Unit& u = ways[0].f.u;
  s.back.assign(u.h * u.stride, {});
  for (int64_t at = 0; u.deep() && at < u.h * u.stride; at++)
    for (size_t i = 0; i < ways.size(); i++)
      taps_back(ways[i], s.gradients[i].data(), at / u.stride, at % u.stride, s.back[at]);
}

// Row `h` of the gradient of relu(a x + b), columns first, first + stride, ...: of all units.
const float* input_row(const Unit& u, int64_t h, int64_t first, int64_t columns, Scratch& s) {
  if (!u.deep()) return s.gradients[0].data() + (h * u.gradient_wide() + 1) * u.pi();
  taps_row(s.back[h * u.stride + first], 0, u.pi(), s.row.data(), columns, u.pi());
  return s.row.data();
}

// Hands the gradient of one image to what the units read, of which `f` is the first; to the sums of the
// part, if there are any, it adds those over the image.
void backward_input(const Backward& f, int64_t image, std::vector<double>& all_sums,
                    std::vector<double>& all_products, Scratch& s) {
  const Unit& u = f.u;
  const int64_t pi = u.pi();
  s.s.assign(pi, 0.f);
  s.q.assign(pi, 0.f);
  for (int64_t h = 0; h < u.h; h++) {
    const int64_t next = (image * u.h + h + 1) * u.w * u.ci;
    ahead(f.x + next, u.w * u.ci);
    if (f.add) ahead(f.gx + next, u.w * u.ci);
    for (int64_t first = 0; first < std::min(u.stride, u.w); first++) {
      const int64_t columns = (u.w - first + u.stride - 1) / u.stride;
      const float* row = input_row(u, h, first, columns, s);
      const int64_t at = ((image * u.h + h) * u.w + first) * u.ci, step = u.stride * u.ci;
      each_vector(u.ci, [&](int64_t c, auto lanes) {
        V sum = load(&s.s[c]), products = load(&s.q[c]);
        for (int64_t i = 0; i < columns; i++) {
          V v = load(row + i * pi + c);
          const V x = take(f.x + at + i * step + c, lanes);
          const V z = f.a ? x * load(f.a + c) + load(f.b + c) : x;
          v = z > zero() ? v : zero();
          sum += v;
          products += v * x;
          float* to = f.gx + at + i * step + c;
          put(to, f.add ? v + take(to, lanes) : v, lanes);
        }
        store(&s.s[c], sum);
        store(&s.q[c], products);
      });
    }
  }
  for (size_t c = 0; c < all_sums.size(); c++) {
    all_sums[c] += s.s[c];
    all_products[c] += s.q[c];
  }
}

// Gradients of a unit's weights from those of all parts.
void settle_weights(const Backward& f, const std::vector<Gradients>& found) {
  const Unit& u = f.u;
  const int64_t k2 = u.kernel * u.kernel, pi = u.pi(), po = u.po();
  auto total = [&](auto pick) {
    double sum = 0;
    for (const Gradients& part : found) sum += pick(part);
    return float(sum);
  };
  for (int64_t i = 0; f.gdepthwise && i < u.ci; i++)
    for (int64_t t = 0; t < k2; t++)
      f.gdepthwise[i * k2 + t] = total([&](const Gradients& part) { return part.all_taps[t * pi + i]; });
  for (int64_t o = 0; f.gpointwise && o < u.co; o++)
    for (int64_t i = 0; i < u.ci; i++)
      f.gpointwise[o * u.ci + i] = total([&](const Gradients& part) { return part.all_across[i * po + o]; });
}

void backward_together(const Backward* passes, int64_t count) {
  const Backward& f = passes[0];
  const Unit& u = f.u;
  const Frame frame(passes, count);
  const int64_t parts = parts_of(u.n);
  const std::vector<Way> ways(passes, passes + count);
  const bool of_weights = std::any_of(passes, passes + count, [](const Backward& one) { return one.gpointwise; });
  std::vector<std::vector<Gradients>> found(count, std::vector<Gradients>(parts));
  std::vector<std::vector<double>> sums(parts), products(parts);
  in_parts(parts, f.threads, [&](int64_t part) {
    Scratch& own = scratch;
    resize(frame, passes, count, own);
    for (int64_t i = 0; i < count; i++)
      if (passes[i].gpointwise) found[i][part].begin(passes[i].u);
    if (f.gx) all_taps_back(ways, own);
    if (f.gsums) sums[part].assign(u.ci, 0.0), products[part].assign(u.ci, 0.0);
    for (int64_t image = u.n * part / parts; image < u.n * (part + 1) / parts; image++) {
      if (of_weights) fill(frame, u, f.x + image * u.h * u.w * u.ci, f.a, f.b, own.framed.data());
      for (int64_t i = 0; i < count; i++) {
        const Backward& one = passes[i];
        const Framed in{own.framed.data() + frame.start(one.u), frame.wide};
        const int64_t at = image * one.u.ho * one.u.wo * one.u.co;
        backward_bands(one.u, in, one.g + at, one.y + at, ways[i].norm, ways[i].weights, one.gpointwise,
                       own.gradients[i].data(), found[i][part], own);
        found[i][part].flush();
      }
      if (f.gx) backward_input(f, image, sums[part], products[part], own);
    }
  });
  for (int64_t i = 0; i < count; i++) settle_weights(passes[i], found[i]);
  for (int64_t c = 0; f.gsums && c < u.ci; c++) {
    f.gsums[c] = f.gproducts[c] = 0;
    for (int64_t part = 0; part < parts; part++) f.gsums[c] += sums[part][c], f.gproducts[c] += products[part][c];
  }
}

}  // namespace

// One behind the other, but side by side where neighbours read the same: of those the first says
// whether and where to hand their gradient.
extern "C" void units_backward(const Backward* passes, int64_t count) {
  for (int64_t alike; count > 0; passes += alike, count -= alike) {
    backward_together(passes, alike = side_by_side(passes, count));
  }
}
