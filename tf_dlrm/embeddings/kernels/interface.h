// What is compiled once for each instruction set, and what it works on.
#ifndef TF_DLRM_INTERFACE_H_
#define TF_DLRM_INTERFACE_H_

#include <cstdint>
#include <vector>

namespace tf_dlrm {

enum class Kind { kSgd, kAdagrad, kRowWiseAdagrad, kLazyAdam, kFtrl };

// A table and its slots, which are null where the optimizer has none.
struct Tables {
  float* rows;
  float* first_slot;
  float* second_slot;
  int64_t dim;
  int64_t slot_columns;  // of the first slot: 0 without, 1 where row-wise, else dim
};

// Numbers of the optimizer; each uses some.
struct Rates {
  float rate, epsilon, beta_1, beta_2, power, l1, l2, beta;
};

// An id of the batch. Keys are rows under a bijection of 32-bit numbers that spreads them: its upper
// 8 bits are the partition, so that popular rows, often neighbours, are not all in one.
struct Entry {
  uint32_t key;
  uint32_t place;  // in the list of ids
};

constexpr int kPartitions = 256;
constexpr uint32_t kSpread = 0x9E3779B1u;
constexpr uint32_t kGather = 0x0E8B2F51u;  // the inverse of kSpread modulo 2^32
static_assert(kSpread * kGather == 1u, "not an inverse");

inline uint32_t KeyOf(int64_t row) { return static_cast<uint32_t>(row) * kSpread; }
inline int64_t RowOf(uint32_t key) { return key * kGather; }
inline int PartitionOf(uint32_t key) { return key >> 24; }

// Memory of a thread.
struct Scratch {
  std::vector<Entry> entries, other;
  std::vector<float> sum;
};

struct Path {
  void (*pool32)(const float* table, int64_t dim, const int32_t* ids, const int32_t* bags,
                 const float* weights, int64_t count, int64_t first, int64_t last, float* out);
  void (*pool64)(const float* table, int64_t dim, const int64_t* ids, const int32_t* bags,
                 const float* weights, int64_t count, int64_t first, int64_t last, float* out);
  void (*update)(Kind kind, const Tables& tables, const Rates& rates, const Entry* begin,
                 const Entry* end, const int32_t* bags, const float* weights,
                 const float* gradients, Scratch* scratch);
};

namespace avx512 { extern const Path kPath; }
namespace avx2 { extern const Path kPath; }
namespace portable { extern const Path kPath; }

}  // namespace tf_dlrm

#endif  // TF_DLRM_INTERFACE_H_
