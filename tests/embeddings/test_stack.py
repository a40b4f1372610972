"""Tables that memory does not hold."""

import pytest
import tensorflow as tf

from tf_dlrm.embeddings import (
    SGD,
    FeatureConfig,
    LazyAdam,
    LocalPlacement,
    RowWiseAdagrad,
    TableConfig,
)


@pytest.mark.parametrize("kernels", ["native", "tensorflow"])
@pytest.mark.parametrize(
    ("rows", "optimizer", "said"),
    [
        # 4 bytes x 2^45 rows x 16 columns, beyond any address space.
        (2**45, SGD(0.1), "with 0 optimizer slot(s) take 2,251,799.8 GB"),
        (2**45, LazyAdam(0.1), "with 2 optimizer slot(s) take 6,755,399.4 GB"),
        (2**45, RowWiseAdagrad(0.1), "with 1 optimizer slot(s) take 2,392,537.3 GB"),
        (2**60, SGD(0.1), "with 0 optimizer slot(s) take 73,786,976,294.8 GB"),
        (10**20, SGD(0.1), "with 0 optimizer slot(s) take 6,400,000,000,000.0 GB"),
    ],
)
def test_a_table_beyond_memory_is_a_sentence(kernels, rows, optimizer, said, monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", kernels)
    sizes = {"huge": rows, "b": 1}
    tables = [TableConfig(name, size, 16, optimizer=optimizer) for name, size in sizes.items()]
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        LocalPlacement([FeatureConfig(table.name, table) for table in tables])
    message = str(caught.value)
    assert f"not enough memory for tables huge, b: {rows + 1:,} rows of 16 columns" in message
    assert said in message and "Give them fewer rows" in message
