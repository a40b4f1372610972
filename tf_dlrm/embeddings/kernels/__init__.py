"""Native CPU kernels: pooled lookup and exact sparse update, where a compiler is there."""
