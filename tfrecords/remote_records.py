"""Reads single records of files on object stores: one ranged request for each.

TensorFlow's TFRecordDataset reads such files in pieces of 127 MB from their beginning, which is
right for reading all of a file in order and a hundred times too much for one record of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords import files
from tfrecords.dataset_info import FileInfo
from tfrecords.record_format import read_records

# A request waits for its answer much longer than for its bytes.
_REQUESTS_AT_ONCE = 8


def fetch_records(
    paths: np.ndarray, infos: Sequence[FileInfo], file_of: np.ndarray, record_of: np.ndarray
) -> tf.data.Dataset:
    """One serialized record per (file, record in the file), in order.

    Args:
        paths: Where the files are, with their scheme.
        infos: What `dataset.json` says of them.
        file_of: Index of the file of each record that is wanted, `[records]`.
        record_of: Its number in that file, `[records]`.

    Returns:
        A dataset of strings. While reading, TensorFlow raises `DataLossError` or
        `InvalidArgumentError` for a record that is not whole or whose checksum is wrong.

    Raises:
        DataError: If tensorflow-io is missing.
    """
    for path in paths[:1]:
        files.prepare(path)
    from tensorflow_io.python.ops import core_ops

    names = tf.constant(paths.tolist(), tf.string, shape=[len(paths)])
    first: np.ndarray = np.cumsum([0] + [len(info.offsets) for info in infos])[:-1]
    starts = np.concatenate([np.zeros(0, np.int64)] + [np.array(i.offsets) for i in infos])
    ends = np.concatenate(
        [np.zeros(0, np.int64)] + [np.append(i.offsets[1:], i.size) for i in infos]
    )
    place = (first[file_of] if len(infos) else file_of) + record_of
    offsets, sizes = starts[place].astype(np.int64), (ends - starts)[place].astype(np.int64)

    def read(file: tf.Tensor, offset: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        framed = core_ops.io_file_read(tf.gather(names, file), offset, size, "")
        # TensorFlow has no operation that computes a CRC-32C.
        record = tf.numpy_function(_checked, [framed], tf.string, stateful=False)
        return tf.ensure_shape(record, [])

    places = tf.data.Dataset.from_tensor_slices((file_of.astype(np.int64), offsets, sizes))
    return places.map(read, num_parallel_calls=_REQUESTS_AT_ONCE, deterministic=True)


def _checked(framed: bytes) -> bytes:
    for _, data in read_records(io.BytesIO(framed), len(framed)):
        return data
    raise ValueError("the file ends before it")
