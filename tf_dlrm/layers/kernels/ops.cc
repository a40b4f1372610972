// TensorFlow's operations around the kernels. All are pure: what nobody reads is not computed.
#include <vector>

#include "device.h"
#include "interface.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_dlrm::layers {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;

const Path& ChosenPath() {
  static const InstructionSet chosen = ChosenInstructionSet();
#ifdef TF_DLRM_X86_64
  if (chosen == InstructionSet::kAvx512) return avx512::kPath;
  if (chosen == InstructionSet::kAvx2) return avx2::kPath;
#endif
  return portable::kPath;
}

const float* DataOf(const Tensor& tensor) { return tensor.flat<float>().data(); }

class PairsOp : public OpKernel {
 public:
  explicit PairsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("diagonal", &diagonal_));
  }

 protected:
  absl::Status ReadPairs(OpKernelContext* context, Pairs* pairs, int64_t* rows) const {
    OpInputList vectors;
    TF_RETURN_IF_ERROR(context->input_list("vectors", &vectors));
    for (const Tensor& vector : vectors) {
      if (vector.dims() != 2 || vector.shape() != vectors[0].shape()) {
        return InvalidArgument("Vectors of one batch must all have the shape [batch, dim], but have ",
                               vectors[0].shape().DebugString(), " and ",
                               vector.shape().DebugString(), ".");
      }
      pairs->vectors.push_back(DataOf(vector));
    }
    pairs->dim = vectors[0].dim_size(1);
    pairs->diagonal = diagonal_;
    *rows = vectors[0].dim_size(0);
    return absl::OkStatus();
  }

 private:
  bool diagonal_ = false;
};

class ProductsOp : public PairsOp {
 public:
  using PairsOp::PairsOp;
  void Compute(OpKernelContext* context) override {
    Pairs pairs;
    int64_t rows;
    OP_REQUIRES_OK(context, ReadPairs(context, &pairs, &rows));
    Tensor* products = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({rows, pairs.count()}), &products));
    ChosenPath().products(pairs, rows, products->flat<float>().data(), ThreadsOf(context));
  }
};

class PullOp : public PairsOp {
 public:
  using PairsOp::PairsOp;
  void Compute(OpKernelContext* context) override {
    Pairs pairs;
    int64_t rows;
    OP_REQUIRES_OK(context, ReadPairs(context, &pairs, &rows));
    const Tensor& gradient = context->input(0);
    OP_REQUIRES(context, gradient.shape() == TensorShape({rows, pairs.count()}),
                InvalidArgument("The gradient of the products must have the shape [", rows, ", ",
                                pairs.count(), "], but has ", gradient.shape().DebugString(), "."));
    std::vector<float*> gradients;
    for (size_t k = 0; k < pairs.vectors.size(); ++k) {
      Tensor* out = nullptr;
      OP_REQUIRES_OK(context,
                     context->allocate_output(k, TensorShape({rows, pairs.dim}), &out));
      gradients.push_back(out->flat<float>().data());
    }
    ChosenPath().pull(pairs, DataOf(gradient), rows, gradients, ThreadsOf(context));
  }
};

class UnbiasOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& outputs = context->input(1);
    OP_REQUIRES(context, gradient.dims() == 2 && gradient.shape() == outputs.shape(),
                InvalidArgument("The gradient must have the shape [batch, columns] of the outputs, ",
                                outputs.shape().DebugString(), ", but has ",
                                gradient.shape().DebugString(), "."));
    const int64_t rows = gradient.dim_size(0), columns = gradient.dim_size(1);
    Tensor* product = nullptr;
    Tensor* bias = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, gradient.shape(),
                                                                      &product));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({columns}), &bias));
    ChosenPath().unbias(DataOf(gradient), DataOf(outputs), rows, columns,
                        product->flat<float>().data(), bias->flat<float>().data(),
                        ThreadsOf(context));
  }
};

// Shapes are set where the operations are called.
absl::Status Unknown(InferenceContext* c) {
  for (int k = 0; k < c->num_outputs(); ++k) c->set_output(k, c->UnknownShape());
  return absl::OkStatus();
}

REGISTER_OP("TfDlrmProducts")
    .Input("vectors: N * float")
    .Output("products: float")
    .Attr("N: int >= 1")
    .Attr("diagonal: bool")
    .SetShapeFn(Unknown);
REGISTER_OP("TfDlrmPull")
    .Input("gradient: float")
    .Input("vectors: N * float")
    .Output("gradients: N * float")
    .Attr("N: int >= 1")
    .Attr("diagonal: bool")
    .SetShapeFn(Unknown);

REGISTER_OP("TfDlrmUnbias")
    .Input("gradient: float")
    .Input("outputs: float")
    .Output("product: float")
    .Output("bias: float")
    .SetShapeFn(Unknown);

#define TF_DLRM_REGISTER(NAME, OP) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU), OP)
TF_DLRM_REGISTER("TfDlrmProducts", ProductsOp);
TF_DLRM_REGISTER("TfDlrmPull", PullOp);
TF_DLRM_REGISTER("TfDlrmUnbias", UnbiasOp);

}  // namespace
}  // namespace tf_dlrm::layers
