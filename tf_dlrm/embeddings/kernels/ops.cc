// TensorFlow's operations around the kernels.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "interface.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tf_dlrm {
namespace {

using tensorflow::DT_BFLOAT16;
using tensorflow::DT_FLOAT;
using tensorflow::DT_INT32;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;
using tensorflow::errors::InvalidArgument;
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

// TensorFlow's own threads of the device.
ForEach ThreadsOf(OpKernelContext* context) {
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  return [workers](int64_t pieces, int64_t cost, const std::function<void(int64_t)>& work) {
    tensorflow::Shard(workers->num_threads, workers->workers, pieces, cost,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t k = begin; k < end; ++k) work(k);
                      });
  };
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

// What both operations know of the features when they are made.
struct Layout {
  std::vector<int64_t> hotness;  // 0: given by splits, -1: given by the bag of each id
  std::vector<bool> weighted;
  std::vector<int64_t> offsets, sizes, out_of_vocabulary, combiners;
  std::vector<std::string> names, tables;

  tensorflow::Status Read(OpKernelConstruction* context) {
    TF_RETURN_IF_ERROR(context->GetAttr("hotness", &hotness));
    TF_RETURN_IF_ERROR(context->GetAttr("weighted", &weighted));
    TF_RETURN_IF_ERROR(context->GetAttr("offsets", &offsets));
    TF_RETURN_IF_ERROR(context->GetAttr("sizes", &sizes));
    TF_RETURN_IF_ERROR(context->GetAttr("out_of_vocabulary", &out_of_vocabulary));
    TF_RETURN_IF_ERROR(context->GetAttr("combiners", &combiners));
    TF_RETURN_IF_ERROR(context->GetAttr("names", &names));
    return context->GetAttr("tables", &tables);
  }
};

// The features of one call, and memory that they point into.
class Features {
 public:
  tensorflow::Status Read(OpKernelContext* context, const Layout& layout) {
    OpInputList ids, structures, weights;
    TF_RETURN_IF_ERROR(context->input_list("ids", &ids));
    TF_RETURN_IF_ERROR(context->input_list("structures", &structures));
    TF_RETURN_IF_ERROR(context->input_list("weights", &weights));
    const Tensor* batch;
    TF_RETURN_IF_ERROR(context->input("batch", &batch));
    bags = batch->scalar<int32_t>()();
    if (static_cast<int64_t>(layout.names.size()) * (bags / 65536 + 1) >= 65536) {
      return InvalidArgument("A batch of ", bags, " rows of ", layout.names.size(),
                             " features is too large for one update; make the batch smaller.");
    }
    int structure = 0, weight = 0;
    for (size_t k = 0; k < layout.names.size(); ++k) {
      const Tensor& own = ids[k];
      Feature f{};
      if (own.dtype() == DT_INT32) {
        f.ids32 = own.flat<int32_t>().data();
      } else {
        f.ids64 = own.flat<int64_t>().data();
      }
      f.id_count = own.NumElements();
      f.hotness = layout.hotness[k];
      f.offset = layout.offsets[k];
      f.size = layout.sizes[k];
      f.out_of_vocabulary = layout.out_of_vocabulary[k];
      f.combiner = static_cast<Combiner>(layout.combiners[k]);
      if (layout.weighted[k]) {
        const Tensor& numbers = weights[weight++];
        if (numbers.NumElements() != f.id_count) {
          return InvalidArgument("Feature ", layout.names[k], " has ", f.id_count, " ids, but ",
                                 numbers.NumElements(), " weights.");
        }
        f.weights = numbers.flat<float>().data();
      }
      if (f.hotness > 0) {
        if (f.id_count != bags * f.hotness) {
          return InvalidArgument("Feature ", layout.names[k], " has ", f.id_count,
                                 " ids, but the batch has ", bags, " rows of ", f.hotness, ".");
        }
      } else if (f.hotness == 0) {
        TF_RETURN_IF_ERROR(ReadSplits(structures[structure++], layout.names[k], &f));
      } else {
        TF_RETURN_IF_ERROR(ReadBags(structures[structure++], layout.names[k], &f));
      }
      list.push_back(f);
    }
    return tensorflow::OkStatus();
  }

  std::vector<Feature> list;
  int64_t bags = 0;

 private:
  tensorflow::Status ReadSplits(const Tensor& tensor, const std::string& name, Feature* f) {
    if (tensor.NumElements() != bags + 1) {
      return InvalidArgument("Feature ", name, " has ", tensor.NumElements() - 1,
                             " bags, but the batch has ", bags, " rows.");
    }
    if (tensor.dtype() == DT_INT32) {
      const int32_t* from = tensor.flat<int32_t>().data();
      numbers_.push_back(std::make_unique<std::vector<int64_t>>(from, from + bags + 1));
      f->splits = numbers_.back()->data();
    } else {
      f->splits = tensor.flat<int64_t>().data();
    }
    bool ascending = f->splits[0] == 0 && f->splits[bags] == f->id_count;
    for (int64_t b = 0; b < bags; ++b) ascending &= f->splits[b] <= f->splits[b + 1];
    if (!ascending) {
      return InvalidArgument("The row splits of feature ", name, " must ascend from 0 to ",
                             f->id_count, ", the number of its ids.");
    }
    return tensorflow::OkStatus();
  }

  tensorflow::Status ReadBags(const Tensor& tensor, const std::string& name, Feature* f) {
    if (tensor.NumElements() != f->id_count) {
      return InvalidArgument("Feature ", name, " has ", f->id_count, " ids, but ",
                             tensor.NumElements(), " bags of ids.");
    }
    auto bag_of = [&](int64_t i) {
      return tensor.dtype() == DT_INT32 ? tensor.flat<int32_t>()(i) : tensor.flat<int64_t>()(i);
    };
    auto splits = std::make_unique<std::vector<int64_t>>(bags + 1, 0);
    bool ascending = true;
    int64_t before = 0;
    for (int64_t i = 0; i < f->id_count; ++i) {
      const int64_t bag = bag_of(i);
      if (bag < 0 || bag >= bags) {
        return InvalidArgument("Feature ", name, " has an id of row ", bag,
                               ", but the batch has ", bags, " rows.");
      }
      ascending &= bag >= before;
      before = bag;
      ++(*splits)[bag + 1];
    }
    for (int64_t b = 0; b < bags; ++b) (*splits)[b + 1] += (*splits)[b];
    if (!ascending) {  // a sparse tensor that was not reordered: bring its ids into order
      auto sorted = std::make_unique<std::vector<int64_t>>(f->id_count);
      std::vector<int64_t> next(splits->begin(), splits->end());
      std::unique_ptr<std::vector<float>> weights;
      if (f->weights != nullptr) weights = std::make_unique<std::vector<float>>(f->id_count);
      for (int64_t i = 0; i < f->id_count; ++i) {
        const int64_t to = next[bag_of(i)]++;
        (*sorted)[to] = f->ids32 != nullptr ? f->ids32[i] : f->ids64[i];
        if (weights != nullptr) (*weights)[to] = f->weights[i];
      }
      f->ids32 = nullptr;
      f->ids64 = sorted->data();
      numbers_.push_back(std::move(sorted));
      if (weights != nullptr) {
        f->weights = weights->data();
        floats_.push_back(std::move(weights));
      }
    }
    f->splits = splits->data();
    numbers_.push_back(std::move(splits));
    return tensorflow::OkStatus();
  }

  std::vector<std::unique_ptr<std::vector<int64_t>>> numbers_;
  std::vector<std::unique_ptr<std::vector<float>>> floats_;
};

tensorflow::Status Complaint(const Layout& layout, const Outside& outside) {
  if (outside.feature < 0) return tensorflow::OkStatus();
  const int64_t k = outside.feature;
  return InvalidArgument(
      "Feature ", layout.names[k], " has the id ", outside.id, " at row ", outside.bag,
      " of the batch, place ", outside.place, " of its bag, but ids of table ", layout.tables[k],
      " must be in [0, ", layout.sizes[k],
      "). Set out_of_vocabulary of the table to send such ids to a row of it.");
}

tensorflow::Status TablesOf(const Tensor& table, Tables* tables) {
  if (table.dims() != 2) return InvalidArgument("A table must have the shape [rows, dim].");
  if (table.dim_size(0) > int64_t{1} << 32) {
    return InvalidArgument("A table has more than 2^32 rows.");
  }
  *tables = Tables{table.data(), table.dtype() == DT_BFLOAT16, nullptr, nullptr,
                   table.dim_size(0), table.dim_size(1), false};
  return tensorflow::OkStatus();
}

class LookupOp : public OpKernel {
 public:
  explicit LookupOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
  }

  void Compute(OpKernelContext* context) override {
    RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    Tables tables;
    OP_REQUIRES_OK(context, TablesOf(*variable->tensor(), &tables));
    Features features;
    OP_REQUIRES_OK(context, features.Read(context, layout_));
    for (size_t k = 0; k < features.list.size(); ++k) {
      Tensor* out = nullptr;
      OP_REQUIRES_OK(context, context->allocate_output(
                                  k, TensorShape({features.bags, tables.dim}), &out));
      features.list[k].vectors = out->flat<float>().data();
    }
    OP_REQUIRES_OK(context,
                   Complaint(layout_, ChosenPath().lookup(tables, features.list, features.bags,
                                                          ThreadsOf(context))));
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
    const std::vector<std::string> kinds = {"SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "FTRL"};
    const auto found = std::find(kinds.begin(), kinds.end(), kind);
    OP_REQUIRES(context, found != kinds.end(),
                InvalidArgument("There is no kernel for ", kind, "."));
    kind_ = static_cast<Kind>(found - kinds.begin());
    const std::vector<int> slots = {0, 1, 1, 2, 2};
    OP_REQUIRES(context, slot_count_ == slots[found - kinds.begin()],
                InvalidArgument(kind, " has not ", slot_count_, " slot(s)."));
  }

  void Compute(OpKernelContext* context) override {
    std::vector<RefCountPtr<Var>> variables(1 + slot_count_);
    for (int k = 0; k <= slot_count_; ++k) {
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, k), &variables[k]));
      OP_REQUIRES_OK(context, Prepare(context, variables[k].get()));
    }
    // In this order in every update of these variables; TensorFlow holds a variable's lock likewise.
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    for (const auto& variable : variables) {
      locks.push_back(std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
    }
    Tables tables;
    OP_REQUIRES_OK(context, TablesOf(*variables[0]->tensor(), &tables));
    for (int k = 0; k < slot_count_; ++k) {
      Tensor* slot = variables[1 + k]->tensor();
      const bool row_wise = slot->dims() == 1;
      OP_REQUIRES(context,
                  slot->dtype() == DT_FLOAT && row_wise == (kind_ == Kind::kRowWiseAdagrad) &&
                      slot->NumElements() == tables.row_count * (row_wise ? 1 : tables.dim),
                  InvalidArgument("A slot has not the shape of its table."));
      (k == 0 ? tables.first_slot : tables.second_slot) = slot->flat<float>().data();
      tables.row_wise = row_wise;
    }
    Features features;
    OP_REQUIRES_OK(context, features.Read(context, layout_));
    OpInputList gradients;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    for (size_t k = 0; k < features.list.size(); ++k) {
      OP_REQUIRES(context, gradients[k].NumElements() == features.bags * tables.dim,
                  InvalidArgument("The gradients of feature ", layout_.names[k],
                                  " must have the shape [", features.bags, ", ", tables.dim,
                                  "], but have ", gradients[k].shape().DebugString(), "."));
      features.list[k].gradients = gradients[k].flat<float>().data();
    }
    const Tensor* given;
    OP_REQUIRES_OK(context, context->input("numbers", &given));
    OP_REQUIRES(context, given->NumElements() == 8,
                InvalidArgument("There must be 8 numbers of the optimizer."));
    const auto n = given->flat<float>();
    const Rates rates{n(0), n(1), n(2), n(3), n(4), n(5), n(6), n(7)};
    const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    OP_REQUIRES_OK(context, Complaint(layout_, ChosenPath().update(
                                                   kind_, tables, rates, features.list,
                                                   features.bags, threads, ThreadsOf(context))));
  }

 private:
  Layout layout_;
  Kind kind_ = Kind::kSgd;
  int slot_count_ = 0;
};

// A tensor of one value whose memory is asked for in huge pages before it is touched: rows that are
// looked up are far from each other, and each would miss the processor's table of small pages.
class FillOp : public OpKernel {
 public:
  explicit FillOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& dims = context->input(0);
    TensorShape shape;
    for (int k = 0; k < dims.NumElements(); ++k) shape.AddDim(dims.flat<int64_t>()(k));
    Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &out));
    constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
    const uintptr_t from = reinterpret_cast<uintptr_t>(out->data());
    const uintptr_t begin = (from + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t end = (from + out->TotalBytes()) / kHugePage * kHugePage;
    // Where the kernel refuses, pages are small.
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
    const float value = context->input(1).scalar<float>()();
    float* const values = out->flat<float>().data();
    constexpr int64_t kAtOnce = 1 << 19;
    const int64_t count = out->NumElements(), pieces = (count + kAtOnce - 1) / kAtOnce;
    ThreadsOf(context)(pieces, kAtOnce, [&](int64_t k) {
      std::fill(values + k * kAtOnce, values + std::min(count, (k + 1) * kAtOnce), value);
    });
  }
};

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
    .Input("batch: int32")
    .Output("vectors: N * float")
    TF_DLRM_FEATURES
    .SetShapeFn([](InferenceContext* c) {
      for (int k = 0; k < c->num_outputs(); ++k) {
        c->set_output(k, c->Matrix(c->UnknownDim(), c->UnknownDim()));
      }
      return tensorflow::OkStatus();
    });
REGISTER_OP("TfDlrmUpdate")
    .Input("table: resource")
    .Input("slots: S * resource")
    .Input("ids: Ids")
    .Input("structures: Structures")
    .Input("weights: W * float")
    .Input("batch: int32")
    .Input("gradients: N * float")
    .Input("numbers: float")
    .Attr("S: int >= 0")
    .Attr("kind: string")
    TF_DLRM_FEATURES
    .SetShapeFn([](InferenceContext*) { return tensorflow::OkStatus(); });
REGISTER_OP("TfDlrmFill")
    .Input("dims: int64")
    .Input("value: float")
    .Output("filled: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->UnknownShape());
      return tensorflow::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("TfDlrmLookup").Device(tensorflow::DEVICE_CPU), LookupOp);
REGISTER_KERNEL_BUILDER(Name("TfDlrmUpdate").Device(tensorflow::DEVICE_CPU), UpdateOp);
REGISTER_KERNEL_BUILDER(Name("TfDlrmFill").Device(tensorflow::DEVICE_CPU), FillOp);

}  // namespace
}  // namespace tf_dlrm
