"""Native CPU kernels of tables, interaction and dense layers, where a compiler is there."""
