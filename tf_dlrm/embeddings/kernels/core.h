// Pooled lookup and exact sparse update of embedding tables, without TensorFlow.
//
// Included once for each instruction set, with TF_DLRM_PATH naming it. Loops are plain and left to
// the compiler's vectorizer: any number of columns, any instruction set.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "interface.h"

namespace tf_dlrm {
namespace TF_DLRM_PATH {

constexpr int kPrefetchAhead = 8;
constexpr int64_t kCacheLine = 64;

inline void Prefetch(const float* row, int64_t dim) {
  const char* from = reinterpret_cast<const char*>(row);
  for (int64_t byte = 0; byte < dim * 4; byte += kCacheLine) __builtin_prefetch(from + byte, 1, 3);
}

template <typename Id>
void Pool(const float* table, int64_t dim, const Id* ids, const int32_t* bags, const float* weights,
          int64_t count, int64_t first_bag, int64_t last_bag, float* out) {
  int64_t i = std::lower_bound(bags, bags + count, static_cast<int32_t>(first_bag)) - bags;
  for (int64_t bag = first_bag; bag < last_bag; ++bag) {
    float* __restrict sum = out + bag * dim;
    std::memset(sum, 0, dim * sizeof(float));
    for (; i < count && bags[i] == bag; ++i) {
      if (i + kPrefetchAhead < count) Prefetch(table + ids[i + kPrefetchAhead] * dim, dim);
      const float* __restrict row = table + ids[i] * dim;
      if (weights != nullptr) {
        const float weight = weights[i];
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * row[d];
      } else {
        for (int64_t d = 0; d < dim; ++d) sum[d] += row[d];
      }
    }
  }
}

struct Sgd {
  Tables t;
  Rates r;
  void operator()(int64_t row, const float* __restrict g) const {
    float* __restrict w = t.rows + row * t.dim;
    for (int64_t d = 0; d < t.dim; ++d) w[d] -= r.rate * g[d];
  }
};

struct Adagrad {
  Tables t;
  Rates r;
  void operator()(int64_t row, const float* __restrict g) const {
    float* __restrict w = t.rows + row * t.dim;
    float* __restrict a = t.first_slot + row * t.dim;
    for (int64_t d = 0; d < t.dim; ++d) {
      const float total = a[d] + g[d] * g[d];
      a[d] = total;
      w[d] -= r.rate * g[d] / (std::sqrt(total) + r.epsilon);
    }
  }
};

struct RowWiseAdagrad {
  Tables t;
  Rates r;
  void operator()(int64_t row, const float* __restrict g) const {
    float* __restrict w = t.rows + row * t.dim;
    float squares = 0;
    for (int64_t d = 0; d < t.dim; ++d) squares += g[d] * g[d];
    const float total = t.first_slot[row] + squares / t.dim;
    t.first_slot[row] = total;
    const float factor = r.rate / (std::sqrt(total) + r.epsilon);
    for (int64_t d = 0; d < t.dim; ++d) w[d] -= factor * g[d];
  }
};

struct LazyAdam {
  Tables t;
  Rates r;
  void operator()(int64_t row, const float* __restrict g) const {
    float* __restrict w = t.rows + row * t.dim;
    float* __restrict m = t.first_slot + row * t.dim;
    float* __restrict v = t.second_slot + row * t.dim;
    for (int64_t d = 0; d < t.dim; ++d) {
      const float first = r.beta_1 * m[d] + (1 - r.beta_1) * g[d];
      const float second = r.beta_2 * v[d] + (1 - r.beta_2) * g[d] * g[d];
      m[d] = first;
      v[d] = second;
      w[d] -= r.rate * first / (std::sqrt(second) + r.epsilon);
    }
  }
};

struct Ftrl {
  Tables t;
  Rates r;
  void operator()(int64_t row, const float* __restrict g) const {
    float* __restrict w = t.rows + row * t.dim;
    float* __restrict n = t.first_slot + row * t.dim;
    float* __restrict z = t.second_slot + row * t.dim;
    for (int64_t d = 0; d < t.dim; ++d) {
      const float total = n[d] + g[d] * g[d];
      const float before = r.power == 0.5f ? std::sqrt(n[d]) : std::pow(n[d], r.power);
      const float after = r.power == 0.5f ? std::sqrt(total) : std::pow(total, r.power);
      const float linear = z[d] + g[d] - (after - before) / r.rate * w[d];
      const float denominator = (after + r.beta) / r.rate + 2 * r.l2;
      n[d] = total;
      z[d] = linear;
      w[d] = std::fabs(linear) > r.l1 ? (std::copysign(r.l1, linear) - linear) / denominator : 0.0f;
    }
  }
};

// Groups equal keys of one partition: sorts by the key's lower 24 bits, stably.
inline void Sort(std::vector<Entry>* entries, std::vector<Entry>* other) {
  constexpr int kBits = 12;
  other->resize(entries->size());
  uint32_t counts[1 << kBits];
  for (int shift = 0; shift < 24; shift += kBits) {
    std::memset(counts, 0, sizeof counts);
    for (const Entry& e : *entries) ++counts[(e.key >> shift) & ((1 << kBits) - 1)];
    uint32_t begin = 0;
    for (uint32_t& c : counts) {
      const uint32_t n = c;
      c = begin;
      begin += n;
    }
    for (const Entry& e : *entries) (*other)[counts[(e.key >> shift) & ((1 << kBits) - 1)]++] = e;
    std::swap(*entries, *other);
  }
}

// Few entries are faster compared than counted.
inline void Group(std::vector<Entry>* entries, std::vector<Entry>* other) {
  if (entries->size() < 1024) {
    std::sort(entries->begin(), entries->end(), [](const Entry& a, const Entry& b) {
      return a.key != b.key ? a.key < b.key : a.place < b.place;
    });
  } else {
    Sort(entries, other);
  }
}

template <typename Rule>
void UpdatePartition(const Rule& rule, const Entry* begin, const Entry* end, const int32_t* bags,
                     const float* weights, const float* gradients, Scratch* scratch) {
  const int64_t dim = rule.t.dim;
  std::vector<Entry>& entries = scratch->entries;
  entries.assign(begin, end);
  Group(&entries, &scratch->other);
  scratch->sum.resize(dim);
  const size_t count = entries.size();
  for (size_t i = 0; i < count;) {
    const uint32_t key = entries[i].key;
    if (i + kPrefetchAhead < count) {
      const int64_t row = RowOf(entries[i + kPrefetchAhead].key);
      Prefetch(rule.t.rows + row * dim, dim);
      if (rule.t.slot_columns == 1) Prefetch(rule.t.first_slot + row, 1);
      if (rule.t.slot_columns > 1) Prefetch(rule.t.first_slot + row * dim, dim);
      if (rule.t.second_slot != nullptr) Prefetch(rule.t.second_slot + row * dim, dim);
    }
    const uint32_t place = entries[i].place;
    const float* gradient = gradients + static_cast<int64_t>(bags[place]) * dim;
    size_t next = i + 1;
    if (weights == nullptr && (next == count || entries[next].key != key)) {
      rule(RowOf(key), gradient);
    } else {
      float* __restrict sum = scratch->sum.data();
      std::memset(sum, 0, dim * sizeof(float));
      for (next = i; next < count && entries[next].key == key; ++next) {
        const uint32_t at = entries[next].place;
        const float* __restrict g = gradients + static_cast<int64_t>(bags[at]) * dim;
        const float weight = weights == nullptr ? 1.0f : weights[at];
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * g[d];
      }
      rule(RowOf(key), sum);
    }
    i = next;
  }
}

inline void Update(Kind kind, const Tables& t, const Rates& r, const Entry* begin, const Entry* end,
                   const int32_t* bags, const float* weights, const float* gradients,
                   Scratch* scratch) {
  switch (kind) {
    case Kind::kSgd:
      return UpdatePartition(Sgd{t, r}, begin, end, bags, weights, gradients, scratch);
    case Kind::kAdagrad:
      return UpdatePartition(Adagrad{t, r}, begin, end, bags, weights, gradients, scratch);
    case Kind::kRowWiseAdagrad:
      return UpdatePartition(RowWiseAdagrad{t, r}, begin, end, bags, weights, gradients, scratch);
    case Kind::kLazyAdam:
      return UpdatePartition(LazyAdam{t, r}, begin, end, bags, weights, gradients, scratch);
    case Kind::kFtrl:
      return UpdatePartition(Ftrl{t, r}, begin, end, bags, weights, gradients, scratch);
  }
}

inline void Pool32(const float* table, int64_t dim, const int32_t* ids, const int32_t* bags,
                   const float* weights, int64_t count, int64_t first, int64_t last, float* out) {
  Pool(table, dim, ids, bags, weights, count, first, last, out);
}
inline void Pool64(const float* table, int64_t dim, const int64_t* ids, const int32_t* bags,
                   const float* weights, int64_t count, int64_t first, int64_t last, float* out) {
  Pool(table, dim, ids, bags, weights, count, first, last, out);
}

extern const Path kPath = {Pool32, Pool64, Update};

}  // namespace TF_DLRM_PATH
}  // namespace tf_dlrm
