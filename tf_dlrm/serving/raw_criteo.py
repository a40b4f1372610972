"""Criteo's fields as text, to the features of a model, by the vocabulary that it was trained on."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.internals import ResourceVariable
from tf_dlrm.serving.request_checks import Tensors
from tf_dlrm.serving.variable_files import Rows
from tfrecords.conversion.criteo import BLANK
from tfrecords.conversion.vocabulary_files import read_vocabulary
from tfrecords.criteo_schema import CATEGORICAL_NAMES, DENSE_NAMES
from tfrecords.dataset_info import DatasetInfo

_DIGITS = 8
# What a byte of a hexadecimal number is: its value, or that it is none, or that the text has ended.
_ENDED, _NO_DIGIT = 16, 32
# Keys of a column are less than this: 32 bits, and BLANK.
_COLUMN_BITS = 33
# What no value of any column is.
_NONE = np.iinfo(np.int64).max


class RawCriteo(tf.Module):
    """The 13 + 26 fields of Criteo's log, each as its text there, empty where blank.

    Does what the conversion of the training data did, so that the two can't disagree: see
    `tfrecords.conversion.criteo`. A value that the vocabulary does not hold becomes the
    out-of-vocabulary id, or an error where there is none (`--reference`).

    The vocabulary is two variables, the values of all columns in ascending order and their ids;
    they are empty here, and `rows` is their content.

    Attributes:
        specs: For each field, string [batch].
        variables: The two.
    """

    def __init__(self, info: DatasetInfo, data_dir: str) -> None:
        """Reads the vocabulary.

        Args:
            info: The data set.
            data_dir: Its folder.

        Raises:
            UserError: If the data set was not made from Criteo's text, or its vocabulary is
                damaged.
        """
        super().__init__()
        made = info.how_it_was_made.get("format", {})
        if made.get("name") not in ("kaggle", "terabyte"):
            raise UserError(
                f"--serve_raw needs a model of Criteo's log, but {data_dir} was not converted from "
                "that."
            )
        several = [column.name for column in info.schema.categorical if column.hotness != 1]
        if several:
            raise UserError(
                f"--serve_raw needs one value a row for each column, but {', '.join(several)} "
                "had further ids made up by the conversion."
            )
        self.specs = {
            name: tf.TensorSpec([None], tf.string, name)
            for name in (*DENSE_NAMES, *CATEGORICAL_NAMES)
        }
        self._names = info.schema.categorical_names
        self._max_index_range = int(made.get("max_index_range") or 0)
        self._reference = bool(info.how_it_was_made["options"].get("reference"))
        self._unknown = [
            -1 if column.out_of_vocabulary is None else column.out_of_vocabulary
            for column in info.schema.categorical
        ]
        self._example = dict.fromkeys(CATEGORICAL_NAMES, b"")
        values, ids = [], []
        for k, name in enumerate(self._names):
            vocabulary = info.vocabularies.get(name)
            keys = None if vocabulary is None else read_vocabulary(data_dir, vocabulary)
            if keys is None or vocabulary is None:
                raise UserError(
                    f"The vocabulary of column {name} in {data_dir} is missing or damaged; convert "
                    "the data again."
                )
            if name in CATEGORICAL_NAMES and len(keys):
                blank = keys[0] == BLANK
                self._example[name] = b"" if blank else f"{keys[0]:08x}".encode()
            order = np.argsort(keys)
            values.append(keys[order].astype(np.int64) + (k << _COLUMN_BITS))
            ids.append((order + vocabulary.reserved).astype(np.int32))
        # One more, so that the place of every value is in the list.
        self._content = (
            np.concatenate([*values, [_NONE]]),
            np.concatenate([*ids, [0]]).astype(np.int32),
        )
        self.vocabulary = [
            ResourceVariable(array[:0], trainable=False, name="vocabulary", shape=[None])
            for array in self._content
        ]

    def rows(self) -> list[Rows]:
        """Returns the content of each variable of `vocabulary`."""
        return [
            Rows(array.shape, tf.as_dtype(array.dtype), functools.partial(_piece, array))
            for array in self._content
        ]

    def example(self) -> dict[str, bytes]:
        """Returns for each field the text of a value that the vocabulary holds."""
        return {**dict.fromkeys(DENSE_NAMES, b"1"), **self._example}

    def features(self, values: Tensors) -> Tensors:
        """Returns {"dense": float32 [batch, 13], column: int64 [batch]}.

        Args:
            values: For each field, string [batch].

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if a text is no whole number of 32 bits,
                or no hexadecimal number of up to 8 digits, or not in a vocabulary without an
                out-of-vocabulary id.
        """
        texts = tf.stack([values[name] for name in DENSE_NAMES])
        integers, blank = _whole_numbers(texts, DENSE_NAMES)
        dense = tf.math.log1p(tf.cast(tf.maximum(integers, 0), tf.float64))
        texts = tf.stack([values[name] for name in CATEGORICAL_NAMES])
        keys = _hexadecimal_numbers(texts, CATEGORICAL_NAMES)
        if self._max_index_range:
            keys = tf.math.floormod(keys, self._max_index_range)
        if not self._reference:
            keys = tf.where(tf.equal(texts, ""), np.int64(BLANK), keys)
        if len(self._names) > len(CATEGORICAL_NAMES):
            buckets = tf.where(blank, np.int64(BLANK), _bucketized(integers))
            keys = tf.concat([keys, buckets], 0)
            texts = tf.concat([texts, tf.stack([values[name] for name in DENSE_NAMES])], 0)
        ids = self._ids(keys, texts)
        named = dict(zip(self._names, tf.unstack(ids, num=len(self._names)), strict=True))
        return {"dense": tf.transpose(tf.cast(dense, tf.float32)), **named}

    def _ids(self, keys: tf.Tensor, texts: tf.Tensor) -> tf.Tensor:
        column: np.ndarray = np.arange(len(self._names), dtype=np.int64)[:, np.newaxis]
        keys = keys + (column << _COLUMN_BITS)
        known, ids = self.vocabulary
        place = tf.searchsorted(known, tf.reshape(keys, [-1]))
        place = tf.reshape(place, tf.shape(keys))
        inside = tf.equal(tf.gather(known, place), keys)
        unknown = np.array(self._unknown, np.int64)[:, np.newaxis]
        found = tf.where(inside, tf.cast(tf.gather(ids, place), tf.int64), unknown)
        if min(self._unknown) >= 0:
            return found
        return _checked(
            found, inside | (unknown >= 0), texts, self._names, "a value of its vocabulary"
        )


def _piece(array: np.ndarray, start: int, count: int) -> np.ndarray:
    return array[start : start + count]


def _whole_numbers(texts: tf.Tensor, names: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns int64 numbers, 0 where blank, and what is blank."""
    blank = tf.equal(texts, "")
    wanted = "a whole number of 32 bits, or empty"
    fits = blank | tf.strings.regex_full_match(texts, "-?[0-9]{1,18}")
    texts = _checked(texts, fits, texts, names, wanted)
    numbers = tf.strings.to_number(tf.where(blank, "0", texts), tf.int64)
    fits = (numbers >= -(2**31)) & (numbers < 2**31)
    return _checked(numbers, fits, texts, names, wanted), blank


def _hexadecimal_numbers(texts: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    """Returns int64 numbers, 0 where blank."""
    codes: np.ndarray = np.full(256, _NO_DIGIT, np.int32)
    codes[0] = _ENDED
    for digit, characters in enumerate(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
                                        "aA", "bB", "cC", "dD", "eE", "fF"]):  # fmt: skip
        for character in characters:
            codes[ord(character)] = digit
    lengths = tf.strings.length(texts)
    characters = tf.io.decode_raw(texts, tf.uint8, fixed_length=_DIGITS)
    digits = tf.gather(codes, tf.cast(characters, tf.int32))
    ended = tf.reduce_sum(tf.cast(tf.equal(digits, _ENDED), tf.int32), -1)
    fits = tf.equal(ended, _DIGITS - lengths) & (tf.reduce_max(digits, -1) < _NO_DIGIT)
    digits = _checked(digits, fits, texts, names, "one to eight hexadecimal digits, or empty")
    places = np.int64(16) ** np.arange(_DIGITS - 1, -1, -1)
    numbers = tf.reduce_sum(tf.cast(digits % 16, tf.int64) * places, -1)
    return tf.bitwise.right_shift(numbers, tf.cast(4 * (_DIGITS - lengths), tf.int64))


def _bucketized(integers: tf.Tensor) -> tf.Tensor:
    """Returns the keys of `tfrecords.conversion.criteo.bucketized`, int64."""
    large = tf.floor(tf.square(tf.math.log(tf.cast(tf.maximum(integers, 3), tf.float64))))
    buckets = tf.where(integers > 2, tf.cast(large, tf.int64), integers)
    return tf.math.floormod(buckets, 2**32)  # as unsigned numbers of 32 bits


def _checked(
    values: tf.Tensor, fits: tf.Tensor, texts: tf.Tensor, names: Sequence[str], wanted: str
) -> tf.Tensor:
    """Returns `values` if all texts [columns, batch] fit, else fails, naming the first."""

    def complain() -> tf.Tensor:
        place = tf.where(tf.logical_not(fits))[0]
        # No quotes: the assertion's message would show them with backslashes.
        message = tf.strings.join(
            [
                "Field ",
                tf.constant(list(names))[place[0]],
                " of row ",
                tf.strings.as_string(place[1]),
                " is ",
                _printable(tf.strings.substr(texts[place[0], place[1]], 0, 40)),
                f", but must be {wanted}.",
            ]
        )
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return tf.constant(False)

    checked = tf.cond(tf.reduce_all(fits), lambda: tf.constant(True), complain)
    with tf.control_dependencies([checked]):
        return tf.identity(values)


def _printable(text: tf.Tensor) -> tf.Tensor:
    """Returns UTF-8 of any bytes: a message of other bytes would be an error itself."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", replace_control_characters=True)
