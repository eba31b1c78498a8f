// Units forward, and the sums that the batch norm behind each of them is made of.
#include <cmath>

#include "units.h"

namespace {

// Sums of one part, about a pivot so that a large mean costs no precision.
struct Moments {
  std::vector<double> sum, squares;
  std::vector<float> pivot;
  double count = 0;
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

void forward_image(const Unit& u, Framed in, const Weights& weights, float* y, Moments& m, Scratch& s) {
  const int64_t pi = u.pi(), po = u.po();
  s.s.assign(po, 0.f);
  s.q.assign(po, 0.f);
  taps_of(u, in, weights.taps.data(), s.taps);
  for (int64_t from = 0; from < u.ho; from += u.band()) {
    const int64_t to = std::min(u.ho, from + u.band()), pixels = (to - from) * u.wo;
    const float* deep = deep_rows(u, in, from, to, s);
    multiply(deep, pi, weights.across.data(), s.out.data(), po, po, pixels, u.ci);
    settle(u, s.out.data(), pixels, y + from * u.wo * u.co, m, s);
  }
  for (int64_t c = 0; c < u.co; c++) {
    m.sum[c] += s.s[c];
    m.squares[c] += s.q[c];
  }
  m.count += double(u.ho) * double(u.wo);
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

void forward_together(const Forward* passes, int64_t count) {
  const Unit& u = passes[0].u;
  const Frame frame(passes, count);
  const int64_t parts = parts_of(u.n);
  std::vector<Weights> weights;
  for (int64_t i = 0; i < count; i++) weights.emplace_back(passes[i].u, passes[i].depthwise, passes[i].pointwise);
  std::vector<std::vector<Moments>> moments(count, std::vector<Moments>(parts));
  in_parts(parts, passes[0].threads, [&](int64_t part) {
    Scratch& own = scratch;
    resize(frame, passes, count, own);
    for (int64_t i = 0; i < count; i++) {
      moments[i][part].sum.assign(passes[i].u.po(), 0.0);
      moments[i][part].squares.assign(passes[i].u.po(), 0.0);
    }
    for (int64_t image = u.n * part / parts; image < u.n * (part + 1) / parts; image++) {
      const Forward& f = passes[0];
      fill(frame, u, f.x + image * u.h * u.w * u.ci, f.a, f.b, own.framed.data());
      for (int64_t i = 0; i < count; i++) {
        const Unit& of = passes[i].u;
        const Framed in{own.framed.data() + frame.start(of), frame.wide};
        forward_image(of, in, weights[i], passes[i].y + image * of.ho * of.wo * of.co, moments[i][part], own);
      }
    }
  });
  for (int64_t i = 0; i < count; i++) settle_norm(moments[i], passes[i]);
}

}  // namespace

// One behind the other, but side by side where neighbours read the same.
extern "C" void units_forward(const Forward* passes, int64_t count) {
  for (int64_t alike; count > 0; passes += alike, count -= alike) {
    forward_together(passes, alike = side_by_side(passes, count));
  }
}
