// Runs the kernels on random work and compares them with plain loops over doubles.
//
// With TF_DLRM_PATH it is linked with that one instruction set, under a sanitizer; without, with the
// library, and checks every instruction set that this processor has. Ends with 0 where all is equal.
#include "check.h"

namespace {

void CheckAll(const Path& path) {
  CheckTables(path);
  CheckInteraction(path);
}

}  // namespace

int main() {
#ifdef TF_DLRM_PATH
  CheckAll(TF_DLRM_PATH::kPath);
#else
  CheckAll(portable::kPath);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) CheckAll(avx2::kPath);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    CheckAll(avx512::kPath);
  }
#endif
  std::puts("equal");
}
