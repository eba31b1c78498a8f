// Channels that were operated on and channels that pass by, taken in turns; channels last.
#include "lanes.h"

namespace {

// A pixel has `part` channels in each of `groups`; the first group was operated on. Where the others
// lie, pixels are `pitch` floats apart, of which the last (groups - 1) * part are theirs.
struct Passing {
  int64_t n, pixels, part, groups, pitch;
  int64_t skipped() const { return pitch - (groups - 1) * part; }
};

// f(first pixel, pixel behind the last, part) for parts of all images.
template <class F>
void pixels_in_parts(const Passing& p, int64_t threads, F f) {
  const int64_t parts = parts_of(p.n);
  in_parts(parts, threads, [&](int64_t part) {
    f(p.n * part / parts * p.pixels, p.n * (part + 1) / parts * p.pixels, part);
  });
}

}  // namespace

// shape: the members of Passing in order. out = the first channel of each group, the second, ...
extern "C" void passing_forward(const int64_t* shape, const float* chosen, const float* others, double weight,
                                float* out, int64_t threads) {
  Passing p;
  std::memcpy(&p, shape, sizeof(p));
  const float share = float(weight);
  pixels_in_parts(p, threads, [&](int64_t from, int64_t to, int64_t) {
    for (int64_t at = from; at < to; at++) {
      const float *first = chosen + at * p.part, *rest = others + at * p.pitch + p.skipped();
      float* y = out + at * p.part * p.groups;
      for (int64_t i = 0; i < p.part; i++, y += p.groups) {
        y[0] = first[i];
        for (int64_t j = 1; j < p.groups; j++) y[j] = share * rest[(j - 1) * p.part + i];
      }
    }
  });
}

// to_chosen, to_others (with zeros for what is not theirs) and to_weight, of which any may be null.
extern "C" void passing_backward(const int64_t* shape, const float* others, double weight, const float* g,
                                 float* to_chosen, float* to_others, double* to_weight, int64_t threads) {
  Passing p;
  std::memcpy(&p, shape, sizeof(p));
  const float share = float(weight);
  std::vector<double> found(parts_of(p.n), 0.0);
  pixels_in_parts(p, threads, [&](int64_t from, int64_t to, int64_t part) {
    for (int64_t at = from; at < to; at++) {
      const float *up = g + at * p.part * p.groups, *rest = others + at * p.pitch + p.skipped();
      if (to_chosen) {
        for (int64_t i = 0; i < p.part; i++) to_chosen[at * p.part + i] = up[i * p.groups];
      }
      if (to_others) {
        float* down = to_others + at * p.pitch;
        std::memset(down, 0, p.skipped() * sizeof(float));
        down += p.skipped();
        for (int64_t i = 0; i < p.part; i++) {
          for (int64_t j = 1; j < p.groups; j++) down[(j - 1) * p.part + i] = share * up[i * p.groups + j];
        }
      }
      if (to_weight) {
        float sum = 0;
        for (int64_t i = 0; i < p.part; i++) {
          for (int64_t j = 1; j < p.groups; j++) sum += rest[(j - 1) * p.part + i] * up[i * p.groups + j];
        }
        found[part] += sum;
      }
    }
  });
  if (to_weight) {
    *to_weight = 0;
    for (double one : found) *to_weight += one;
  }
}
