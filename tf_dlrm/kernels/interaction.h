// The dot products of pairs of vectors, and the gradient of a dense layer with relu.
//
// Included once for each instruction set, with TF_DLRM_PATH naming it.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "interface.h"

namespace tf_dlrm::TF_DLRM_PATH {

// Rows of a batch in a piece of work; results do not depend on it.
constexpr int64_t kRowsAtOnce = 64;

inline void ForRows(int64_t rows, int64_t cost_of_row, const ForEach& for_each,
                    const std::function<void(int64_t first, int64_t count)>& work) {
  for_each((rows + kRowsAtOnce - 1) / kRowsAtOnce, kRowsAtOnce * cost_of_row + 1, [&](int64_t k) {
    work(k * kRowsAtOnce, std::min(kRowsAtOnce, rows - k * kRowsAtOnce));
  });
}

// 16 numbers, which the compiler makes of the registers that there are.
constexpr int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

inline int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline Lanes Load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void Store(const Lanes& lanes, float* to) { *reinterpret_cast<Lanes*>(to) = lanes; }

// Four rows of a product: out[r] = sum over k of left[r * stride + k] * right[k * width], 16 columns.
inline void FourRows(const float* left, int64_t stride, const float* right, int64_t width,
                     int64_t count, float* out, int64_t out_stride) {
  Lanes a{}, b{}, c{}, d{};
  for (int64_t k = 0; k < count; ++k) {
    const Lanes column = Load(right + k * width);
    a += left[k] * column;
    b += left[stride + k] * column;
    c += left[2 * stride + k] * column;
    d += left[3 * stride + k] * column;
  }
  Store(a, out);
  Store(b, out + out_stride);
  Store(c, out + 2 * out_stride);
  Store(d, out + 3 * out_stride);
}

inline void Products(const Pairs& pairs, int64_t rows, float* products, const ForEach& for_each) {
  const int64_t n = pairs.vectors.size(), dim = pairs.dim;
  const int64_t tall = RoundUp(n, 4), wide = RoundUp(n, kLanes), width = pairs.width();
  const int64_t extra = pairs.diagonal ? 1 : 0;
  ForRows(rows, n * wide * dim / 32, for_each, [&](int64_t first, int64_t own) {
    // Vectors as rows and as columns: a vector's products with all before it are neighbours.
    thread_local std::vector<float> vectors, columns, sums;
    vectors.assign(tall * dim, 0.0f);
    columns.assign(dim * wide, 0.0f);
    sums.resize(4 * wide);
    for (int64_t row = first; row < first + own; ++row) {
      for (int64_t i = 0; i < n; ++i) {
        const float* __restrict v = pairs.vectors[i] + row * dim;
        float* __restrict to = &vectors[i * dim];
        for (int64_t d = 0; d < dim; ++d) to[d] = v[d];
        for (int64_t d = 0; d < dim; ++d) columns[d * wide + i] = v[d];
      }
      float* out = products + row * width;
      if (pairs.after_first) {
        std::memcpy(out, pairs.vectors[0] + row * dim, dim * sizeof(float));
        out += dim;
      }
      for (int64_t i = 0; i < n; i += 4) {
        const int64_t last = std::min(i + 4, n);
        for (int64_t begin = 0; begin < last - 1 + extra; begin += kLanes) {
          FourRows(&vectors[i * dim], dim, &columns[begin], wide, dim, &sums[begin], wide);
        }
        for (int64_t k = i; k < last; ++k) {
          std::memcpy(out, &sums[(k - i) * wide], (k + extra) * sizeof(float));
          out += k + extra;
        }
      }
    }
  });
}

inline void Pull(const Pairs& pairs, const float* gradient, int64_t rows,
                 const std::vector<float*>& gradients, const ForEach& for_each) {
  const int64_t n = pairs.vectors.size(), dim = pairs.dim;
  const int64_t tall = RoundUp(n, 4), wide = RoundUp(dim, kLanes), width = pairs.width();
  const int64_t extra = pairs.diagonal ? 1 : 0;
  ForRows(rows, n * n * wide / 32, for_each, [&](int64_t first, int64_t own) {
    // With L the triangle of gradients and V the vectors, (L + L^T) V.
    thread_local std::vector<float> square, vectors, sums;
    square.assign(tall * n, 0.0f);
    vectors.assign(n * wide, 0.0f);
    sums.resize(4 * wide);
    for (int64_t row = first; row < first + own; ++row) {
      const float* __restrict of_first = gradient + row * width;
      const float* from = of_first + (pairs.after_first ? dim : 0);
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(&vectors[i * wide], pairs.vectors[i] + row * dim, dim * sizeof(float));
        std::memcpy(&square[i * n], from, (i + extra) * sizeof(float));
        for (int64_t j = 0; j < i; ++j) square[j * n + i] = from[j];
        if (pairs.diagonal) square[i * n + i] *= 2;
        from += i + extra;
      }
      for (int64_t i = 0; i < n; i += 4) {
        for (int64_t begin = 0; begin < wide; begin += kLanes) {
          FourRows(&square[i * n], n, &vectors[begin], wide, n, &sums[begin], wide);
        }
        if (i == 0 && pairs.after_first) {
          for (int64_t d = 0; d < dim; ++d) sums[d] += of_first[d];
        }
        for (int64_t k = i; k < std::min(i + 4, n); ++k) {
          std::memcpy(gradients[k] + row * dim, &sums[(k - i) * wide], dim * sizeof(float));
        }
      }
    }
  });
}

// One pass over what TensorFlow reads three times, and sums up by one thread.
inline void Unbias(const float* gradient, const float* outputs, int64_t rows, int64_t columns,
                   float* product, float* bias, const ForEach& for_each) {
  const int64_t pieces = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  std::vector<float> sums(pieces * columns, 0.0f);
  ForRows(rows, columns / 4, for_each, [&](int64_t first, int64_t own) {
    float* sum = &sums[first / kRowsAtOnce * columns];
    for (int64_t row = first; row < first + own; ++row) {
      const float* from = gradient + row * columns;
      const float* out = outputs + row * columns;
      float* to = product + row * columns;  // may be `from`
#pragma GCC ivdep
      for (int64_t c = 0; c < columns; ++c) {
        const float passed = out[c] > 0.0f ? from[c] : 0.0f;
        to[c] = passed;
        sum[c] += passed;
      }
    }
  });
  std::fill(bias, bias + columns, 0.0f);
  for (int64_t k = 0; k < pieces; ++k) {
    for (int64_t c = 0; c < columns; ++c) bias[c] += sums[k * columns + c];
  }
}

}  // namespace tf_dlrm::TF_DLRM_PATH
