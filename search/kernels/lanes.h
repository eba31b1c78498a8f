// What the kernels have in common: vectors, work split into parts, scratch memory.
//
// Vectors are the compiler's own (GCC, Clang): the same source becomes AVX2, AVX-512 or NEON code.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int64_t L = 16;
constexpr int kRegisters = 32;  // of vectors
#else
constexpr int64_t L = 8;  // two registers with NEON
constexpr int kRegisters = 16;
#endif

typedef float V __attribute__((vector_size(L * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
static inline void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }
static inline V zero() { return V{}; }
static inline V positive(V v) { return v > zero() ? v : zero(); }

// The first `count` lanes; the others are zero.
#ifdef __AVX512F__
// One instruction whatever the count; a memcpy of a length unknown here would be a call.
static inline __mmask16 first_lanes(int64_t count) { return __mmask16((1u << count) - 1); }
static inline V load_some(const float* p, int64_t count) { return V(_mm512_maskz_loadu_ps(first_lanes(count), p)); }
static inline void store_some(float* p, V v, int64_t count) { _mm512_mask_storeu_ps(p, first_lanes(count), __m512(v)); }
#else
// Half a vector, the part that is most often left over, needs no memcpy of a length unknown here.
typedef float Half __attribute__((vector_size(L / 2 * sizeof(float)), aligned(sizeof(float)), may_alias));
static inline V load_some(const float* p, int64_t count) {
  if (count == L / 2)
    return __builtin_shufflevector(*reinterpret_cast<const Half*>(p), Half{}, 0, 1, 2, 3, 4, 5, 6, 7);
  V v = zero();
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}
static inline void store_some(float* p, V v, int64_t count) {
  if (count == L / 2) *reinterpret_cast<Half*>(p) = __builtin_shufflevector(v, v, 0, 1, 2, 3);
  else std::memcpy(p, &v, count * sizeof(float));
}
#endif

static inline int64_t up(int64_t count) { return (count + L - 1) / L * L; }
// The same, but one number for all processors.
static inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

// f(first channel, lanes) for each vector of a pixel's channels; the last may be a part of one. Lanes of
// whole vectors are a type, so that f is compiled for them alone.
template <class F>
inline void each_vector(int64_t count, F f) {
  int64_t c = 0;
  for (; c + L <= count; c += L) f(c, std::integral_constant<int64_t, L>{});
  if (c < count) f(c, count - c);
}
inline V take(const float* p, int64_t lanes) { return lanes == L ? load(p) : load_some(p, lanes); }
inline void put(float* p, V v, int64_t lanes) {
  if (lanes == L) store(p, v);
  else store_some(p, v, lanes);
}

// Sums are taken in parts that do not depend on the number of threads, so no bit does either.
static inline int64_t parts_of(int64_t images) { return std::min<int64_t>(images, 8); }

// Calls work(part) for each part, on so many threads.
template <class Work>
void in_parts(int64_t parts, int64_t threads, Work work) {
  std::atomic<int64_t> next{0};
  auto take = [&] {
    for (int64_t part; (part = next++) < parts;) work(part);
  };
  std::vector<std::thread> others;
  for (int64_t t = 1; t < std::min(threads, parts); t++) others.emplace_back(take);
  take();
  for (auto& other : others) other.join();
}
