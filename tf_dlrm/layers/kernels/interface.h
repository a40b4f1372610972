// What is compiled once for each instruction set, and what it works on. Knows nothing of TensorFlow.
#ifndef TF_DLRM_PAIRS_INTERFACE_H_
#define TF_DLRM_PAIRS_INTERFACE_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace tf_dlrm::layers {

// Runs work(0) to work(pieces - 1), each of so many nanoseconds, maybe at the same time.
using ForEach =
    std::function<void(int64_t pieces, int64_t cost, const std::function<void(int64_t)>& work)>;

// Vectors of a batch, each [rows, dim], and the products of their pairs.
struct Pairs {
  std::vector<const float*> vectors;
  int64_t dim;
  bool diagonal;  // with the products of each vector and itself
  int64_t count() const {
    const int64_t n = static_cast<int64_t>(vectors.size());
    return diagonal ? n * (n + 1) / 2 : n * (n - 1) / 2;
  }
};

// No result depends on the number of threads.
struct Path {
  // Fills products [rows, count]: the lower triangle, row by row.
  void (*products)(const Pairs& pairs, int64_t rows, float* products, const ForEach& for_each);
  // Fills the gradients of the vectors from that of the products.
  void (*pull)(const Pairs& pairs, const float* gradient, int64_t rows,
               const std::vector<float*>& gradients, const ForEach& for_each);
  // Of relu(product + bias), from the gradient of its outputs, all [rows, columns]: fills the
  // gradient of the product, and that of the bias [columns].
  void (*unbias)(const float* gradient, const float* outputs, int64_t rows, int64_t columns,
                 float* product, float* bias, const ForEach& for_each);
};

// All else of a library is hidden; these are tried one by one in tests.
#define TF_DLRM_VISIBLE __attribute__((visibility("default")))
namespace avx512 { extern TF_DLRM_VISIBLE const Path kPath; }
namespace avx2 { extern TF_DLRM_VISIBLE const Path kPath; }
namespace portable { extern TF_DLRM_VISIBLE const Path kPath; }

}  // namespace tf_dlrm::layers

#endif  // TF_DLRM_PAIRS_INTERFACE_H_
