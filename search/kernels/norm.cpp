// Batch norm in training and the activation behind it, channels last; sums in double precision.
#include <cmath>
#include <numeric>

#include "lanes.h"

namespace {

// gamma, beta, running_mean, running_variance: (c), or null; norm: (4, c and zeros), mean, inverse
// standard deviation and the affine map. The activation keeps what lies between floor and ceiling.
struct Norm {
  int64_t n, pixels, c;
  const float *x, *gamma, *beta;
  float *running_mean, *running_variance, *norm, *y;
  const float* g;
  float *gx, *ggamma, *gbeta;
  double epsilon, momentum;
  int64_t bounded;  // whether there is an activation
  double floor, ceiling;
  int64_t threads;
  // channels repeated until they are whole vectors, and enough of them for sums not to wait
  int64_t period() const {
    const int64_t least = c / std::gcd(c, L) * L;
    return least * std::max<int64_t>(1, 8 * L / least);
  }
  std::vector<float> repeated(const float* values) const {
    std::vector<float> all(period());
    for (int64_t i = 0; i < period(); i++) all[i] = values[i % c];
    return all;
  }
};

constexpr int64_t kRows = 64;  // of whole periods, whose sums are single precision

// Sums over all pixels of two numbers by channel; add(i, at, sums, others) takes the vector at `at`,
// whose channels begin at i of the period.
template <class Add>
void sums(const Norm& f, double* first, double* second, Add add) {
  const int64_t period = f.period(), size = f.n * f.pixels * f.c, rows = size / period, parts = parts_of(f.n);
  std::vector<std::vector<double>> found(parts, std::vector<double>(2 * f.c, 0.0));
  in_parts(parts, f.threads, [&](int64_t part) {
    std::vector<float> a(period), b(period), rest(L);
    const int64_t to = rows * (part + 1) / parts;
    auto flush = [&] {
      for (int64_t i = 0; i < period; i++) found[part][i % f.c] += a[i], found[part][f.c + i % f.c] += b[i];
      std::fill(a.begin(), a.end(), 0.f), std::fill(b.begin(), b.end(), 0.f);
    };
    for (int64_t row = rows * part / parts; row < to;) {
      for (const int64_t end = std::min(to, row + kRows); row < end; row++)
        for (int64_t i = 0; i < period; i += L) add(i, row * period + i, L, &a[i], &b[i]);
      flush();
    }
    if (part + 1 < parts) return;
    for (int64_t i = 0; rows * period + i < size; i += L)
      add(i, rows * period + i, std::min(L, size - rows * period - i), &a[i], &b[i]);
    flush();
  });
  for (int64_t c = 0; c < f.c; c++) {
    first[c] = second[c] = 0;
    for (const auto& own : found) first[c] += own[c], second[c] += own[f.c + c];
  }
}

// each(i, at, lanes) for every vector of the image, in parts.
template <class Each>
void everywhere(const Norm& f, Each each) {
  const int64_t period = f.period(), size = f.n * f.pixels * f.c, rows = size / period, parts = parts_of(f.n);
  in_parts(parts, f.threads, [&](int64_t part) {
    for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; row++)
      for (int64_t i = 0; i < period; i += L) each(i, row * period + i, L);
    for (int64_t i = 0; part + 1 == parts && rows * period + i < size; i += L)
      each(i, rows * period + i, std::min(L, size - rows * period - i));
  });
}

inline V all(double value) { return zero() + float(value); }

// What the activation lets through of a gradient at z.
inline V through(const Norm& f, V z, V g) {
  if (!f.bounded) return g;
  g = z > all(f.floor) ? g : zero();
  return z < all(f.ceiling) ? g : zero();
}

}  // namespace

extern "C" void norm_forward(const Norm* given) {
  const Norm& f = *given;
  const double count = double(f.n) * double(f.pixels);
  const int64_t step = padded(f.c);
  // about the first pixel, so that a large mean costs no precision
  const std::vector<float> pivot = f.repeated(f.x);
  std::vector<double> first(f.c), second(f.c);
  sums(f, first.data(), second.data(), [&](int64_t i, int64_t at, int64_t lanes, float* a, float* b) {
    V off = take(f.x + at, lanes) - load(&pivot[i]);
    if (lanes < L) off = load_some(reinterpret_cast<const float*>(&off), lanes);
    store(a, load(a) + off);
    store(b, load(b) + off * off);
  });
  std::memset(f.norm, 0, 4 * step * sizeof(float));
  for (int64_t c = 0; c < f.c; c++) {
    const double off = first[c] / count, mean = pivot[c] + off;
    const double variance = std::max(0.0, second[c] / count - off * off);
    const double inverse = 1.0 / std::sqrt(variance + f.epsilon), slope = inverse * (f.gamma ? f.gamma[c] : 1.0);
    f.norm[c] = float(mean);
    f.norm[step + c] = float(inverse);
    f.norm[2 * step + c] = float(slope);
    f.norm[3 * step + c] = float((f.beta ? f.beta[c] : 0.0) - slope * mean);
    if (!f.running_mean) continue;
    f.running_mean[c] += float(f.momentum * (mean - f.running_mean[c]));
    f.running_variance[c] += float(f.momentum * (variance * count / std::max(1.0, count - 1) - f.running_variance[c]));
  }
  const std::vector<float> a = f.repeated(f.norm + 2 * step), b = f.repeated(f.norm + 3 * step);
  everywhere(f, [&](int64_t i, int64_t at, int64_t lanes) {
    V z = load(&a[i]) * take(f.x + at, lanes) + load(&b[i]);
    if (f.bounded) {
      z = z < all(f.floor) ? all(f.floor) : z;
      z = z > all(f.ceiling) ? all(f.ceiling) : z;
    }
    put(f.y + at, z, lanes);
  });
}

extern "C" void norm_backward(const Norm* given) {
  const Norm& f = *given;
  const double count = double(f.n) * double(f.pixels);
  const int64_t step = padded(f.c);
  const std::vector<float> a = f.repeated(f.norm + 2 * step), b = f.repeated(f.norm + 3 * step);
  auto gradient = [&](int64_t i, int64_t at, int64_t lanes, V x) {
    return through(f, load(&a[i]) * x + load(&b[i]), take(f.g + at, lanes));
  };
  std::vector<double> total(f.c), products(f.c);
  sums(f, total.data(), products.data(), [&](int64_t i, int64_t at, int64_t lanes, float* p, float* q) {
    const V x = take(f.x + at, lanes), g = gradient(i, at, lanes, x);
    store(p, load(p) + g);
    store(q, load(q) + g * x);
  });
  std::vector<float> slope(f.c), bend(f.c), shift(f.c);
  for (int64_t c = 0; c < f.c; c++) {
    const double mean = f.norm[c], inverse = f.norm[step + c];
    const double product = inverse * (products[c] - mean * total[c]);
    const double by = inverse * (f.gamma ? f.gamma[c] : 1.0), curve = -by * inverse * product / count;
    slope[c] = float(by);
    bend[c] = float(curve);
    shift[c] = float(-by * total[c] / count - curve * mean);
    if (f.ggamma) f.ggamma[c] = float(product);
    if (f.gbeta) f.gbeta[c] = float(total[c]);
  }
  if (!f.gx) return;
  const std::vector<float> A = f.repeated(slope.data()), B = f.repeated(bend.data()), C = f.repeated(shift.data());
  everywhere(f, [&](int64_t i, int64_t at, int64_t lanes) {
    const V x = take(f.x + at, lanes);
    put(f.gx + at, load(&A[i]) * gradient(i, at, lanes, x) + load(&B[i]) * x + load(&C[i]), lanes);
  });
}
