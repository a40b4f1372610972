// Runs the kernels of layers on random work and compares them with plain loops over doubles.
//
// With TF_DLRM_PATH it is linked with that one instruction set, under a sanitizer; without, with the
// library, and checks every instruction set that this processor has. Ends with 0 where all is equal.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "interface.h"

using namespace tf_dlrm::layers;

namespace {

std::mt19937 random_bits(0);
int64_t Below(int64_t n) { return random_bits() % n; }
std::vector<float> Reals(int64_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(Below(2001) - 1000) / 500;
  return values;
}

// What float32 loses in sums of some hundred numbers, times three.
void Compare(const char* what, double found, double wanted) {
  if (!(std::fabs(found - wanted) <= 1e-5 * (1 + std::fabs(wanted)))) {
    std::printf("%s: %g instead of %g\n", what, found, wanted);
    std::exit(1);
  }
}

// At most 4 threads, so that races are seen.
void Threads(int64_t pieces, int64_t, const std::function<void(int64_t)>& work) {
  std::vector<std::thread> threads;
  std::atomic<int64_t> next{0};
  for (int t = 0; t < 4 && t < pieces; ++t) {
    threads.emplace_back([&] {
      for (int64_t k = next++; k < pieces; k = next++) work(k);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void CheckPairs(const Path& path, int64_t rows, int64_t n, int64_t dim, bool diagonal) {
  std::vector<std::vector<float>> vectors, gradients(n, std::vector<float>(rows * dim));
  Pairs pairs;
  pairs.dim = dim;
  pairs.diagonal = diagonal;
  for (int64_t i = 0; i < n; ++i) vectors.push_back(Reals(rows * dim));
  for (const auto& vector : vectors) pairs.vectors.push_back(vector.data());
  std::vector<float> products(rows * pairs.count());
  path.products(pairs, rows, products.data(), Threads);
  const std::vector<float> upstream = Reals(products.size());
  std::vector<float*> to;
  for (auto& gradient : gradients) to.push_back(gradient.data());
  path.pull(pairs, upstream.data(), rows, to, Threads);
  std::vector<std::vector<double>> wanted(n, std::vector<double>(rows * dim, 0.0));
  for (int64_t row = 0, at = 0; row < rows; ++row) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i + (diagonal ? 1 : 0); ++j, ++at) {
        double product = 0;
        for (int64_t d = row * dim; d < (row + 1) * dim; ++d) {
          product += static_cast<double>(vectors[i][d]) * vectors[j][d];
          wanted[i][d] += static_cast<double>(upstream[at]) * vectors[j][d];
          wanted[j][d] += static_cast<double>(upstream[at]) * vectors[i][d];
        }
        Compare("product", products[at], product);
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t d = 0; d < rows * dim; ++d) Compare("gradient", gradients[i][d], wanted[i][d]);
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
      Compare("gradient of the product", product[at], passed);
      sum += passed;
    }
    Compare("gradient of the bias", bias[c], sum);
  }
}

void CheckAll(const Path& path) {
  for (int k = 0; k < 60; ++k) {
    // The layer refuses a single vector.
    CheckPairs(path, Below(200), 2 + Below(30), 1 + Below(40), Below(2));
    CheckUnbias(path, Below(300), 1 + Below(70), Below(2));
  }
}

}  // namespace

int main() {
#ifdef TF_DLRM_PATH
  CheckAll(TF_DLRM_PATH::kPath);
#else
  CheckAll(portable::kPath);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) CheckAll(avx2::kPath);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    CheckAll(avx512::kPath);
  }
#endif
  std::puts("equal");
}
