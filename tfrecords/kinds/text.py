"""Text: a value is its bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.kinds.kind import Kind, Report, encoded, is_text, is_whole, spread
from tfrecords.lazy import tf


def fingerprints(texts: pa.Array) -> np.ndarray:
    """TensorFlow's 64-bit fingerprint of each text.

    Args:
        texts: Arrow array of text `[values]`; nulls count as the empty text.

    Returns:
        uint64 `[values]`.
    """
    if not len(texts):
        return np.zeros(0, np.uint64)
    objects = pc.fill_null(texts.cast(pa.binary()), b"").to_numpy(zero_copy_only=False)
    return tf.fingerprint(objects).numpy().reshape(-1).view("<u8")


class Text(Kind):
    """Text. A missing value is the empty one.

    Args:
        hash_buckets: The key is the fingerprint of the text modulo this, as
            `tf.strings.to_hash_bucket_fast` computes it; None: it is the fingerprint.
    """

    options = ("hash_buckets",)
    example = "a"
    needed = "text"
    needed_type = (
        "text or whole numbers are needed (kind = 'integer' takes numbers with a point too, as "
        "long as they are whole)"
    )

    def __init__(self, hash_buckets: int | None = None) -> None:
        self.size = hash_buckets
        self.blank = np.uint64(self._hashed(pa.array([b""]))[0])

    @property
    def words(self) -> str:
        """See `Kind.words`."""
        return "a counted text value" if self.size is None else "the hash of text"

    def accepts(self, type: pa.DataType) -> bool:
        """See `Kind.accepts`."""
        return is_text(type) or is_whole(type)

    def keys(self, values: pa.Array, report: Report) -> np.ndarray:
        """See `Kind.keys`."""
        codes = encoded(values)
        return spread(codes, self._hashed(codes.dictionary), self.blank)

    def graph_keys(self, values: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Kind.graph_keys`."""
        texts = values if values.dtype == tf.string else tf.strings.as_string(values)
        texts = tf.where(missing, "", texts)
        return graph_fingerprints(texts, self.size), tf.ones_like(missing)

    def _hashed(self, texts: pa.Array) -> np.ndarray:
        hashed = fingerprints(texts)
        return hashed if self.size is None else hashed % np.uint64(self.size)


def graph_fingerprints(texts: tf.Tensor, buckets: int | None) -> tf.Tensor:
    """The fingerprints of texts of any shape, or these modulo `buckets`: int64."""
    if buckets is not None:
        return tf.strings.to_hash_bucket_fast(texts, buckets)
    bytes_of = tf.fingerprint(tf.reshape(texts, [-1]))
    return tf.reshape(tf.bitcast(bytes_of, tf.int64), tf.shape(texts))
