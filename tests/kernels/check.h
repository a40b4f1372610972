// What the checks of the kernels share: random work, comparing, and threads.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "interface.h"

using namespace tf_dlrm;

inline std::mt19937 random_bits(0);
inline int64_t Below(int64_t n) { return random_bits() % n; }
inline float Real() { return static_cast<float>(Below(2001) - 1000) / 500; }

[[noreturn]] inline void Fail(const char* what, double found, double wanted) {
  std::printf("%s: %g instead of %g\n", what, found, wanted);
  std::exit(1);
}
inline void Compare(const char* what, double found, double wanted, double tolerance) {
  if (!(std::fabs(found - wanted) <= tolerance * (1 + std::fabs(wanted)))) {
    Fail(what, found, wanted);
  }
}

// At most 4 threads, so that races are seen.
inline void Threads(int64_t pieces, int64_t, const std::function<void(int64_t)>& work) {
  std::vector<std::thread> threads;
  std::atomic<int64_t> next{0};
  for (int t = 0; t < 4 && t < pieces; ++t) {
    threads.emplace_back([&] {
      for (int64_t k = next++; k < pieces; k = next++) work(k);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline void OneThread(int64_t pieces, int64_t, const std::function<void(int64_t)>& work) {
  for (int64_t k = 0; k < pieces; ++k) work(k);
}

void CheckTables(const Path& path);
void CheckInteraction(const Path& path);
