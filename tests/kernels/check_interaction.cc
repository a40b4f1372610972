// Products of pairs, and the gradient of a dense layer with relu.
#include "check.h"

namespace {

std::vector<float> Reals(int64_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = Real();
  return values;
}

// What float32 loses in sums of some hundred numbers, times three.
constexpr double kTolerance = 1e-5;

void CheckPairs(const Path& path, int64_t rows, int64_t n, int64_t dim, bool diagonal,
                bool after_first) {
  std::vector<std::vector<float>> vectors, gradients(n, std::vector<float>(rows * dim));
  Pairs pairs;
  pairs.dim = dim;
  pairs.diagonal = diagonal;
  pairs.after_first = after_first;
  for (int64_t i = 0; i < n; ++i) vectors.push_back(Reals(rows * dim));
  for (const auto& vector : vectors) pairs.vectors.push_back(vector.data());
  std::vector<float> products(rows * pairs.width());
  path.products(pairs, rows, products.data(), Threads);
  const std::vector<float> upstream = Reals(products.size());
  std::vector<float*> to;
  for (auto& gradient : gradients) to.push_back(gradient.data());
  path.pull(pairs, upstream.data(), rows, to, Threads);
  std::vector<std::vector<double>> wanted(n, std::vector<double>(rows * dim, 0.0));
  for (int64_t row = 0, at = 0; row < rows; ++row) {
    for (int64_t d = row * dim; after_first && d < (row + 1) * dim; ++d, ++at) {
      Compare("first vector", products[at], vectors[0][d], 0);
      wanted[0][d] += upstream[at];
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i + (diagonal ? 1 : 0); ++j, ++at) {
        double product = 0;
        for (int64_t d = row * dim; d < (row + 1) * dim; ++d) {
          product += static_cast<double>(vectors[i][d]) * vectors[j][d];
          wanted[i][d] += static_cast<double>(upstream[at]) * vectors[j][d];
          wanted[j][d] += static_cast<double>(upstream[at]) * vectors[i][d];
        }
        Compare("product", products[at], product, kTolerance);
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t d = 0; d < rows * dim; ++d) Compare("gradient", gradients[i][d], wanted[i][d], kTolerance);
  }
}

void CheckUnbias(const Path& path, int64_t rows, int64_t columns, bool in_place) {
  const std::vector<float> upstream = Reals(rows * columns), outputs = Reals(rows * columns);
  std::vector<float> product = in_place ? upstream : std::vector<float>(rows * columns);
  std::vector<float> bias(columns, 7.0f);
  const float* from = in_place ? product.data() : upstream.data();
  path.unbias(from, outputs.data(), rows, columns, product.data(), bias.data(), Threads);
  for (int64_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (int64_t at = c; at < rows * columns; at += columns) {
      const double passed = outputs[at] > 0 ? upstream[at] : 0.0;
      Compare("gradient of the product", product[at], passed, kTolerance);
      sum += passed;
    }
    Compare("gradient of the bias", bias[c], sum, kTolerance);
  }
}

}  // namespace

void CheckInteraction(const Path& path) {
  for (int k = 0; k < 60; ++k) {
    // The layer refuses a single vector.
    CheckPairs(path, Below(200), 2 + Below(30), 1 + Below(40), Below(2), Below(2));
    CheckUnbias(path, Below(300), 1 + Below(70), Below(2));
  }
}
