// TensorFlow's operations of the interaction and of dense layers. All are pure: what nobody reads is
// not computed.
#include <vector>

#include "device.h"
#include "interface.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::TensorShapeUtils;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

const float* DataOf(const Tensor& tensor) { return tensor.flat<float>().data(); }

class PairsOp : public OpKernel {
 public:
  explicit PairsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("diagonal", &diagonal_));
    OP_REQUIRES_OK(context, context->GetAttr("after_first", &after_first_));
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
    if (pairs->dim < 1) {  // any number of rows is no memory then
      return InvalidArgument("Vectors must have a column or more, but have the shape ",
                             vectors[0].shape().DebugString(), ".");
    }
    pairs->diagonal = diagonal_;
    pairs->after_first = after_first_;
    *rows = vectors[0].dim_size(0);
    return absl::OkStatus();
  }

 private:
  bool diagonal_ = false;
  bool after_first_ = false;
};

class ProductsOp : public PairsOp {
 public:
  using PairsOp::PairsOp;
  void Compute(OpKernelContext* context) override {
    Pairs pairs;
    int64_t rows;
    OP_REQUIRES_OK(context, ReadPairs(context, &pairs, &rows));
    TensorShape shape;  // whose number of elements may be too large to be one
    const int64_t sizes[] = {rows, pairs.width()};
    OP_REQUIRES_OK(context, TensorShapeUtils::MakeShape(sizes, 2, &shape));
    Tensor* products = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &products));
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
    OP_REQUIRES(context, gradient.dims() == 2 && gradient.dim_size(0) == rows &&
                    gradient.dim_size(1) == pairs.width(),
                InvalidArgument("The gradient of the products must have the shape [", rows, ", ",
                                pairs.width(), "], but has ", gradient.shape().DebugString(), "."));
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
    if (gradient.NumElements() == 0) {  // any number of rows is no memory then
      bias->flat<float>().setZero();
      return;
    }
    ChosenPath().unbias(DataOf(gradient), DataOf(outputs), rows, columns,
                        product->flat<float>().data(), bias->flat<float>().data(),
                        ThreadsOf(context));
  }
};

// Finds what is known of the shape of all vectors.
absl::Status ShapeOfVectors(InferenceContext* c, ShapeHandle* shape) {
  std::vector<ShapeHandle> vectors;
  TF_RETURN_IF_ERROR(c->input("vectors", &vectors));
  *shape = c->Matrix(c->UnknownDim(), c->UnknownDim());
  for (const ShapeHandle& vector : vectors) TF_RETURN_IF_ERROR(c->Merge(*shape, vector, shape));
  return absl::OkStatus();
}

absl::Status ShapeOfProducts(InferenceContext* c) {
  ShapeHandle vectors;
  TF_RETURN_IF_ERROR(ShapeOfVectors(c, &vectors));
  Pairs pairs{};
  TF_RETURN_IF_ERROR(c->GetAttr("diagonal", &pairs.diagonal));
  TF_RETURN_IF_ERROR(c->GetAttr("after_first", &pairs.after_first));
  pairs.vectors.resize(c->num_inputs());
  const bool known = !pairs.after_first || c->ValueKnown(c->Dim(vectors, 1));
  if (known && pairs.after_first) pairs.dim = c->Value(c->Dim(vectors, 1));
  c->set_output(0, c->Matrix(c->Dim(vectors, 0),
                             known ? c->MakeDim(pairs.width()) : c->UnknownDim()));
  return absl::OkStatus();
}

absl::Status ShapesOfPulled(InferenceContext* c) {
  ShapeHandle vectors, gradient;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
  TF_RETURN_IF_ERROR(ShapeOfVectors(c, &vectors));
  for (int k = 0; k < c->num_outputs(); ++k) c->set_output(k, vectors);
  return absl::OkStatus();
}

absl::Status ShapesOfUnbiased(InferenceContext* c) {
  ShapeHandle both;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &both));
  TF_RETURN_IF_ERROR(c->Merge(both, c->input(1), &both));
  c->set_output(0, both);
  c->set_output(1, c->Vector(c->Dim(both, 1)));
  return absl::OkStatus();
}

REGISTER_OP("TfDlrmProducts")
    .Input("vectors: N * float")
    .Output("products: float")
    .Attr("N: int >= 1")
    .Attr("diagonal: bool")
    .Attr("after_first: bool")
    .SetShapeFn(ShapeOfProducts);
REGISTER_OP("TfDlrmPull")
    .Input("gradient: float")
    .Input("vectors: N * float")
    .Output("gradients: N * float")
    .Attr("N: int >= 1")
    .Attr("diagonal: bool")
    .Attr("after_first: bool")
    .SetShapeFn(ShapesOfPulled);

REGISTER_OP("TfDlrmUnbias")
    .Input("gradient: float")
    .Input("outputs: float")
    .Output("product: float")
    .Output("bias: float")
    .SetShapeFn(ShapesOfUnbiased);

#define TF_DLRM_REGISTER(NAME, OP) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU), OP)
TF_DLRM_REGISTER("TfDlrmProducts", ProductsOp);
TF_DLRM_REGISTER("TfDlrmPull", PullOp);
TF_DLRM_REGISTER("TfDlrmUnbias", UnbiasOp);

}  // namespace
}  // namespace tf_dlrm
