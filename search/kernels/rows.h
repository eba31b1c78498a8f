// The inner loops of a unit: weighted sums of neighbouring pixels, and small matrix products. Channels
// are padded to whole vectors. Each loop keeps as many sums as there are registers.
#pragma once
#include <type_traits>

#include "lanes.h"

namespace {

struct Tap {
  const float* from;    // what the first column reads
  const float* weight;  // a weight per channel
};

// out[i] = sum over taps of weight[c] * from[c + at + i * step], for N neighbouring columns.
template <int N>
inline void taps_block(const std::vector<Tap>& taps, int64_t c, int64_t at, int64_t step, float* out, int64_t pi) {
  V sums[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) sums[i] = zero();
  for (const Tap& tap : taps) {
    const V weight = load(tap.weight + c);
    const float* from = tap.from + c + at;
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) sums[i] += weight * load(from + i * step);
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) store(out + i * pi, sums[i]);
}

// The same for `columns` of them and all channels; `at` is where the row begins behind the taps' first.
void taps_row(const std::vector<Tap>& taps, int64_t at, int64_t step, float* out, int64_t columns, int64_t pi) {
  for (int64_t c = 0; c < pi; c += L) {
    int64_t i = 0;
    auto blocks = [&]<int N>(std::integral_constant<int, N>) {
      for (; i + N <= columns; i += N) taps_block<N>(taps, c, at + i * step, step, out + i * pi + c, pi);
    };
    if constexpr (kRegisters == 32) blocks(std::integral_constant<int, 16>{});
    blocks(std::integral_constant<int, 8>{});
    blocks(std::integral_constant<int, 4>{});
    blocks(std::integral_constant<int, 1>{});
  }
}

// o[m][c] = sum over k of a(m, k) p[k][c], or that added to it; a(m, k) is a[m * of_row + k * of_term],
// where one of both steps is 1, and o and p have whole vectors.
template <int R, int Q, bool kAdd>
[[gnu::always_inline]] inline void multiply_block(const float* a, int64_t of_row, int64_t of_term, const float* p,
                                                  int64_t ldp, float* o, int64_t ldo, int64_t terms) {
  V sums[R][Q];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++) sums[r][q] = kAdd ? load(o + r * ldo + q * L) : zero();
  for (int64_t k = 0; k < terms; k++) {
    V row[Q];
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++) row[q] = load(p + k * ldp + q * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 16
      for (int q = 0; q < Q; q++) sums[r][q] += a[r * of_row + k * of_term] * row[q];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++) store(o + r * ldo + q * L, sums[r][q]);
}

// f(how many vectors, first column): three vectors at a time, or two where one would be left over.
template <class F>
[[gnu::always_inline]] inline void in_columns(int64_t cols, F f) {
  int64_t c = 0, left = cols / L;
  for (; left == 3 || left > 4; left -= 3, c += 3 * L) f(std::integral_constant<int, 3>{}, c);
  for (; left >= 2; left -= 2, c += 2 * L) f(std::integral_constant<int, 2>{}, c);
  if (left) f(std::integral_constant<int, 1>{}, c);
}

template <int Q>
void multiply_columns(const float* a, int64_t lda, const float* p, float* o, int64_t ldo, int64_t cols,
                      int64_t rows, int64_t depth) {
  constexpr int R = kRegisters == 32 ? (Q == 1 ? 16 : 8) : Q == 3 ? 4 : Q == 2 ? 6 : 8;
  int64_t m = 0;
  auto blocks = [&]<int N>(std::integral_constant<int, N>) {
    for (; m + N <= rows; m += N) multiply_block<N, Q, false>(a + m * lda, lda, 1, p, cols, o + m * ldo, ldo, depth);
  };
  if (kRegisters == 32 || rows % R == 0) blocks(std::integral_constant<int, R>{});
  if constexpr (R > 8) blocks(std::integral_constant<int, 8>{});
  blocks(std::integral_constant<int, 4>{});
  blocks(std::integral_constant<int, 1>{});
}

void multiply(const float* a, int64_t lda, const float* p, float* o, int64_t ldo, int64_t cols, int64_t rows,
              int64_t depth) {
  in_columns(cols, [&]<int Q>(std::integral_constant<int, Q>, int64_t c) {
    multiply_columns<Q>(a, lda, p + c, o + c, ldo, cols, rows, depth);
  });
}

// g[k][c] += sum over m of a[m][k] b[m][c]; all padded to whole vectors.
inline void outer(const float* a, int64_t pi, const float* b, int64_t po, float* g, int64_t rows) {
  in_columns(po, [&]<int Q>(std::integral_constant<int, Q>, int64_t c) {
    constexpr int R = Q == 1 ? L : kRegisters / 4;  // a part of a vector, and few enough for the registers
    for (int64_t k = 0; k < pi; k += R) multiply_block<R, Q, true>(a + k, 1, pi, b + c, po, g + k * po + c, po, rows);
  });
}

}  // namespace
