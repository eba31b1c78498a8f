// Weighted sums of images by channel, and the sums over pixels that their gradients need; channels last.
//
// A pixel's channels need not fill whole vectors: coefficients repeat after so many vectors that they
// hold whole pixels, and the images are passed through as flat memory.
#include <numeric>

#include "lanes.h"

namespace {

constexpr int64_t kPixels = 256;  // about so many at a time, so that they stay in the nearest cache

// (rows, c) coefficients repeated to whole vectors.
struct Repeated {
  int64_t vectors;
  std::vector<float> values;
  Repeated(const float* from, int64_t rows, int64_t c) : vectors(c / std::gcd(c, L)), values(rows * vectors * L) {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < vectors * L; i++) values[r * vectors * L + i] = from[r * c + i % c];
  }
  const float* row(int64_t r) const { return &values[r * vectors * L]; }
};

// An image, and the affine map by channel of which the sum takes so much; a and b may be null.
struct Term {
  const float *values, *a, *b;
  double weight;
};

}  // namespace

// out = sum over terms of weight (a values + b); values: (n, pixels, c) each.
extern "C" void weighted_sum(const Term* terms, int64_t count, float* out, int64_t n, int64_t pixels, int64_t c,
                             int64_t threads) {
  std::vector<float> slopes(count * c), bias(c, 0.f);
  for (int64_t t = 0; t < count; t++) {
    for (int64_t i = 0; i < c; i++) {
      slopes[t * c + i] = float(terms[t].weight * (terms[t].a ? terms[t].a[i] : 1.f));
      if (terms[t].b) bias[i] += float(terms[t].weight * terms[t].b[i]);
    }
  }
  const Repeated by(slopes.data(), count, c), start(bias.data(), 1, c);
  const int64_t period = by.vectors * L, parts = parts_of(n), size = n * pixels * c;
  in_parts(parts, threads, [&](int64_t part) {
    // parts begin at whole periods; the last takes what is left
    const int64_t all = size / period, from = all * part / parts * period;
    const int64_t to = part + 1 == parts ? size : all * (part + 1) / parts * period;
    int64_t at = from;
    for (; at + period <= to; at += period) {
      for (int64_t i = 0; i < period; i += L) {
        V sum = load(start.row(0) + i);
        for (int64_t t = 0; t < count; t++) sum += load(by.row(t) + i) * load(terms[t].values + at + i);
        store(out + at + i, sum);
      }
    }
    for (int64_t i = 0; at + i < to; i++) {
      float sum = start.row(0)[i];
      for (int64_t t = 0; t < count; t++) sum += by.row(t)[i] * terms[t].values[at + i];
      out[at + i] = sum;
    }
  });
}

// sums: (c), of g over all pixels; products: (count, c), of g times each term's values; weights:
// (count), of g times each term's affine map, which is the gradient of its weight.
extern "C" void weighted_sum_products(const float* g, const Term* terms, int64_t count, double* sums,
                                      double* products, float* weights, int64_t n, int64_t pixels, int64_t c,
                                      int64_t threads) {
  const int64_t vectors = c / std::gcd(c, L), period = vectors * L, parts = parts_of(n), size = n * pixels * c;
  std::vector<std::vector<double>> found(parts, std::vector<double>((count + 1) * c, 0.0));
  in_parts(parts, threads, [&](int64_t part) {
    std::vector<double>& own = found[part];
    const int64_t all = size / period, to = all * (part + 1) / parts * period;
    const int64_t tile = std::max<int64_t>(1, kPixels * c / period) * period;
    for (int64_t at = all * part / parts * period; at < to; at += tile) {
      const int64_t end = std::min(to, at + tile);
      for (int64_t t = 0; t <= count; t++) {
        for (int64_t i = 0; i < period; i += L) {
          V sum = zero(), other = zero();
          int64_t j = at + i;
          if (t == count) {
            for (; j < end; j += period) sum += load(g + j);
          } else {
            for (; j + period < end; j += 2 * period) {
              sum += load(g + j) * load(terms[t].values + j);
              other += load(g + j + period) * load(terms[t].values + j + period);
            }
            if (j < end) sum += load(g + j) * load(terms[t].values + j);
          }
          sum += other;
          for (int64_t lane = 0; lane < L; lane++) own[t * c + (i + lane) % c] += sum[lane];
        }
      }
    }
    for (int64_t j = all * period; part + 1 == parts && j < size; j++) {
      for (int64_t t = 0; t <= count; t++) own[t * c + j % c] += t == count ? g[j] : g[j] * terms[t].values[j];
    }
  });
  for (int64_t i = 0; i < (count + 1) * c; i++) {
    double total = 0;
    for (const auto& own : found) total += own[i];
    (i < count * c ? products[i] : sums[i - count * c]) = total;
  }
  for (int64_t t = 0; t < count; t++) {
    double total = 0;
    for (int64_t i = 0; i < c; i++) {
      total += (terms[t].a ? terms[t].a[i] : 1.0) * products[t * c + i];
      if (terms[t].b) total += terms[t].b[i] * sums[i];
    }
    weights[t] = float(total);
  }
}
