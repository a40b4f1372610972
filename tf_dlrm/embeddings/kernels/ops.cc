// TensorFlow's operations around the kernels.
#include <cstdlib>
#include <string>

#include "interface.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tf_dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;
using tensorflow::shape_inference::InferenceContext;

// TF_DLRM_KERNEL_PATH asks for a smaller instruction set, for tests.
const Path& ChosenPath() {
  static const Path* const chosen = [] {
    const char* wish = std::getenv("TF_DLRM_KERNEL_PATH");
    const std::string wanted = wish == nullptr ? "" : wish;
    const bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    const bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has512 && (wanted.empty() || wanted == "avx512")) return &avx512::kPath;
    if (has2 && wanted != "portable") return &avx2::kPath;
    return &portable::kPath;
  }();
  return *chosen;
}

// The work of a kernel is cut into equally many pieces whatever the number of threads, so that
// results do not depend on it.
template <typename Work>
void ForEach(OpKernelContext* context, int64_t pieces, int64_t cost, const Work& work) {
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(workers->num_threads, workers->workers, pieces, cost,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t k = begin; k < end; ++k) work(k);
                    });
}

// Makes the only copy of a variable writable, as TensorFlow's sparse updates do: from now on whoever
// reads the whole variable gets a copy.
tensorflow::Status Prepare(OpKernelContext* context, Var* variable) {
  if (variable->copy_on_read_mode.load()) return tensorflow::OkStatus();
  tensorflow::mutex_lock lock(*variable->mu());
  if (variable->copy_on_read_mode.load()) return tensorflow::OkStatus();
  if (!variable->tensor()->RefCountIsOne()) {
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(variable->tensor()->dtype(),
                                              variable->tensor()->shape(), &copy));
    std::memcpy(copy.data(), variable->tensor()->data(), copy.TotalBytes());
    *variable->tensor() = copy;
  }
  variable->copy_on_read_mode.store(true);
  return tensorflow::OkStatus();
}

template <typename Id>
class PoolOp : public OpKernel {
 public:
  explicit PoolOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    const Tensor& ids = context->input(1);
    const Tensor& bags = context->input(2);
    const Tensor& weights = context->input(3);
    const int64_t bag_count = context->input(4).scalar<int32_t>()();
    tensorflow::tf_shared_lock lock(*variable->mu());
    const Tensor& table = *variable->tensor();
    const int64_t dim = table.dim_size(1), count = ids.NumElements();
    OP_REQUIRES(context, bags.NumElements() == count,
                tensorflow::errors::InvalidArgument("There must be a bag for each id."));
    Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({bag_count, dim}), &out));
    if (bag_count == 0) return;
    const float* rows = table.flat<float>().data();
    const Id* id = ids.flat<Id>().data();
    const int32_t* bag = bags.flat<int32_t>().data();
    const float* weight = weights.NumElements() == 0 ? nullptr : weights.flat<float>().data();
    float* vectors = out->flat<float>().data();
    constexpr int64_t kBagsAtOnce = 64;
    const int64_t pieces = (bag_count + kBagsAtOnce - 1) / kBagsAtOnce;
    const Path& path = ChosenPath();
    ForEach(context, pieces, (count / pieces + 1) * dim * 2, [&](int64_t k) {
      const int64_t first = k * kBagsAtOnce, last = std::min(bag_count, first + kBagsAtOnce);
      if constexpr (sizeof(Id) == 4) {
        path.pool32(rows, dim, id, bag, weight, count, first, last, vectors);
      } else {
        path.pool64(rows, dim, id, bag, weight, count, first, last, vectors);
      }
    });
  }
};

template <typename Id>
class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string kind;
    OP_REQUIRES_OK(context, context->GetAttr("kind", &kind));
    OP_REQUIRES_OK(context, context->GetAttr("N", &slot_count_));
    const std::vector<std::string> kinds = {"SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "FTRL"};
    const auto found = std::find(kinds.begin(), kinds.end(), kind);
    OP_REQUIRES(context, found != kinds.end(),
                tensorflow::errors::InvalidArgument("There is no kernel for ", kind, "."));
    kind_ = static_cast<Kind>(found - kinds.begin());
  }

  void Compute(OpKernelContext* context) override {
    std::vector<RefCountPtr<Var>> variables(1 + slot_count_);
    for (int k = 0; k <= slot_count_; ++k) {
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, k), &variables[k]));
      OP_REQUIRES_OK(context, Prepare(context, variables[k].get()));
    }
    const int next = 1 + slot_count_;
    const Tensor& ids = context->input(next);
    const Tensor& bags = context->input(next + 1);
    const Tensor& weights = context->input(next + 2);
    const Tensor& gradients = context->input(next + 3);
    const auto numbers = context->input(next + 4).flat<float>();
    const int64_t count = ids.NumElements();
    OP_REQUIRES(context, bags.NumElements() == count,
                tensorflow::errors::InvalidArgument("There must be a bag for each id."));
    OP_REQUIRES(context, numbers.size() == 8,
                tensorflow::errors::InvalidArgument("There must be 8 numbers of the optimizer."));
    if (count == 0) return;
    // In this order in every update of these variables; TensorFlow holds a variable's lock likewise.
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    for (const auto& variable : variables) {
      locks.push_back(std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
    }
    Tensor* table = variables[0]->tensor();
    Tables tables{table->flat<float>().data(), nullptr, nullptr, table->dim_size(1), 0};
    OP_REQUIRES(context, table->dim_size(0) <= int64_t{1} << 32,
                tensorflow::errors::InvalidArgument("A table has more than 2^32 rows."));
    if (slot_count_ > 0) {
      tables.first_slot = variables[1]->tensor()->flat<float>().data();
      tables.slot_columns = variables[1]->tensor()->dims() == 1 ? 1 : tables.dim;
    }
    if (slot_count_ > 1) tables.second_slot = variables[2]->tensor()->flat<float>().data();
    const Rates rates{numbers(0), numbers(1), numbers(2), numbers(3),
                      numbers(4), numbers(5), numbers(6), numbers(7)};
    const Id* id = ids.flat<Id>().data();
    const int32_t* bag = bags.flat<int32_t>().data();
    const float* weight = weights.NumElements() == 0 ? nullptr : weights.flat<float>().data();
    const float* gradient = gradients.flat<float>().data();

    // Entries by partition, in the order of the ids: counted piece by piece, then placed.
    constexpr int64_t kIdsAtOnce = 16384;
    const int64_t pieces = (count + kIdsAtOnce - 1) / kIdsAtOnce;
    std::vector<uint32_t> begins(pieces * kPartitions, 0);
    ForEach(context, pieces, kIdsAtOnce * 2, [&](int64_t k) {
      uint32_t* counts = &begins[k * kPartitions];
      const int64_t last = std::min(count, (k + 1) * kIdsAtOnce);
      for (int64_t i = k * kIdsAtOnce; i < last; ++i) ++counts[PartitionOf(KeyOf(id[i]))];
    });
    std::vector<int64_t> first(kPartitions + 1, 0);
    uint32_t begin = 0;
    for (int p = 0; p < kPartitions; ++p) {
      first[p] = begin;
      for (int64_t k = 0; k < pieces; ++k) {
        const uint32_t n = begins[k * kPartitions + p];
        begins[k * kPartitions + p] = begin;
        begin += n;
      }
    }
    first[kPartitions] = count;
    std::unique_ptr<Entry[]> entries(new Entry[count]);
    ForEach(context, pieces, kIdsAtOnce * 4, [&](int64_t k) {
      uint32_t* at = &begins[k * kPartitions];
      const int64_t last = std::min(count, (k + 1) * kIdsAtOnce);
      for (int64_t i = k * kIdsAtOnce; i < last; ++i) {
        const uint32_t key = KeyOf(id[i]);
        entries[at[PartitionOf(key)]++] = {key, static_cast<uint32_t>(i)};
      }
    });
    const Path& path = ChosenPath();
    const int64_t cost = (count / kPartitions + 1) * tables.dim * 4;
    ForEach(context, kPartitions, cost, [&](int64_t p) {
      thread_local Scratch scratch;
      path.update(kind_, tables, rates, &entries[first[p]], &entries[first[p + 1]], bag, weight,
                  gradient, &scratch);
    });
  }

 private:
  Kind kind_ = Kind::kSgd;
  int slot_count_ = 0;
};

REGISTER_OP("TfDlrmPool")
    .Input("table: resource")
    .Input("ids: Id")
    .Input("bags: int32")
    .Input("weights: float")
    .Input("bag_count: int32")
    .Output("vectors: float")
    .Attr("Id: {int32, int64}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->UnknownDim(), c->UnknownDim()));
      return tensorflow::OkStatus();
    });
REGISTER_OP("TfDlrmUpdate")
    .Input("table: resource")
    .Input("slots: N * resource")
    .Input("ids: Id")
    .Input("bags: int32")
    .Input("weights: float")
    .Input("gradients: float")
    .Input("numbers: float")
    .Attr("N: int >= 0")
    .Attr("kind: string")
    .Attr("Id: {int32, int64}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return tensorflow::OkStatus(); });

#define REGISTER(ID)                                                                          \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("TfDlrmPool").Device(tensorflow::DEVICE_CPU).TypeConstraint<ID>("Id"), PoolOp<ID>) \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("TfDlrmUpdate").Device(tensorflow::DEVICE_CPU).TypeConstraint<ID>("Id"), UpdateOp<ID>)
REGISTER(int32_t);
REGISTER(int64_t);

}  // namespace
}  // namespace tf_dlrm
