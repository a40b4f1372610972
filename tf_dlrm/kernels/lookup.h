// Pooled lookup in embedding tables, and what the update shares with it.
//
// Included once for each instruction set, with TF_DLRM_PATH naming it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "interface.h"

namespace tf_dlrm::TF_DLRM_PATH {

constexpr int64_t kPrefetchAhead = 12;
constexpr uintptr_t kCacheLine = 64;
// Bags in a piece of work; results do not depend on it.
constexpr int64_t kBagsAtOnce = 128;

// The address may be any: nothing is read where it is no memory of ours.
template <bool kToWrite>
inline void Prefetch(const void* table, int64_t row, int64_t bytes) {
  uintptr_t from = reinterpret_cast<uintptr_t>(table) +
                   static_cast<uintptr_t>(row) * static_cast<uintptr_t>(bytes);
  const uintptr_t last = from + bytes;
  for (; from < last; from += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(from), kToWrite, 3);
  }
}

// Collects the first of the ids that are outside, whichever thread finds it.
class Watch {
 public:
  void Found(int64_t feature, int64_t bag, int64_t place, int64_t id) {
    while (busy_.test_and_set(std::memory_order_acquire)) {
    }
    if (first_.feature < 0 || feature < first_.feature ||
        (feature == first_.feature &&
         (bag < first_.bag || (bag == first_.bag && place < first_.place)))) {
      first_ = Outside{feature, bag, place, id};
    }
    busy_.clear(std::memory_order_release);
  }
  Outside first() const { return first_; }

 private:
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  Outside first_;
};

// Rows of a feature's table that its ids mean.
template <typename Id>
class Rows {
 public:
  Rows(const Feature& feature, const Id* ids, int64_t number, Watch* watch)
      : feature_(feature), ids_(ids), number_(number), watch_(watch) {}

  // The row of the stack that the id at a place means, or -1.
  int64_t Find(int64_t bag, int64_t place) const {
    const int64_t id = ids_[place];
    // As unsigned numbers the negative ids are the largest.
    if (__builtin_expect(static_cast<uint64_t>(id) < static_cast<uint64_t>(feature_.size), 1)) {
      return id + feature_.offset;
    }
    if (feature_.out_of_vocabulary >= 0) return feature_.out_of_vocabulary + feature_.offset;
    watch_->Found(number_, bag, place - feature_.Begin(bag), id);
    return -1;
  }

  // Where the row of a coming id will be, unchecked: for prefetching only.
  int64_t Guess(int64_t place) const {
    return static_cast<int64_t>(static_cast<uint64_t>(ids_[place]) +
                                static_cast<uint64_t>(feature_.offset));
  }

 private:
  const Feature& feature_;
  const Id* ids_;
  const int64_t number_;
  Watch* const watch_;
};

// By what the weighted sum of a bag is multiplied.
inline float FactorOf(const Feature& f, int64_t bag) {
  if (f.combiner == Combiner::kSum) return 1.0f;
  const int64_t begin = f.Begin(bag), end = f.Begin(bag + 1);
  float total = static_cast<float>(end - begin);
  if (f.weights != nullptr) {
    total = 0;
    for (int64_t i = begin; i < end; ++i) {
      total += f.combiner == Combiner::kMean ? f.weights[i] : f.weights[i] * f.weights[i];
    }
  }
  if (total == 0.0f) return 0.0f;
  return 1.0f / (f.combiner == Combiner::kMean ? total : std::sqrt(total));
}

template <int64_t D, typename Id>
void PoolBags(const Tables& t, const Feature& f, const Id* ids, int64_t number, int64_t first,
              int64_t last, Watch* watch) {
  const int64_t dim = D != 0 ? D : t.dim;
  const int64_t row_bytes = dim * sizeof(float);
  const float* table = t.rows;
  const Rows<Id> rows(f, ids, number, watch);
  for (int64_t bag = first; bag < last; ++bag) {
    float* const out = f.vectors + bag * dim;
    const int64_t begin = f.Begin(bag), end = f.Begin(bag + 1);
    // With a constant D the sums stay in registers; else they are `out` itself.
    float sums[D != 0 ? D : 1];
    float* sum;
    if constexpr (D != 0) {
      sum = sums;
    } else {
      sum = out;
    }
    for (int64_t d = 0; d < dim; ++d) sum[d] = 0.0f;
    for (int64_t i = begin; i < end; ++i) {
      if (i + kPrefetchAhead < f.id_count) {
        Prefetch<false>(table, rows.Guess(i + kPrefetchAhead), row_bytes);
      }
      const int64_t found = rows.Find(bag, i);
      if (__builtin_expect(found < 0, 0)) continue;
      const float* __restrict row = table + found * dim;
      if (f.weights != nullptr) {
        const float weight = f.weights[i];
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * row[d];
      } else {
        for (int64_t d = 0; d < dim; ++d) sum[d] += row[d];
      }
    }
    const float factor = FactorOf(f, bag);
    if constexpr (D == 0) {
      if (factor != 1.0f) {
        for (int64_t d = 0; d < dim; ++d) sum[d] *= factor;
      }
    } else {
      if (factor != 1.0f) {
        for (int64_t d = 0; d < dim; ++d) out[d] = factor * sums[d];
      } else {
        for (int64_t d = 0; d < dim; ++d) out[d] = sums[d];
      }
    }
  }
}

// Calls a function with the number of columns of a table as a constant, or 0 for another one.
template <typename Function>
void WithColumns(int64_t dim, const Function& f) {
  switch (dim) {
    case 16: return f(std::integral_constant<int64_t, 16>{});
    case 32: return f(std::integral_constant<int64_t, 32>{});
    case 64: return f(std::integral_constant<int64_t, 64>{});
    case 128: return f(std::integral_constant<int64_t, 128>{});
    default: return f(std::integral_constant<int64_t, 0>{});
  }
}

// Calls a function with the ids of a feature in their own type.
template <typename Function>
void WithIds(const Feature& f, const Function& function) {
  return f.ids32 != nullptr ? function(f.ids32) : function(f.ids64);
}

// Some bags of a feature, [first, last).
struct Piece {
  int64_t number;  // of the feature
  int64_t first, last;
};

inline std::vector<Piece> PiecesOf(const std::vector<Feature>& features) {
  std::vector<Piece> pieces;
  for (size_t k = 0; k < features.size(); ++k) {
    for (int64_t first = 0; first < features[k].bags; first += kBagsAtOnce) {
      pieces.push_back(Piece{static_cast<int64_t>(k), first,
                             std::min(features[k].bags, first + kBagsAtOnce)});
    }
  }
  return pieces;
}

inline Outside Lookup(const Tables& t, const std::vector<Feature>& features,
                      const ForEach& for_each) {
  int64_t work = 0;
  for (const Feature& f : features) work += f.id_count + f.bags;
  const std::vector<Piece> pieces = PiecesOf(features);
  const int64_t count = pieces.size();
  if (count == 0) return Outside{};
  Watch watch;
  for_each(count, work * (t.dim + 16) / 4 / count + 1, [&](int64_t k) {
    const Piece& piece = pieces[k];
    const Feature& f = features[piece.number];
    WithIds(f, [&](const auto* ids) {
      WithColumns(t.dim, [&](auto columns) {
        PoolBags<columns()>(t, f, ids, piece.number, piece.first, piece.last, &watch);
      });
    });
  });
  return watch.first();
}

}  // namespace tf_dlrm::TF_DLRM_PATH
