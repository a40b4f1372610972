// Lookup and update of tables.
#include "check.h"

namespace {

// What float32 loses, times three: a vector is a sum of a few rows, a row learns from a sum of some
// hundred gradients, and a slot has the square of it.
constexpr double kVector = 1e-6, kRow = 1e-5, kSlot = 5e-5;

struct Own {
  std::vector<int32_t> ids32;
  std::vector<int64_t> ids64, splits;
  std::vector<float> weights, vectors, gradients;
};

struct Numbers {
  double w, first, second;
};

struct Given {
  float rate, epsilon, beta_1, beta_2, power, l1, l2, beta;

  // In the order of the fields of the class in Python.
  Rates Of(Kind kind) const {
    switch (kind) {
      case Kind::kSGD: return {rate, {}};
      case Kind::kAdagrad:
      case Kind::kRowWiseAdagrad: return {rate, {7, epsilon}};
      case Kind::kLazyAdam: return {rate, {beta_1, beta_2, epsilon}};
      default: return {rate, {-power, l1, l2, 7, beta}};
    }
  }
};

// The rules over doubles, apart from those of the kernels.
Numbers Updated(Kind kind, const Given& r, Numbers n, double g, double mean_square) {
  switch (kind) {
    case Kind::kSGD: return {n.w - r.rate * g, 0, 0};
    case Kind::kAdagrad:
    case Kind::kRowWiseAdagrad: {
      const double total = n.first + (kind == Kind::kAdagrad ? g * g : mean_square);
      return {n.w - r.rate * g / (std::sqrt(total) + r.epsilon), total, 0};
    }
    case Kind::kLazyAdam: {
      const double m = r.beta_1 * n.first + (1.0 - r.beta_1) * g;
      const double v = r.beta_2 * n.second + (1.0 - r.beta_2) * g * g;
      return {n.w - r.rate * m / (std::sqrt(v) + r.epsilon), m, v};
    }
    default: {
      const double total = n.first + g * g;
      const double before = std::pow(n.first, r.power), after = std::pow(total, r.power);
      const double z = n.second + g - (after - before) / r.rate * n.w;
      const double over = std::fabs(z) - r.l1;
      const double w = over <= 0 ? 0 : -std::copysign(over, z) /
                                           (after / r.rate + r.beta / r.rate + 2.0 * r.l2);
      return {w, total, z};
    }
  }
}

void Check(const Path& path, Kind kind, float power, int64_t dim, int64_t bags, int64_t most) {
  const int64_t first_rows = 37, second_rows = 300, rows = first_rows + second_rows;
  const bool row_wise = kind == Kind::kRowWiseAdagrad;
  const int slots = kind == Kind::kSGD ? 0 : kind <= Kind::kRowWiseAdagrad ? 1 : 2;
  std::vector<float> table(rows * dim);
  for (float& value : table) value = Real();
  std::vector<float> first(slots > 0 ? rows * (row_wise ? 1 : dim) : 0);
  std::vector<float> second(slots > 1 ? rows * dim : 0);
  for (float& value : first) value = 0.25f + std::fabs(Real());
  for (float& value : second) value = kind == Kind::kFTRL ? Real() : 0.25f + std::fabs(Real());
  const std::vector<float> before = table, first_before = first, second_before = second;
  Tables tables{table.data(), slots > 0 ? first.data() : nullptr,
                slots > 1 ? second.data() : nullptr, rows, dim, row_wise};
  std::vector<Own> own(4);
  std::vector<Feature> features;
  for (int k = 0; k < 4; ++k) {
    Own& o = own[k];
    Feature f{};
    f.offset = k % 2 == 0 ? 0 : first_rows;
    f.size = k % 2 == 0 ? first_rows : second_rows;
    f.out_of_vocabulary = k == 1 ? 5 : -1;
    f.combiner = static_cast<Combiner>(k % 3);
    f.hotness = k == 0 ? 1 : most;
    f.bags = k == 1 ? bags / 2 + 3 : bags;
    o.splits = {0};
    for (int64_t b = 0; b < f.bags; ++b) {
      o.splits.push_back(o.splits.back() + (k < 2 ? f.hotness : Below(most + 1)));
    }
    f.id_count = o.splits.back();
    for (int64_t i = 0; i < f.id_count; ++i) {
      int64_t id = Below(9) == 0 ? 0 : Below(f.size);
      if (k == 1 && Below(9) == 0) id = -Below(1000) - 1;
      o.ids32.push_back(static_cast<int32_t>(id));
      o.ids64.push_back(k == 1 && id < 0 ? id * (int64_t{1} << 40) : id);
      o.weights.push_back(0.5f + Below(4));
    }
    if (k % 2 == 0) {
      f.ids32 = o.ids32.data();
    } else {
      f.ids64 = o.ids64.data();
    }
    if (k >= 2) f.splits = o.splits.data();
    if (k == 3) f.weights = o.weights.data();
    o.vectors.resize(f.bags * dim);
    for (int64_t i = 0; i < f.bags * dim; ++i) o.gradients.push_back(Real());
    f.vectors = o.vectors.data();
    f.gradients = o.gradients.data();
    features.push_back(f);
  }
  if (path.lookup(tables, features, Threads).feature != -1) Fail("outside", 0, -1);
  std::vector<double> sums(rows * dim, 0.0);
  std::vector<bool> touched(rows, false);
  for (int k = 0; k < 4; ++k) {
    const Feature& f = features[k];
    for (int64_t b = 0; b < f.bags; ++b) {
      double total = 0;
      for (int64_t i = own[k].splits[b]; i < own[k].splits[b + 1]; ++i) {
        const double w = k == 3 ? own[k].weights[i] : 1;
        total += f.combiner == Combiner::kMean ? w : w * w;
      }
      double factor = 1;
      if (f.combiner == Combiner::kMean) factor = total > 0 ? 1 / total : 0;
      if (f.combiner == Combiner::kSqrtn) factor = total > 0 ? 1 / std::sqrt(total) : 0;
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (int64_t i = own[k].splits[b]; i < own[k].splits[b + 1]; ++i) {
          int64_t id = own[k].ids32[i];
          if (id < 0) id = f.out_of_vocabulary;
          const double w = k == 3 ? own[k].weights[i] : 1;
          sum += w * before[(id + f.offset) * dim + d];
          sums[(id + f.offset) * dim + d] += factor * w * own[k].gradients[b * dim + d];
          touched[id + f.offset] = true;
        }
        Compare("vector", own[k].vectors[b * dim + d], factor * sum, kVector);
      }
    }
  }
  // Large ones, so that a number in the wrong place is a wrong row.
  const Given given{0.3f, 0.4f, 0.6f, 0.7f, power, 0.5f, 0.8f, 0.9f};
  const Rates rates = given.Of(kind);
  // However many threads there are, to the bit.
  std::vector<float> table_of_many = table, first_of_many = first, second_of_many = second;
  const Tables of_many{table_of_many.data(), slots > 0 ? first_of_many.data() : nullptr,
                       slots > 1 ? second_of_many.data() : nullptr, rows, dim, row_wise};
  if (path.update(kind, tables, rates, features, 1, OneThread).feature != -1 ||
      path.update(kind, of_many, rates, features, 64, Threads).feature != -1) {
    Fail("outside", 0, -1);
  }
  if (table != table_of_many || first != first_of_many || second != second_of_many) {
    Fail("an update by 64 threads", 1, 0);
  }
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d) squares += sums[row * dim + d] * sums[row * dim + d];
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t i = row * dim + d, of_slot = row_wise ? row : i;
      Numbers wanted{before[i], slots > 0 ? first_before[of_slot] : 0.0,
                     slots > 1 ? second_before[i] : 0.0};
      if (touched[row]) wanted = Updated(kind, given, wanted, sums[i], squares / dim);
      const double found = table[i];
      if (!touched[row] && found != wanted.w) Fail("row without an id", found, wanted.w);
      Compare("row", found, wanted.w, kRow);
      if (slots > 0) Compare("first slot", first[of_slot], wanted.first, kSlot);
      if (slots > 1) Compare("second slot", second[i], wanted.second, kSlot);
    }
  }
  // An id outside is named, and nothing is updated.
  const std::vector<float> kept = table;
  if (most > 1 && bags > 1) {
    own[2].splits = std::vector<int64_t>(bags + 1, 2);
    own[2].splits[0] = own[2].splits[1] = 0;
    own[2].ids32 = {0, 37};
    features[2].splits = own[2].splits.data();
    features[2].ids32 = own[2].ids32.data();
    features[2].id_count = 2;
    for (int update = 0; update < 2; ++update) {
      const Outside outside =
          update ? path.update(kind, tables, rates, features, 4, Threads)
                 : path.lookup(tables, features, Threads);
      Compare("feature", outside.feature, 2, 0);
      Compare("bag", outside.bag, 1, 0);
      Compare("place", outside.place, 1, 0);
      Compare("id", outside.id, 37, 0);
    }
    if (table != kept) Fail("an update with an id outside", 1, 0);
  }
}

}  // namespace

void CheckTables(const Path& path) {
  for (int kind = 0; kind < 5; ++kind) {
    for (const int64_t dim : {1, 3, 16, 64, 100}) {
      for (const int64_t bags : {1, 7, 300}) {
        for (const int64_t most : {1, 5}) {
          const float power = most == 1 ? 0.5f : 0.7f;
          Check(path, static_cast<Kind>(kind), power, dim, bags, most);
        }
      }
    }
  }
  for (const int64_t dim : {32, 128}) Check(path, Kind::kAdagrad, 0.5f, dim, 20, 3);
  // More gradients than one block of them has.
  Check(path, Kind::kRowWiseAdagrad, 0.5f, 2, 70'000, 2);
}
