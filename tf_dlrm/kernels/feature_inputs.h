// The features of one call as the kernels want them, out of what an operation is given. Whoever makes
// the operation may be wrong: nothing is believed that is not looked at.
#ifndef TF_DLRM_FEATURE_INPUTS_H_
#define TF_DLRM_FEATURE_INPUTS_H_

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "interface.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_dlrm {

using tensorflow::DT_INT32;
using tensorflow::OpInputList;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShapeUtils;

// What both operations know of the features when they are made.
struct Layout {
  std::vector<int64_t> hotness;  // 0: given by splits, -1: given by the bag of each id
  std::vector<bool> weighted;
  std::vector<int64_t> offsets, sizes, out_of_vocabulary, combiners;
  std::vector<std::string> names, tables;

  absl::Status Read(OpKernelConstruction* context) {
    TF_RETURN_IF_ERROR(context->GetAttr("hotness", &hotness));
    TF_RETURN_IF_ERROR(context->GetAttr("weighted", &weighted));
    TF_RETURN_IF_ERROR(context->GetAttr("offsets", &offsets));
    TF_RETURN_IF_ERROR(context->GetAttr("sizes", &sizes));
    TF_RETURN_IF_ERROR(context->GetAttr("out_of_vocabulary", &out_of_vocabulary));
    TF_RETURN_IF_ERROR(context->GetAttr("combiners", &combiners));
    TF_RETURN_IF_ERROR(context->GetAttr("names", &names));
    TF_RETURN_IF_ERROR(context->GetAttr("tables", &tables));
    int features, weights;
    tensorflow::DataTypeVector ids, structures;
    TF_RETURN_IF_ERROR(context->GetAttr("N", &features));
    TF_RETURN_IF_ERROR(context->GetAttr("W", &weights));
    TF_RETURN_IF_ERROR(context->GetAttr("Ids", &ids));
    TF_RETURN_IF_ERROR(context->GetAttr("Structures", &structures));
    const size_t count = features;
    for (const size_t length :
         {hotness.size(), weighted.size(), offsets.size(), sizes.size(), out_of_vocabulary.size(),
          combiners.size(), names.size(), tables.size(), ids.size()}) {
      if (length != count) {
        return InvalidArgument("Each list must have ", count, " entries, one for each feature, but ",
                               "one has ", length, ".");
      }
    }
    const auto structured = std::count_if(hotness.begin(), hotness.end(),
                                          [](int64_t number) { return number <= 0; });
    const auto with_weights = std::count(weighted.begin(), weighted.end(), true);
    if (structures.size() != static_cast<size_t>(structured) || weights != with_weights) {
      return InvalidArgument("There must be ", structured, " structures and ", with_weights,
                             " weights, but there are ", structures.size(), " and ", weights, ".");
    }
    for (size_t k = 0; k < count; ++k) {
      if (hotness[k] < -1 || offsets[k] < 0 || sizes[k] < 0 || out_of_vocabulary[k] < -1 ||
          out_of_vocabulary[k] >= sizes[k] || combiners[k] < 0 || combiners[k] > 2) {
        return InvalidArgument("Feature ", names[k], " cannot have hotness ", hotness[k],
                               ", combiner ", combiners[k], ", and a table of ", sizes[k],
                               " rows from row ", offsets[k], " on with out-of-vocabulary row ",
                               out_of_vocabulary[k], ".");
      }
    }
    return absl::OkStatus();
  }

  // Whether the table of each feature is among the rows of the variable.
  absl::Status CheckRows(int64_t rows) const {
    for (size_t k = 0; k < names.size(); ++k) {
      if (sizes[k] > rows || offsets[k] > rows - sizes[k]) {
        return InvalidArgument("Table ", tables[k], " of feature ", names[k], " has ", sizes[k],
                               " rows from row ", offsets[k], " on, but its variable has ", rows,
                               " in all.");
      }
    }
    return absl::OkStatus();
  }
};

// The features of one call, and memory that they point into.
class Features {
 public:
  absl::Status Read(OpKernelContext* context, const Layout& layout) {
    OpInputList ids, structures, weights;
    TF_RETURN_IF_ERROR(context->input_list("ids", &ids));
    TF_RETURN_IF_ERROR(context->input_list("structures", &structures));
    TF_RETURN_IF_ERROR(context->input_list("weights", &weights));
    const Tensor* batches;
    TF_RETURN_IF_ERROR(context->input("batches", &batches));
    const int64_t count = layout.names.size();
    if (batches->dims() != 1 || batches->dim_size(0) != count) {
      return InvalidArgument("There must be a batch for each of ", count, " features, but their shape is ",
                             batches->shape().DebugString(), ".");
    }
    int64_t blocks = 0;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t bags = batches->flat<int32_t>()(k);
      if (bags < 0) {
        return InvalidArgument("The batch of feature ", layout.names[k], " cannot have ", bags,
                               " rows.");
      }
      blocks += (bags + kBlockRows - 1) / kBlockRows;
    }
    if (blocks > kMostBlocks) {
      return InvalidArgument("The batches of ", count, " features are too large for one update, ",
                             blocks, " blocks of ", kBlockRows, " rows where ", kMostBlocks,
                             " are allowed; make the batch smaller.");
    }
    int structure = 0, weight = 0;
    for (size_t k = 0; k < layout.names.size(); ++k) {
      const Tensor& own = ids[k];
      if (!TensorShapeUtils::IsVector(own.shape())) {
        return InvalidArgument("The ids of feature ", layout.names[k],
                               " must be a vector, but have the shape ", own.shape().DebugString(),
                               ".");
      }
      Feature f{};
      if (own.dtype() == DT_INT32) {
        f.ids32 = own.flat<int32_t>().data();
      } else {
        f.ids64 = own.flat<int64_t>().data();
      }
      f.id_count = own.NumElements();
      f.bags = batches->flat<int32_t>()(k);
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
        // Divided, since a product might overflow.
        if (f.bags == 0 ? f.id_count != 0
                        : f.id_count % f.bags != 0 || f.id_count / f.bags != f.hotness) {
          return InvalidArgument("Feature ", layout.names[k], " has ", f.id_count,
                                 " ids, but the batch has ", f.bags, " rows of ", f.hotness, ".");
        }
      } else if (f.hotness == 0) {
        TF_RETURN_IF_ERROR(ReadSplits(structures[structure++], layout.names[k], &f));
      } else {
        TF_RETURN_IF_ERROR(ReadBags(structures[structure++], layout.names[k], &f));
      }
      list.push_back(f);
    }
    return absl::OkStatus();
  }

  std::vector<Feature> list;

 private:
  absl::Status ReadSplits(const Tensor& tensor, const std::string& name, Feature* f) {
    const int64_t bags = f->bags;
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
    return absl::OkStatus();
  }

  absl::Status ReadBags(const Tensor& tensor, const std::string& name, Feature* f) {
    const int64_t bags = f->bags;
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
    return absl::OkStatus();
  }

  std::vector<std::unique_ptr<std::vector<int64_t>>> numbers_;
  std::vector<std::unique_ptr<std::vector<float>>> floats_;
};

}  // namespace tf_dlrm

#endif  // TF_DLRM_FEATURE_INPUTS_H_
