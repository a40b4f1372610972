// What all operations share: which instructions this processor has, the threads of
// TensorFlow's device, and how they complain.
#ifndef TF_DLRM_DEVICE_H_
#define TF_DLRM_DEVICE_H_

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "interface.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tf_dlrm {

// The largest instruction set whose every instruction this processor has: a virtual machine may hide
// any of them. TF_DLRM_KERNEL_PATH asks for a smaller one, for tests.
inline const Path& BestPath() {
#ifdef TF_DLRM_X86_64
  const char* wish = std::getenv("TF_DLRM_KERNEL_PATH");
  const std::string wanted = wish == nullptr ? "" : wish;
  // What the compiler may use for x86-64-v3 and x86-64-v4.
  const bool has2 = __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe");
  const bool has512 = has2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has512 && (wanted.empty() || wanted == "avx512")) return avx512::kPath;
  if (has2 && wanted != "portable") return avx2::kPath;
#endif
  return portable::kPath;
}

inline const Path& ChosenPath() {
  static const Path& chosen = BestPath();
  return chosen;
}

// Runs work(0) to work(pieces - 1), each of so many nanoseconds, on the threads of the device.
inline ForEach ThreadsOf(tensorflow::OpKernelContext* context) {
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  return [workers](int64_t pieces, int64_t cost, const std::function<void(int64_t)>& work) {
    tensorflow::Shard(workers->num_threads, workers->workers, pieces, cost,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t k = begin; k < end; ++k) work(k);
                      });
  };
}

template <typename... Parts>
absl::Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

}  // namespace tf_dlrm

#endif  // TF_DLRM_DEVICE_H_
