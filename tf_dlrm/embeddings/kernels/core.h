// Pooled lookup and exact sparse update of embedding tables.
//
// Included once for each instruction set, with TF_DLRM_PATH naming it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "interface.h"
#include "rules.h"

namespace tf_dlrm::tables::TF_DLRM_PATH {

constexpr int64_t kPrefetchAhead = 12;
constexpr uintptr_t kCacheLine = 64;
// Bags in a piece of work; results do not depend on it.
constexpr int64_t kBagsAtOnce = 128;

// The address may be any: nothing is read where it is no memory of ours.
inline void Prefetch(const void* table, int64_t row, int64_t bytes) {
  uintptr_t from = reinterpret_cast<uintptr_t>(table) +
                   static_cast<uintptr_t>(row) * static_cast<uintptr_t>(bytes);
  const uintptr_t last = from + bytes;
  for (; from < last; from += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(from), 1, 3);
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

template <typename T, int64_t D, typename Id>
void PoolBags(const Tables& t, const Feature& f, const Id* ids, int64_t number, int64_t first,
              int64_t last, Watch* watch) {
  const int64_t dim = D != 0 ? D : t.dim;
  const int64_t row_bytes = dim * sizeof(T);
  const T* table = static_cast<const T*>(t.rows);
  const Rows<Id> rows(f, ids, number, watch);
  for (int64_t bag = first; bag < last; ++bag) {
    float* const out = f.vectors + bag * dim;
    const int64_t begin = f.Begin(bag), end = f.Begin(bag + 1);
    // With a constant D the sums stay in registers; else they are `out`, touched as `sum` alone.
    float sums[D != 0 ? D : 1];
    float* __restrict sum = D != 0 ? sums : out;
    for (int64_t d = 0; d < dim; ++d) sum[d] = 0.0f;
    for (int64_t i = begin; i < end; ++i) {
      if (i + kPrefetchAhead < f.id_count) {
        Prefetch(table, rows.Guess(i + kPrefetchAhead), row_bytes);
      }
      const int64_t found = rows.Find(bag, i);
      if (__builtin_expect(found < 0, 0)) continue;
      const T* __restrict row = table + found * dim;
      if (f.weights != nullptr) {
        const float weight = f.weights[i];
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * Load(row[d]);
      } else {
        for (int64_t d = 0; d < dim; ++d) sum[d] += Load(row[d]);
      }
    }
    const float factor = FactorOf(f, bag);
    if constexpr (D == 0) {
      if (factor != 1.0f) {
        for (int64_t d = 0; d < dim; ++d) sum[d] *= factor;
      }
    } else {
      float* __restrict to = out;
      if (factor != 1.0f) {
        for (int64_t d = 0; d < dim; ++d) to[d] = factor * sum[d];
      } else {
        for (int64_t d = 0; d < dim; ++d) to[d] = sum[d];
      }
    }
  }
}

// Calls f.operator()<T, D>() for the type and the number of columns of a table.
template <typename T, typename Function>
void WithColumns(int64_t dim, const Function& f) {
  switch (dim) {
    case 16: return f(T{}, std::integral_constant<int64_t, 16>{});
    case 32: return f(T{}, std::integral_constant<int64_t, 32>{});
    case 64: return f(T{}, std::integral_constant<int64_t, 64>{});
    case 128: return f(T{}, std::integral_constant<int64_t, 128>{});
    default: return f(T{}, std::integral_constant<int64_t, 0>{});
  }
}
template <typename Function>
void WithTypeAndColumns(const Tables& t, const Function& f) {
  return t.half ? WithColumns<BFloat16>(t.dim, f) : WithColumns<float>(t.dim, f);
}

// Calls a function with the ids of a feature in their own type.
template <typename Function>
void WithIds(const Feature& f, const Function& function) {
  return f.ids32 != nullptr ? function(f.ids32) : function(f.ids64);
}

inline Outside Lookup(const Tables& t, const std::vector<Feature>& features, int64_t bags,
                      const ForEach& for_each) {
  int64_t ids = 0;
  for (const Feature& f : features) ids += f.id_count;
  const int64_t pieces = (bags + kBagsAtOnce - 1) / kBagsAtOnce;
  const int64_t all = pieces * static_cast<int64_t>(features.size());
  if (all == 0) return Outside{};
  Watch watch;
  for_each(all, (ids + bags) * (t.dim + 16) / 4 / all + 1, [&](int64_t k) {
    const int64_t number = k / pieces, first = k % pieces * kBagsAtOnce;
    const int64_t last = std::min(bags, first + kBagsAtOnce);
    const Feature& f = features[number];
    WithIds(f, [&](const auto* ids) {
      WithTypeAndColumns(t, [&](auto type, auto columns) {
        PoolBags<decltype(type), columns()>(t, f, ids, number, first, last, &watch);
      });
    });
  });
  return watch.first();
}

// An id of the batch, and the gradient of its bag: the upper 16 bits of `gradient` are the number of
// a block of gradients, the others the row in it.
struct Entry {
  uint32_t row;
  uint32_t gradient;
};
constexpr int64_t kBlockRows = 1 << 16;

// Spreads rows over 32 bits: popular ones are often neighbours.
inline uint32_t Hash(uint32_t row) { return row * 0x9E3779B1u; }

// A place of the hash table of the rows of a partition.
struct Place {
  uint32_t row;
  uint32_t sum;  // 0 where the place is free, 1 of a row seen once, else 2 + the number of its sum
};

// Memory of a thread.
struct Scratch {
  std::vector<Place> places;
  std::vector<uint32_t> place_of;
  std::vector<float> sums;
  std::vector<uint32_t> sum_rows;
};

struct Partition {
  const Entry* begin;
  const Entry* end;
  const float* coefficients;  // of the entries, or null for ones
};

// Updates the rows of one partition: those with one id at once, in the order of the ids, which is
// that of the gradients in memory; those with more after their gradients are summed.
template <typename Rule, typename T, int64_t D>
void UpdateRows(const Tables& t, const Rates& rates, const Partition& part, int partition_bits,
                const std::vector<const float*>& blocks, Scratch* scratch) {
  const int64_t dim = D != 0 ? D : t.dim;
  const int64_t count = part.end - part.begin;
  if (count == 0) return;
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * count) ++bits;
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  scratch->places.assign(size_t{1} << bits, Place{0, 0});
  scratch->place_of.resize(count);
  scratch->sum_rows.clear();
  Place* const places = scratch->places.data();
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t row = part.begin[i].row;
    // The upper bits of the hash are those of the partition.
    uint32_t at = bits + partition_bits <= 32
                      ? (Hash(row) << partition_bits) >> (32 - bits)
                      : Hash(row) & mask;
    while (places[at].sum != 0 && places[at].row != row) at = (at + 1) & mask;
    Place& place = places[at];
    if (place.sum == 0) {
      place = Place{row, 1};
    } else if (place.sum == 1) {
      place.sum = 2 + static_cast<uint32_t>(scratch->sum_rows.size());
      scratch->sum_rows.push_back(row);
    }
    scratch->place_of[i] = at;
  }
  const size_t repeated = scratch->sum_rows.size();
  scratch->sums.assign((repeated + 1) * dim, 0.0f);
  float* const scaled = &scratch->sums[repeated * dim];
  auto prefetch = [&](uint32_t row) {
    Prefetch(t.rows, row, dim * sizeof(T));
    if (t.first_slot != nullptr) Prefetch(t.first_slot, row, (t.row_wise ? 1 : dim) * 4);
    if (t.second_slot != nullptr) Prefetch(t.second_slot, row, dim * 4);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (i + kPrefetchAhead < count) prefetch(part.begin[i + kPrefetchAhead].row);
    const Entry entry = part.begin[i];
    const float* __restrict gradient =
        blocks[entry.gradient / kBlockRows] + entry.gradient % kBlockRows * dim;
    const float coefficient = part.coefficients == nullptr ? 1.0f : part.coefficients[i];
    const uint32_t sum_number = places[scratch->place_of[i]].sum;
    if (sum_number != 1) {
      float* __restrict sum = &scratch->sums[(sum_number - 2) * dim];
      for (int64_t d = 0; d < dim; ++d) sum[d] += coefficient * gradient[d];
      continue;
    }
    if (coefficient != 1.0f) {
      for (int64_t d = 0; d < dim; ++d) scaled[d] = coefficient * gradient[d];
      gradient = scaled;
    }
    Rule::template Apply<T, D>(rates, Row<T, D>(t, entry.row), gradient);
  }
  for (size_t k = 0; k < repeated; ++k) {
    if (k + kPrefetchAhead < repeated) prefetch(scratch->sum_rows[k + kPrefetchAhead]);
    Rule::template Apply<T, D>(rates, Row<T, D>(t, scratch->sum_rows[k]),
                               &scratch->sums[k * dim]);
  }
}

template <typename Rule>
void UpdatePartition(const Tables& t, const Rates& rates, const Partition& part,
                     int partition_bits, const std::vector<const float*>& blocks) {
  thread_local Scratch scratch;
  WithTypeAndColumns(t, [&](auto type, auto columns) {
    UpdateRows<Rule, decltype(type), columns()>(t, rates, part, partition_bits, blocks, &scratch);
  });
}

// The entries of all ids, by partition of their rows and within it in the order of the ids.
class Entries {
 public:
  Entries(const std::vector<Feature>& features, int64_t bags, int partition_bits,
          const ForEach& for_each)
      : bits_(partition_bits), first_((size_t{1} << partition_bits) + 1, 0) {
    int64_t count = 0;
    bool scaled = false;
    std::vector<uint32_t> first_block;
    for (const Feature& f : features) {
      count += f.id_count;
      scaled = scaled || f.weights != nullptr || f.combiner != Combiner::kSum;
      first_block.push_back(blocks_.size());
      for (int64_t bag = 0; bag < bags; bag += kBlockRows) {
        blocks_.push_back(f.gradients);
        block_bags_.push_back(bag);
      }
    }
    const int64_t partitions = int64_t{1} << bits_;
    const int64_t pieces = (bags + kBagsAtOnce - 1) / kBagsAtOnce;
    const int64_t all = pieces * static_cast<int64_t>(features.size());
    std::vector<int64_t> begins(all * partitions, 0);
    auto each_id = [&](int64_t k, const auto& visit) {
      const int64_t number = k / pieces, first = k % pieces * kBagsAtOnce;
      const int64_t last = std::min(bags, first + kBagsAtOnce);
      const Feature& f = features[number];
      WithIds(f, [&](const auto* ids) {
        const Rows<std::decay_t<decltype(*ids)>> rows(f, ids, number, &watch_);
        for (int64_t bag = first; bag < last; ++bag) {
          const int64_t end = f.Begin(bag + 1);
          for (int64_t i = f.Begin(bag); i < end; ++i) {
            const int64_t row = rows.Find(bag, i);
            if (__builtin_expect(row >= 0, 1)) visit(f, number, bag, i, row);
          }
        }
      });
    };
    const int64_t cost = 2 * count / std::max<int64_t>(all, 1) + 1;
    for_each(all, cost, [&](int64_t k) {
      int64_t* counts = &begins[k * partitions];
      each_id(k, [&](const Feature&, int64_t, int64_t, int64_t, int64_t row) {
        ++counts[PartitionOf(row)];
      });
    });
    if (watch_.first().feature >= 0) return;
    int64_t begin = 0;
    for (int64_t p = 0; p < partitions; ++p) {
      first_[p] = begin;
      for (int64_t k = 0; k < all; ++k) {
        const int64_t n = begins[k * partitions + p];
        begins[k * partitions + p] = begin;
        begin += n;
      }
    }
    first_[partitions] = begin;
    entries_.reset(new Entry[begin]);
    if (scaled) coefficients_.reset(new float[begin]);
    for_each(all, 2 * cost, [&](int64_t k) {
      int64_t* at = &begins[k * partitions];
      int64_t bag_before = -1;
      float factor = 1.0f;
      each_id(k, [&](const Feature& f, int64_t number, int64_t bag, int64_t i, int64_t row) {
        const int64_t to = at[PartitionOf(row)]++;
        const uint32_t block = first_block[number] + bag / kBlockRows;
        entries_[to] = Entry{static_cast<uint32_t>(row),
                             block * static_cast<uint32_t>(kBlockRows) +
                                 static_cast<uint32_t>(bag % kBlockRows)};
        if (coefficients_ != nullptr) {
          if (bag != bag_before) factor = FactorOf(f, bag);
          bag_before = bag;
          coefficients_[to] = f.weights == nullptr ? factor : factor * f.weights[i];
        }
      });
    });
  }

  Outside outside() const { return watch_.first(); }

  Partition partition(int64_t p) const {
    const float* coefficients = coefficients_ == nullptr ? nullptr : &coefficients_[first_[p]];
    return Partition{entries_.get() + first_[p], entries_.get() + first_[p + 1], coefficients};
  }

  // Where the gradients of each block begin.
  std::vector<const float*> blocks(int64_t dim) const {
    std::vector<const float*> begins;
    for (size_t k = 0; k < blocks_.size(); ++k) begins.push_back(blocks_[k] + block_bags_[k] * dim);
    return begins;
  }

 private:
  int64_t PartitionOf(int64_t row) const {
    return bits_ == 0 ? 0 : Hash(static_cast<uint32_t>(row)) >> (32 - bits_);
  }

  const int bits_;
  Watch watch_;
  std::vector<int64_t> first_;
  std::vector<const float*> blocks_;
  std::vector<int64_t> block_bags_;
  std::unique_ptr<Entry[]> entries_;
  std::unique_ptr<float[]> coefficients_;
};

inline Outside Update(Kind kind, const Tables& t, const Rates& rates,
                      const std::vector<Feature>& features, int64_t bags, int threads,
                      const ForEach& for_each) {
  int64_t count = 0;
  for (const Feature& f : features) count += f.id_count;
  if (count == 0) return Outside{};
  // Enough for the threads to share the work, and so many that the hash table of one stays in the
  // cache, but not so many that few ids are cut up.
  constexpr int64_t kFewIds = 1024, kManyIds = 65536;
  int bits = 0;
  while ((int64_t{1} << bits) < 4 * threads && (count >> bits) > kFewIds) ++bits;
  while (bits < 8 && (count >> bits) > kManyIds) ++bits;
  const Entries entries(features, bags, bits, for_each);
  if (entries.outside().feature >= 0) return entries.outside();
  const std::vector<const float*> blocks = entries.blocks(t.dim);
  const int64_t partitions = int64_t{1} << bits;
  for_each(partitions, (count / partitions + 1) * (t.dim + 32) / 2, [&](int64_t p) {
    const Partition part = entries.partition(p);
    switch (kind) {
#define TF_DLRM_UPDATE(name, slots, row_wise, numbers) \
  case Kind::k##name: return UpdatePartition<name>(t, rates, part, bits, blocks);
      TF_DLRM_OPTIMIZERS(TF_DLRM_UPDATE)
#undef TF_DLRM_UPDATE
    }
  });
  return Outside{};
}

extern const Path kPath = {Lookup, Update};

}  // namespace tf_dlrm::tables::TF_DLRM_PATH
