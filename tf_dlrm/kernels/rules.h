// What an optimizer does to one row, given the sum of its gradients.
//
// Included once for each instruction set. Loops are plain and left to the compiler's vectorizer; a
// constant number of columns D lets it unroll them, D = 0 stands for any number.
#pragma once

#include <cmath>
#include <cstdint>

#include "interface.h"

namespace tf_dlrm::TF_DLRM_PATH {

template <int64_t D>
struct Row {
  float* w;           // of the table
  float* first;   // of the slots
  float* second;
  int64_t dim;

  Row(const Tables& t, int64_t row) : dim(D != 0 ? D : t.dim) {
    w = t.rows + row * dim;
    first = t.first_slot == nullptr ? nullptr : t.first_slot + row * (t.row_wise ? 1 : dim);
    second = t.second_slot == nullptr ? nullptr : t.second_slot + row * dim;
  }
  int64_t columns() const { return D != 0 ? D : dim; }
};

struct SGD {
  template <int64_t D>
  static void Apply(const Rates& r, const Row<D>& row, const float* __restrict g) {
    float* __restrict w = row.w;
    for (int64_t d = 0; d < row.columns(); ++d) w[d] -= r.rate * g[d];
  }
};

struct Adagrad {
  template <int64_t D>
  static void Apply(const Rates& r, const Row<D>& row, const float* __restrict g) {
    const float epsilon = r.numbers[1];  // after the first value of the accumulator
    float* __restrict w = row.w;
    float* __restrict a = row.first;
    for (int64_t d = 0; d < row.columns(); ++d) {
      const float total = a[d] + g[d] * g[d];
      a[d] = total;
      w[d] -= r.rate * g[d] / (std::sqrt(total) + epsilon);
    }
  }
};

struct RowWiseAdagrad {
  template <int64_t D>
  static void Apply(const Rates& r, const Row<D>& row, const float* __restrict g) {
    const float epsilon = r.numbers[1];  // after the first value of the accumulator
    float* __restrict w = row.w;
    constexpr int kLanes = 16;
    float lanes[kLanes] = {};  // a fixed order of summation that vectorizes
    const int64_t dim = row.columns(), whole = dim / kLanes * kLanes;
    for (int64_t d = 0; d < whole; d += kLanes) {
      for (int k = 0; k < kLanes; ++k) lanes[k] += g[d + k] * g[d + k];
    }
    float squares = 0;
    for (int64_t d = whole; d < dim; ++d) squares += g[d] * g[d];
    for (int k = 0; k < kLanes; ++k) squares += lanes[k];
    const float total = *row.first + squares / dim;
    *row.first = total;
    const float factor = r.rate / (std::sqrt(total) + epsilon);
    for (int64_t d = 0; d < dim; ++d) w[d] -= factor * g[d];
  }
};

struct LazyAdam {
  template <int64_t D>
  static void Apply(const Rates& r, const Row<D>& row, const float* __restrict g) {
    const float beta_1 = r.numbers[0], beta_2 = r.numbers[1], epsilon = r.numbers[2];
    float* __restrict w = row.w;
    float* __restrict m = row.first;
    float* __restrict v = row.second;
    for (int64_t d = 0; d < row.columns(); ++d) {
      const float first = beta_1 * m[d] + (1 - beta_1) * g[d];
      const float second = beta_2 * v[d] + (1 - beta_2) * g[d] * g[d];
      m[d] = first;
      v[d] = second;
      w[d] -= r.rate * first / (std::sqrt(second) + epsilon);
    }
  }
};

struct FTRL {
  template <int64_t D>
  static void Apply(const Rates& r, const Row<D>& row, const float* __restrict g) {
    const float power = -r.numbers[0], l1 = r.numbers[1], l2 = r.numbers[2], beta = r.numbers[4];
    float* __restrict w = row.w;
    float* __restrict n = row.first;
    float* __restrict z = row.second;
    for (int64_t d = 0; d < row.columns(); ++d) {
      const float total = n[d] + g[d] * g[d];
      const float before = power == 0.5f ? std::sqrt(n[d]) : std::pow(n[d], power);
      const float after = power == 0.5f ? std::sqrt(total) : std::pow(total, power);
      const float linear = z[d] + g[d] - (after - before) / r.rate * w[d];
      const float denominator = (after + beta) / r.rate + 2 * l2;
      n[d] = total;
      z[d] = linear;
      const float shrunk = (std::copysign(l1, linear) - linear) / denominator;
      w[d] = std::fabs(linear) > l1 ? shrunk : 0.0f;
    }
  }
};

}  // namespace tf_dlrm::TF_DLRM_PATH
