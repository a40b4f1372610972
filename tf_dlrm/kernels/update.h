// Exact sparse update of embedding tables: each row once, by the sum of its gradients.
//
// Included once for each instruction set, with TF_DLRM_PATH naming it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "interface.h"
#include "lookup.h"
#include "rules.h"

namespace tf_dlrm::TF_DLRM_PATH {

// An id of the batch, and the gradient of its bag: the upper 16 bits of `gradient` are the number of
// a block of gradients, the others the row in it.
struct Entry {
  uint32_t row;
  uint32_t gradient;
};

// Spreads rows over 32 bits: popular ones are often neighbours.
inline uint32_t Hash(uint32_t row) { return row * 0x9E3779B1u; }

// A place of the hash table of the rows of a partition.
struct Place {
  uint32_t row;
  uint32_t sum;  // 0 where the place is free, 1 of a row seen once, else 2 + the number of its sum
};

// Memory of a thread, which keeps it for its next partition if it is not more than usual.
struct Scratch {
  std::vector<Place> places;
  std::vector<uint32_t> place_of;
  std::vector<float> sums;
  std::vector<uint32_t> sum_rows;

  void Shrink() {
    constexpr size_t kBytes = size_t{16} << 20;
    if (places.capacity() * sizeof(Place) + place_of.capacity() * 4 + sums.capacity() * 4 +
            sum_rows.capacity() * 4 > kBytes) {
      *this = Scratch{};
    }
  }
};

struct Partition {
  const Entry* begin;
  const Entry* end;
  const float* coefficients;  // of the entries, or null for ones
};

// Updates the rows of one partition: those with one id at once, in the order of the ids, which is
// that of the gradients in memory; those with more after their gradients are summed.
template <typename Rule, int64_t D>
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
    Prefetch<true>(t.rows, row, dim * sizeof(float));
    if (t.first_slot != nullptr) Prefetch<true>(t.first_slot, row, (t.row_wise ? 1 : dim) * 4);
    if (t.second_slot != nullptr) Prefetch<true>(t.second_slot, row, dim * 4);
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
    Rule::template Apply<D>(rates, Row<D>(t, entry.row), gradient);
  }
  for (size_t k = 0; k < repeated; ++k) {
    if (k + kPrefetchAhead < repeated) prefetch(scratch->sum_rows[k + kPrefetchAhead]);
    Rule::template Apply<D>(rates, Row<D>(t, scratch->sum_rows[k]),
                               &scratch->sums[k * dim]);
  }
}

template <typename Rule>
void UpdatePartition(const Tables& t, const Rates& rates, const Partition& part,
                     int partition_bits, const std::vector<const float*>& blocks) {
  thread_local Scratch scratch;
  WithColumns(t.dim, [&](auto columns) {
    UpdateRows<Rule, columns()>(t, rates, part, partition_bits, blocks, &scratch);
  });
  scratch.Shrink();
}

// The entries of all ids, by partition of their rows and within it in the order of the ids.
class Entries {
 public:
  Entries(const std::vector<Feature>& features, int partition_bits, int threads,
          const ForEach& for_each)
      : bits_(partition_bits), first_((size_t{1} << partition_bits) + 1, 0) {
    int64_t count = 0;
    bool scaled = false;
    std::vector<uint32_t> first_block;
    for (const Feature& f : features) {
      count += f.id_count;
      scaled = scaled || f.weights != nullptr || f.combiner != Combiner::kSum;
      first_block.push_back(blocks_.size());
      for (int64_t bag = 0; bag < f.bags; bag += kBlockRows) {
        blocks_.push_back(f.gradients);
        block_bags_.push_back(bag);
      }
    }
    const int64_t partitions = int64_t{1} << bits_;
    const std::vector<Piece> pieces = PiecesOf(features);
    // Runs of pieces, a few for each thread: every run has a number for each partition, and all of
    // these are summed up by one thread.
    const int64_t runs = std::min<int64_t>(pieces.size(), 4 * threads);
    std::vector<int64_t> begins(runs * partitions, 0);
    auto each_id = [&](int64_t run, const auto& visit) {
      const int64_t last_piece = (run + 1) * pieces.size() / runs;
      for (int64_t k = run * pieces.size() / runs; k < last_piece; ++k) {
        const Piece& piece = pieces[k];
        const Feature& f = features[piece.number];
        WithIds(f, [&](const auto* ids) {
          const Rows<std::decay_t<decltype(*ids)>> rows(f, ids, piece.number, &watch_);
          for (int64_t bag = piece.first; bag < piece.last; ++bag) {
            const int64_t end = f.Begin(bag + 1);
            for (int64_t i = f.Begin(bag); i < end; ++i) {
              const int64_t row = rows.Find(bag, i);
              if (__builtin_expect(row >= 0, 1)) visit(f, piece.number, bag, i, row);
            }
          }
        });
      }
    };
    const int64_t cost = 2 * count / std::max<int64_t>(runs, 1) + 1;
    for_each(runs, cost, [&](int64_t k) {
      int64_t* counts = &begins[k * partitions];
      each_id(k, [&](const Feature&, int64_t, int64_t, int64_t, int64_t row) {
        ++counts[PartitionOf(row)];
      });
    });
    if (watch_.first().feature >= 0) return;
    // In the order of memory: all partitions of a run before the next run.
    for (int64_t k = 0; k < runs; ++k) {
      for (int64_t p = 0; p < partitions; ++p) first_[p + 1] += begins[k * partitions + p];
    }
    for (int64_t p = 0; p < partitions; ++p) first_[p + 1] += first_[p];
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t k = 0; k < runs; ++k) {
      for (int64_t p = 0; p < partitions; ++p) {
        const int64_t n = begins[k * partitions + p];
        begins[k * partitions + p] = next[p];
        next[p] += n;
      }
    }
    entries_.reset(new Entry[first_[partitions]]);
    if (scaled) coefficients_.reset(new float[first_[partitions]]);
    for_each(runs, 2 * cost, [&](int64_t k) {
      int64_t* at = &begins[k * partitions];
      int64_t bag_before = -1, number_before = -1;
      float factor = 1.0f;
      each_id(k, [&](const Feature& f, int64_t number, int64_t bag, int64_t i, int64_t row) {
        const int64_t to = at[PartitionOf(row)]++;
        const uint32_t block = first_block[number] + bag / kBlockRows;
        entries_[to] = Entry{static_cast<uint32_t>(row),
                             block * static_cast<uint32_t>(kBlockRows) +
                                 static_cast<uint32_t>(bag % kBlockRows)};
        if (coefficients_ != nullptr) {
          if (bag != bag_before || number != number_before) factor = FactorOf(f, bag);
          bag_before = bag;
          number_before = number;
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
                      const std::vector<Feature>& features, int threads,
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
  const Entries entries(features, bits, threads, for_each);
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

}  // namespace tf_dlrm::TF_DLRM_PATH
