// Milliseconds to read, and to read and write, so many different random rows of a table of floats in
// huge pages, by all threads: what no lookup and no update of these rows can beat.
//
//     step_peaks ROWS DIM IDS THREADS
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

int main(int, char** argv) {
  const int64_t rows = std::atoll(argv[1]), dim = std::atoll(argv[2]), count = std::atoll(argv[3]);
  const int threads = std::atoi(argv[4]);
  const size_t bytes = rows * dim * sizeof(float), page = size_t{2} << 20;
  char* memory = static_cast<char*>(mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memory += page - reinterpret_cast<uintptr_t>(memory) % page;
  madvise(memory, bytes, MADV_HUGEPAGE);
  float* const table = reinterpret_cast<float*>(memory);
  std::fill(table, table + rows * dim, 1.0f);
  std::mt19937_64 random(0);
  std::vector<int64_t> ids(count);
  for (int write = 0; write < 2; ++write) {
    double best = 1e9;
    for (int run = 0; run < 9; ++run) {
      for (int64_t& id : ids) id = random() % rows;
      const auto start = std::chrono::steady_clock::now();
      std::vector<std::thread> workers;
      for (int t = 0; t < threads; ++t) {
        workers.emplace_back([&, t] {
          float sums[16] = {};
          for (int64_t i = count * t / threads; i < count * (t + 1) / threads; ++i) {
            if (i + 16 < count) {
              for (int64_t d = 0; d < dim; d += 16) {
                __builtin_prefetch(table + ids[i + 16] * dim + d, 1, 3);
              }
            }
            float* row = table + ids[i] * dim;
            for (int64_t d = 0; d < dim; d += 16) {
              for (int64_t k = 0; k < 16; ++k) {
                if (write) {
                  row[d + k] += 1.0f;
                } else {
                  sums[k] += row[d + k];
                }
              }
            }
          }
          volatile float keep = sums[0] + sums[7] + sums[15];
          (void)keep;
        });
      }
      for (std::thread& worker : workers) worker.join();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best = std::min(best, taken.count());
    }
    std::printf("%f\n", best * 1000);
  }
}
