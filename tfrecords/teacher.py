"""The hidden model that labels generated rows, so that there is something to learn.

Each id has two hidden numbers and each dense column a weight. They are hashes of (seed, column,
id), so tables of any size cost no memory. The logit is the sum of the ids' first numbers, of the
weighted dense values, and of products of the second numbers of neighbouring columns (what the
interaction layer of a DLRM is there for). It is shifted and scaled, by constants found on a sample
of rows, so that the base rate and the best possible AUC are about the same whatever the schema.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords.hashing import hash_number, hash_tensor, unit_interval
from tfrecords.schema import Schema

BASE_RATE = 0.25
# Standard deviation of the logit. With a base rate of 0.25 the best possible AUC is then near 0.85.
_LOGIT_DEVIATION = 1.8
_CATEGORICAL, _DENSE = 0, 1


class Teacher:
    """Probabilities of clicks as a fixed function of the features.

    Args:
        schema: The columns.
        seed: Another seed is another function.
        sample: Features of some thousand rows, from which shift and scale are computed.
    """

    def __init__(self, schema: Schema, seed: int, sample: dict[str, tf.Tensor]) -> None:
        self._schema = schema
        self._seed = seed
        weights = [
            _centred(hash_number(seed, _DENSE, column) / 2.0**64)
            for column in range(len(schema.dense))
        ]
        self._dense_weights = np.array(weights, np.float32)
        raw = self._raw(sample).numpy().astype(np.float64)
        deviation = float(raw.std())
        self._scale = _LOGIT_DEVIATION / deviation if deviation > 0 else 1.0
        self._shift = _shift_for(raw * self._scale, BASE_RATE)

    def probability(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Probability of a click, float32 `[rows]`."""
        return tf.sigmoid(self._raw(features) * self._scale + self._shift)

    def _raw(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        terms = []
        if self._schema.dense:
            terms.append(tf.linalg.matvec(features["dense"], self._dense_weights))
        paired = []
        for number, column in enumerate(self._schema.categorical):
            linear, pair = self._effects(number, tf.cast(features[column.name], tf.int64))
            terms.append(linear)
            paired.append(pair)
        for left, right in zip(paired, paired[1:], strict=False):
            terms.append(left * right)
        return tf.add_n(terms)

    def _effects(
        self, number: int, ids: tf.Tensor | tf.RaggedTensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The two hidden numbers of ids, averaged over the ids of a row; 0 for an empty bag."""
        ragged = isinstance(ids, tf.RaggedTensor)
        key = hash_number(self._seed, _CATEGORICAL, number)
        hashed = hash_tensor(key, ids.values if ragged else ids)
        swapped = tf.bitwise.left_shift(hashed, tf.constant(32, tf.uint64))
        effects = [_centred(unit_interval(half)) for half in (hashed, swapped)]
        if ragged:
            lengths = tf.maximum(tf.cast(ids.row_lengths(), tf.float32), 1.0)
            sums = [tf.reduce_sum(ids.with_values(effect), axis=1) for effect in effects]
            effects = [total / lengths for total in sums]
        elif ids.shape.rank > 1:
            effects = [tf.reduce_mean(effect, axis=1) for effect in effects]
        return effects[0], effects[1]


def _centred(uniform: Any) -> Any:
    """Maps [0, 1) to mean 0 and variance 1."""
    return (uniform * 2.0 - 1.0) * 3.0**0.5


def _shift_for(logits: np.ndarray, rate: float) -> float:
    """The constant to add to the logits so that their mean probability is `rate`."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1 / (1 + np.exp(-(logits + middle)))) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
