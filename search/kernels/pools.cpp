// Pools of odd windows that keep an image's size or halve it, channels last; padding does not count.
#include "lanes.h"

namespace {

struct Pool {
  int64_t n, h, w, c, ho, wo, kernel, stride;
};

// f(offset of the first channel) for each pixel of the window that lies inside the image.
template <class F>
inline void window(const Pool& p, int64_t ho, int64_t wo, F f) {
  const int64_t top = ho * p.stride - p.kernel / 2, left = wo * p.stride - p.kernel / 2;
  for (int64_t h = std::max<int64_t>(0, top); h < std::min(p.h, top + p.kernel); h++)
    for (int64_t w = std::max<int64_t>(0, left); w < std::min(p.w, left + p.kernel); w++) f((h * p.w + w) * p.c);
}

inline float inside(const Pool& p, int64_t ho, int64_t wo) {
  auto along = [&](int64_t at, int64_t size) {
    const int64_t first = at * p.stride - p.kernel / 2;
    return std::min(size, first + p.kernel) - std::max<int64_t>(0, first);
  };
  return float(along(ho, p.h) * along(wo, p.w));
}

void forward(const Pool& p, bool largest, const float* x, float* y) {
  for (int64_t ho = 0; ho < p.ho; ho++) {
    for (int64_t wo = 0; wo < p.wo; wo++, y += p.c) {
      const float share = 1.f / inside(p, ho, wo);
      each_vector(p.c, [&](int64_t c, auto lanes) {
        V v = largest ? zero() - __builtin_inff() : zero();
        window(p, ho, wo, [&](int64_t at) {
          const V other = take(x + at + c, lanes);
          // a number that is none wins, as in torch
          v = largest ? ((other > v) | (other != other) ? other : v) : v + other;
        });
        put(y + c, largest ? v : v * share, lanes);
      });
    }
  }
}

void backward(const Pool& p, bool largest, const float* x, const float* y, const float* g, float* gx) {
  for (int64_t ho = 0; ho < p.ho; ho++) {
    for (int64_t wo = 0; wo < p.wo; wo++, y += p.c, g += p.c) {
      const float share = 1.f / inside(p, ho, wo);
      each_vector(p.c, [&](int64_t c, auto lanes) {
        V left = take(g + c, lanes);  // of several that are largest, the first takes all
        const V most = largest ? take(y + c, lanes) : zero(), part = left * share;
        window(p, ho, wo, [&](int64_t at) {
          V given = part;
          if (largest) {
            const auto here = take(x + at + c, lanes) == most;
            given = here ? left : zero();
            left = here ? zero() : left;
          }
          put(gx + at + c, take(gx + at + c, lanes) + given, lanes);
        });
      });
    }
  }
}

}  // namespace

// shape: the members of Pool in order. x: (n, h, w, c), y: (n, ho, wo, c).
extern "C" void pool_forward(const int64_t* shape, int64_t largest, const float* x, float* y, int64_t threads) {
  Pool p;
  std::memcpy(&p, shape, sizeof(p));
  in_parts(p.n, threads, [&](int64_t i) {
    forward(p, largest, x + i * p.h * p.w * p.c, y + i * p.ho * p.wo * p.c);
  });
}

// x and y are not looked at for a mean.
extern "C" void pool_backward(const int64_t* shape, int64_t largest, const float* x, const float* y,
                              const float* g, float* gx, int64_t threads) {
  Pool p;
  std::memcpy(&p, shape, sizeof(p));
  in_parts(p.n, threads, [&](int64_t i) {
    const int64_t in = i * p.h * p.w * p.c, out = i * p.ho * p.wo * p.c;
    std::memset(gx + in, 0, p.h * p.w * p.c * sizeof(float));
    backward(p, largest, x + in, y + out, g + out, gx + in);
  });
}
