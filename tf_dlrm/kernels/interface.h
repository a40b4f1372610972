// What is compiled once for each instruction set, and what it works on. Knows nothing of TensorFlow.
#ifndef TF_DLRM_INTERFACE_H_
#define TF_DLRM_INTERFACE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

namespace tf_dlrm {

// Every optimizer: its name, which is that of its class in Python and of its rule in rules.h, how
// many slots it has, whether the first is one number a row, and how many numbers its class has
// beside the learning rate. A new one is a rule and a line here.
#define TF_DLRM_OPTIMIZERS(X)   \
  X(SGD, 0, false, 0)           \
  X(Adagrad, 1, false, 2)       \
  X(RowWiseAdagrad, 1, true, 2) \
  X(LazyAdam, 2, false, 3)      \
  X(FTRL, 2, false, 5)

#define TF_DLRM_KIND(name, slots, row_wise, numbers) k##name,
enum class Kind { TF_DLRM_OPTIMIZERS(TF_DLRM_KIND) };
#undef TF_DLRM_KIND

constexpr int kMostSlots = 2, kMostNumbers = 8;

struct Optimizer {
  const char* name;
  int slots;
  bool row_wise;
  int numbers;
};

// As `Kind` numbers them.
#define TF_DLRM_OPTIMIZER(name, slots, row_wise, numbers) Optimizer{#name, slots, row_wise, numbers},
inline constexpr Optimizer kOptimizers[] = {TF_DLRM_OPTIMIZERS(TF_DLRM_OPTIMIZER)};
#undef TF_DLRM_OPTIMIZER

constexpr bool FitIn() {
  for (const Optimizer& one : kOptimizers) {
    if (one.slots > kMostSlots || one.numbers > kMostNumbers) return false;
  }
  return true;
}
static_assert(FitIn(), "An optimizer has more slots or numbers than there is place for.");

// Runs work(0) to work(pieces - 1), each of so many nanoseconds, maybe at the same time.
using ForEach =
    std::function<void(int64_t pieces, int64_t cost, const std::function<void(int64_t)>& work)>;

// Gradients are numbered by the block that they are in and their row in it, of 16 bits each.
constexpr int64_t kBlockRows = 1 << 16, kMostBlocks = 1 << 16;

enum class Combiner { kSum, kMean, kSqrtn };

// A table, possibly of several stacked ones, and its slots, null where the optimizer has none.
struct Tables {
  float* rows;
  float* first_slot;
  float* second_slot;
  int64_t row_count;
  int64_t dim;
  bool row_wise;  // whether the first slot is one number a row
};

// The rate of an update, and the numbers of the optimizer in the order of its class's fields.
struct Rates {
  float rate;
  float numbers[kMostNumbers];
};

// The ids of one feature: bag b has those from Begin(b) up to Begin(b + 1).
struct Feature {
  const int32_t* ids32;   // one of both is null
  const int64_t* ids64;
  int64_t id_count;
  int64_t bags;
  const int64_t* splits;  // null where every bag has `hotness` ids
  int64_t hotness;
  const float* weights;   // null for ones
  int64_t offset;         // first row of the feature's table
  int64_t size;           // rows of it
  int64_t out_of_vocabulary;  // the row that takes ids outside of it, or -1
  Combiner combiner;
  float* vectors;          // out, [bags, dim]
  const float* gradients;  // [bags, dim]

  int64_t Begin(int64_t bag) const { return splits == nullptr ? bag * hotness : splits[bag]; }
};

// The first id outside its table that has no row for such ids; `feature` is -1 where there is none.
struct Outside {
  int64_t feature = -1, bag = 0, place = 0, id = 0;
};

// Vectors of a batch, each [rows, dim], and the products of their pairs.
struct Pairs {
  std::vector<const float*> vectors;
  int64_t dim;
  bool diagonal;  // with the products of each vector and itself
  bool after_first;  // behind the first vector
  int64_t width() const {
    const int64_t n = static_cast<int64_t>(vectors.size());
    return (after_first ? dim : 0) + (diagonal ? n * (n + 1) / 2 : n * (n - 1) / 2);
  }
};

// No result depends on the number of threads.
struct Path {
  // Fills the vectors of all features.
  Outside (*lookup)(const Tables& tables, const std::vector<Feature>& features,
                    const ForEach& for_each);
  // Updates each row once, by the summed gradients of its ids, in the order of the ids; with ids
  // outside their table nothing is updated.
  Outside (*update)(Kind kind, const Tables& tables, const Rates& rates,
                    const std::vector<Feature>& features, int threads,
                    const ForEach& for_each);
  // Fills products [rows, width]: the lower triangle, row by row, maybe after the first vector.
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

}  // namespace tf_dlrm

#endif  // TF_DLRM_INTERFACE_H_
