// TensorFlow's operations of tables.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "feature_inputs.h"
#include "interface.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_dlrm {
namespace {

using tensorflow::DT_FLOAT;
using tensorflow::OpKernel;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;
using tensorflow::shape_inference::InferenceContext;

bool IsTable(const Tensor& tensor) {
  return tensor.dims() == 2 && tensor.dtype() == DT_FLOAT;
}

// A slot has a row for each of the table's, or one number.
bool IsSlot(const Tensor& slot, const Tensor& table, bool row_wise) {
  return slot.dtype() == DT_FLOAT && (row_wise ? slot.shape() == TensorShape({table.dim_size(0)})
                                               : slot.shape() == table.shape());
}

absl::Status VariableOf(OpKernelContext* context, int input, RefCountPtr<Var>* variable) {
  if (!TensorShapeUtils::IsScalar(context->input(input).shape())) {
    return InvalidArgument("A variable is given by a scalar, but this one has the shape ",
                           context->input(input).shape().DebugString(), ".");
  }
  return LookupResource(context, HandleFromInput(context, input), variable);
}

// Makes the only copy of a variable writable, as TensorFlow's sparse updates do: from now on whoever
// reads the whole variable gets a copy.
absl::Status Prepare(OpKernelContext* context, Var* variable) {
  if (variable->copy_on_read_mode.load()) return absl::OkStatus();
  tensorflow::mutex_lock lock(*variable->mu());
  if (variable->copy_on_read_mode.load()) return absl::OkStatus();
  const Tensor& tensor = *variable->tensor();
  if (tensor.dtype() != DT_FLOAT) {
    return InvalidArgument("A table or a slot cannot be of type ",
                           tensorflow::DataTypeString(tensor.dtype()), ".");
  }
  if (!tensor.RefCountIsOne()) {
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor.dtype(), tensor.shape(), &copy));
    std::memcpy(copy.data(), tensor.data(), copy.TotalBytes());
    *variable->tensor() = copy;
  }
  variable->copy_on_read_mode.store(true);
  return absl::OkStatus();
}

absl::Status Complaint(const Layout& layout, const Outside& outside) {
  if (outside.feature < 0) return absl::OkStatus();
  const int64_t k = outside.feature;
  return InvalidArgument(
      "Feature ", layout.names[k], " has the id ", outside.id, " at row ", outside.bag,
      " of the batch, place ", outside.place, " of its bag, but ids of table ", layout.tables[k],
      " must be in [0, ", layout.sizes[k],
      "). Set out_of_vocabulary of the table to send such ids to a row of it.");
}

absl::Status TablesOf(const Tensor& table, const Layout& layout, Tables* tables) {
  if (!IsTable(table)) {
    return InvalidArgument("A table must be float32 [rows, dim], but is ",
                           tensorflow::DataTypeString(table.dtype()), " ",
                           table.shape().DebugString(), ".");
  }
  if (table.dim_size(0) > int64_t{1} << 32) {
    return InvalidArgument("The tables of one dim and optimizer have ", table.dim_size(0),
                           " rows in all, but kernels take 2^32 at most. The environment variable "
                           "TF_DLRM_KERNELS=tensorflow does without them.");
  }
  // For reading too, where nothing is written: a lookup holds the lock of readers only.
  *tables = Tables{const_cast<float*>(table.flat<float>().data()), nullptr, nullptr,
                   table.dim_size(0), table.dim_size(1), false};
  return layout.CheckRows(tables->row_count);
}

class LookupOp : public OpKernel {
 public:
  explicit LookupOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
  }

  void Compute(OpKernelContext* context) override {
    RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, VariableOf(context, 0, &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    Tables tables;
    OP_REQUIRES_OK(context, TablesOf(*variable->tensor(), layout_, &tables));
    Features features;
    OP_REQUIRES_OK(context, features.Read(context, layout_));
    for (size_t k = 0; k < features.list.size(); ++k) {
      Tensor* out = nullptr;
      TensorShape shape;  // whose number of elements may be too large to be one
      const int64_t sizes[] = {features.list[k].bags, tables.dim};
      OP_REQUIRES_OK(context, TensorShapeUtils::MakeShape(sizes, 2, &shape));
      OP_REQUIRES_OK(context, context->allocate_output(k, shape, &out));
      features.list[k].vectors = out->flat<float>().data();
    }
    OP_REQUIRES_OK(context,
                   Complaint(layout_, ChosenPath().lookup(tables, features.list, ThreadsOf(context))));
  }

 private:
  Layout layout_;
};

class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    std::string kind;
    OP_REQUIRES_OK(context, context->GetAttr("kind", &kind));
    OP_REQUIRES_OK(context, context->GetAttr("S", &slot_count_));
    const auto found = std::find_if(std::begin(kOptimizers), std::end(kOptimizers),
                                    [&](const Optimizer& one) { return kind == one.name; });
    OP_REQUIRES(context, found != std::end(kOptimizers),
                InvalidArgument("There is no kernel for ", kind, "."));
    kind_ = static_cast<Kind>(found - kOptimizers);
    optimizer_ = *found;
    OP_REQUIRES(context, slot_count_ == optimizer_.slots,
                InvalidArgument(kind, " has not ", slot_count_, " slot(s)."));
  }

  void Compute(OpKernelContext* context) override {
    std::vector<RefCountPtr<Var>> variables(1 + slot_count_);
    for (int k = 0; k <= slot_count_; ++k) {
      OP_REQUIRES_OK(context, VariableOf(context, k, &variables[k]));
      for (int before = 0; before < k; ++before) {  // whose lock would be waited for for ever
        OP_REQUIRES(context, variables[k].get() != variables[before].get(),
                    InvalidArgument("A table and its slots must be different variables."));
      }
      OP_REQUIRES_OK(context, Prepare(context, variables[k].get()));
    }
    // In this order in every update of these variables; TensorFlow holds a variable's lock likewise.
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    for (const auto& variable : variables) {
      locks.push_back(std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
    }
    Tables tables;
    OP_REQUIRES_OK(context, TablesOf(*variables[0]->tensor(), layout_, &tables));
    for (int k = 0; k < slot_count_; ++k) {
      Tensor* slot = variables[1 + k]->tensor();
      const bool row_wise = k == 0 && optimizer_.row_wise;
      OP_REQUIRES(context, IsSlot(*slot, *variables[0]->tensor(), row_wise),
                  InvalidArgument("A slot of a table ", variables[0]->tensor()->shape().DebugString(),
                                  " must be float32 [rows", row_wise ? "" : ", dim", "], but is ",
                                  tensorflow::DataTypeString(slot->dtype()), " ",
                                  slot->shape().DebugString(), "."));
      (k == 0 ? tables.first_slot : tables.second_slot) = slot->flat<float>().data();
      tables.row_wise = optimizer_.row_wise;
    }
    Features features;
    OP_REQUIRES_OK(context, features.Read(context, layout_));
    OpInputList gradients;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    for (size_t k = 0; k < features.list.size(); ++k) {
      const int64_t bags = features.list[k].bags;
      const TensorShape& shape = gradients[k].shape();
      OP_REQUIRES(context,
                  shape.dims() == 2 && shape.dim_size(0) == bags && shape.dim_size(1) == tables.dim,
                  InvalidArgument("The gradients of feature ", layout_.names[k],
                                  " must have the shape [", bags, ", ", tables.dim,
                                  "], but have ", gradients[k].shape().DebugString(), "."));
      features.list[k].gradients = gradients[k].flat<float>().data();
    }
    const Tensor* given;
    OP_REQUIRES_OK(context, context->input("numbers", &given));
    OP_REQUIRES(context, given->dims() == 1 && given->NumElements() == 1 + optimizer_.numbers,
                InvalidArgument("There must be the rate and ", optimizer_.numbers, " numbers of ",
                                optimizer_.name, ", but their shape is ", given->shape().DebugString(), "."));
    const auto n = given->flat<float>();
    Rates rates{n(0), {}};
    std::copy(n.data() + 1, n.data() + n.size(), rates.numbers);
    if (std::isnan(rates.rate)) return;  // so Python says that no row is to be updated
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    OP_REQUIRES_OK(context, Complaint(layout_, ChosenPath().update(
                                                   kind_, tables, rates, features.list, threads,
                                                   ThreadsOf(context))));
  }

 private:
  Layout layout_;
  Kind kind_ = Kind::kSGD;
  Optimizer optimizer_ = kOptimizers[0];
  int slot_count_ = 0;
};

// A tensor of one value whose memory is asked for in huge pages before it is touched: rows that are
// looked up are far from each other, and each would miss the processor's table of small pages.
class FillOp : public OpKernel {
 public:
  explicit FillOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& dims = context->input(0);
    const Tensor& given = context->input(1);
    OP_REQUIRES(context,
                TensorShapeUtils::IsVector(dims.shape()) && TensorShapeUtils::IsScalar(given.shape()),
                InvalidArgument("The dimensions must be a vector and the value a scalar, but they ",
                                "have the shapes ", dims.shape().DebugString(), " and ",
                                given.shape().DebugString(), "."));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShapeUtils::MakeShape(dims.flat<int64_t>().data(),
                                                        dims.NumElements(), &shape));
    Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &out));
    constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
    const uintptr_t from = reinterpret_cast<uintptr_t>(out->data());
    const uintptr_t begin = (from + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t end = (from + out->TotalBytes()) / kHugePage * kHugePage;
#ifdef MADV_HUGEPAGE
    // Where the kernel refuses, pages are small.
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
    const float value = given.scalar<float>()();
    float* const values = out->flat<float>().data();
    constexpr int64_t kAtOnce = 1 << 19;
    const int64_t count = out->NumElements(), pieces = (count + kAtOnce - 1) / kAtOnce;
    ThreadsOf(context)(pieces, kAtOnce, [&](int64_t k) {
      std::fill(values + k * kAtOnce, values + std::min(count, (k + 1) * kAtOnce), value);
    });
  }
};

// Refuses a graph whose inputs are known to have other ranks.
absl::Status CheckRanks(InferenceContext* c,
                        const std::vector<std::pair<const char*, int>>& ranks) {
  for (const auto& [name, rank] : ranks) {
    std::vector<tensorflow::shape_inference::ShapeHandle> shapes;
    TF_RETURN_IF_ERROR(c->input(name, &shapes));
    for (auto& shape : shapes) TF_RETURN_IF_ERROR(c->WithRank(shape, rank, &shape));
  }
  return absl::OkStatus();
}

#define TF_DLRM_FEATURES                    \
  .Attr("N: int >= 1")                      \
      .Attr("W: int >= 0")                  \
      .Attr("Ids: list({int32, int64})")    \
      .Attr("Structures: list({int32, int64}) >= 0") \
      .Attr("hotness: list(int)")           \
      .Attr("weighted: list(bool)")         \
      .Attr("offsets: list(int)")           \
      .Attr("sizes: list(int)")             \
      .Attr("out_of_vocabulary: list(int)") \
      .Attr("combiners: list(int)")         \
      .Attr("names: list(string)")          \
      .Attr("tables: list(string)")         \
      .SetIsStateful()

REGISTER_OP("TfDlrmLookup")
    .Input("table: resource")
    .Input("ids: Ids")
    .Input("structures: Structures")
    .Input("weights: W * float")
    .Input("batches: int32")
    .Output("vectors: N * float")
    TF_DLRM_FEATURES
    .SetShapeFn([](InferenceContext* c) {
      for (int k = 0; k < c->num_outputs(); ++k) {
        c->set_output(k, c->Matrix(c->UnknownDim(), c->UnknownDim()));
      }
      return CheckRanks(c, {{"table", 0}, {"ids", 1}, {"weights", 1}, {"batches", 1}});
    });
REGISTER_OP("TfDlrmUpdate")
    .Input("table: resource")
    .Input("slots: S * resource")
    .Input("ids: Ids")
    .Input("structures: Structures")
    .Input("weights: W * float")
    .Input("batches: int32")
    .Input("gradients: N * float")
    .Input("numbers: float")
    .Attr("S: int >= 0")
    .Attr("kind: string")
    TF_DLRM_FEATURES
    .SetShapeFn([](InferenceContext* c) {
      return CheckRanks(c, {{"table", 0}, {"slots", 0}, {"ids", 1}, {"weights", 1}, {"batches", 1},
                            {"gradients", 2}, {"numbers", 1}});
    });
REGISTER_OP("TfDlrmFill")
    .Input("dims: int64")
    .Input("value: float")
    .Output("filled: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->UnknownShape());
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("TfDlrmLookup").Device(tensorflow::DEVICE_CPU), LookupOp);
REGISTER_KERNEL_BUILDER(Name("TfDlrmUpdate").Device(tensorflow::DEVICE_CPU), UpdateOp);
REGISTER_KERNEL_BUILDER(Name("TfDlrmFill").Device(tensorflow::DEVICE_CPU), FillOp);

}  // namespace
}  // namespace tf_dlrm
