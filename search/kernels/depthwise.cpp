// The weight gradient of a depthwise convolution, channels last.
//
//   gw[c][dy][dx] = sum over n, ho, wo of  x[n][ho*s - p + dy*d][wo*s - p + dx*d][c] * g[n][ho][wo][c]
//
// A block of neighbouring channels is one vector; a row of K sums stays in registers while a row of
// the image passes. Vectors are the compiler's own, so one source serves AVX2, AVX-512 and NEON.
// Each output number is summed in one fixed order, whatever the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

struct Shape {
  int64_t n, h, w, c, ho, wo, stride, pad, dilation;
};

template <int B>
struct Vector {
  typedef float type __attribute__((vector_size(B * sizeof(float)), aligned(sizeof(float)), may_alias));
};
template <>
struct Vector<1> {
  typedef float type;
};

// As wide as a register: GCC's code for blocks of two is far slower (seen with AVX2). A row's sums
// wait for each other's multiplication, so there are several sets of them, as far as registers go.
#ifdef __AVX512F__
constexpr int kWidest = 16;
template <int K>
constexpr int kSets = K == 3 ? 3 : K == 5 ? 2 : 1;
#else
constexpr int kWidest = 8;
template <int K>
constexpr int kSets = K == 3 ? 4 : 2;
#endif

// Adds image n to the sums of B channels: (K, K, B).
template <int B, int K>
void block(const float* x, const float* g, float* total, const Shape& s, int64_t c0, int64_t n) {
  using V = typename Vector<B>::type;
  V sums[K][K];
  std::memcpy(sums, total, sizeof(sums));
  // the first and the last output column whose whole row of taps lies inside the image
  const int64_t reach = (K - 1) * s.dilation;
  const int64_t first = std::min(s.wo, (s.pad + s.stride - 1) / s.stride);
  const int64_t inside = s.w - 1 + s.pad - reach;
  const int64_t last = inside < 0 ? -1 : std::min(s.wo - 1, inside / s.stride);
  for (int64_t ho = 0; ho < s.ho; ho++) {
    const float* grow = g + ((n * s.ho + ho) * s.wo) * s.c + c0;
    for (int dy = 0; dy < K; dy++) {
      const int64_t h = ho * s.stride - s.pad + dy * s.dilation;
      if (h < 0 || h >= s.h) continue;
      const float* xrow = x + ((n * s.h + h) * s.w) * s.c + c0;
      V row[K];
      for (int dx = 0; dx < K; dx++) row[dx] = sums[dy][dx];
      auto edge = [&](int64_t wo) {
        const V value = *reinterpret_cast<const V*>(grow + wo * s.c);
        for (int dx = 0; dx < K; dx++) {
          const int64_t w = wo * s.stride - s.pad + dx * s.dilation;
          if (w >= 0 && w < s.w) row[dx] += value * *reinterpret_cast<const V*>(xrow + w * s.c);
        }
      };
      const int64_t middle = std::max(first, last + 1);
      for (int64_t wo = 0; wo < std::min(first, s.wo); wo++) edge(wo);
      const float* gp = grow + first * s.c;
      const float* xp = xrow + (first * s.stride - s.pad) * s.c;
      const int64_t step = s.stride * s.c, tap = s.dilation * s.c;
      constexpr int U = kSets<K>;
      V sets[U][K];
      std::memset(sets, 0, sizeof(sets));
      int64_t wo = first;
      for (; wo + U - 1 <= last; wo += U, gp += U * s.c, xp += U * step) {
#pragma GCC unroll 4
        for (int u = 0; u < U; u++) {
          const V value = *reinterpret_cast<const V*>(gp + u * s.c);
#pragma GCC unroll 7
          for (int dx = 0; dx < K; dx++) {
            sets[u][dx] += value * *reinterpret_cast<const V*>(xp + u * step + dx * tap);
          }
        }
      }
      for (; wo <= last; wo++) edge(wo);
      for (int u = 0; u < U; u++) {
        for (int dx = 0; dx < K; dx++) row[dx] += sets[u][dx];
      }
      for (int64_t wo = middle; wo < s.wo; wo++) edge(wo);
      for (int dx = 0; dx < K; dx++) sums[dy][dx] = row[dx];
    }
  }
  std::memcpy(total, sums, sizeof(sums));
}

template <int B, int K>
void put(const float* total, float* gw, int64_t c0) {
  for (int tap = 0; tap < K * K; tap++)
    for (int lane = 0; lane < B; lane++) gw[(c0 + lane) * K * K + tap] = total[tap * B + lane];
}

// f(first channel, lanes) for blocks of neighbouring channels, the lanes a type.
template <class F>
void each_block(int64_t from, int64_t to, F f) {
  int64_t c = from;
  if constexpr (kWidest == 16)
    for (; c + 16 <= to; c += 16) f(c, std::integral_constant<int, 16>{});
  for (; c + 8 <= to; c += 8) f(c, std::integral_constant<int, 8>{});
  for (; c + 4 <= to; c += 4) f(c, std::integral_constant<int, 4>{});
  for (; c < to; c++) f(c, std::integral_constant<int, 1>{});
}

// Image by image, so that memory is read in the order in which it lies.
template <int K>
void channels(const float* x, const float* g, float* gw, const Shape& s, int64_t from, int64_t to) {
  std::vector<float> sums((to - from) * K * K);
  for (int64_t n = 0; n < s.n; n++)
    each_block(from, to, [&](int64_t c, auto lanes) {
      block<lanes, K>(x, g, &sums[(c - from) * K * K], s, c, n);
    });
  each_block(from, to, [&](int64_t c, auto lanes) { put<lanes, K>(&sums[(c - from) * K * K], gw, c); });
}

template <int K>
void spread(const float* x, const float* g, float* gw, const Shape& s, int64_t threads) {
  const int64_t blocks = (s.c + 15) / 16;
  threads = std::max<int64_t>(1, std::min(threads, blocks));
  std::vector<std::thread> others;
  auto part = [&](int64_t t) {
    channels<K>(x, g, gw, s, blocks * t / threads * 16, std::min(s.c, blocks * (t + 1) / threads * 16));
  };
  for (int64_t t = 1; t < threads; t++) others.emplace_back(part, t);
  part(0);
  for (auto& other : others) other.join();
}

}  // namespace

// x: (n, h, w, c), g: (n, ho, wo, c), gw: (c, kernel, kernel); all dense. 0, or -1 for a kernel size
// that is not built.
extern "C" int depthwise_weight_gradient(const float* x, const float* g, float* gw, const int64_t* shape,
                                         int64_t kernel, int64_t threads) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7], shape[8]};
  switch (kernel) {
    case 3: spread<3>(x, g, gw, s, threads); return 0;
    case 5: spread<5>(x, g, gw, s, threads); return 0;
    case 7: spread<7>(x, g, gw, s, threads); return 0;
  }
  return -1;
}
