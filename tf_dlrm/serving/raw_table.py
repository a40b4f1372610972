"""The fields of a table as text, to the features of a model, as its training data were made."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError, as_user_error
from tf_dlrm.internals import ResourceVariable, raised_unless
from tf_dlrm.serving.request_checks import Tensors
from tf_dlrm.serving.variable_files import Rows
from tfrecords.conversion.column_description import CategoricalColumn
from tfrecords.conversion.known_vocabularies import KnownVocabulary, known_vocabulary
from tfrecords.conversion.raw_fields import text_table_of
from tfrecords.conversion.table_description import TableDescription
from tfrecords.dataset_info import DatasetInfo
from tfrecords.kinds import Text
from tfrecords.kinds.kind import as_int64

# Keys of fewer bits are looked up together, each with the number of its feature before it.
_FEW_BITS = 33
# What no key of a feature is, at the end of a list, so that the place of every key is in it.
_NONE = np.iinfo(np.int64).max


class _KeyIndex(NamedTuple):
    """Features whose keys are looked up at once.

    Attributes:
        features: Their numbers.
        keys: int64, ascending; those of feature number k of `features` plus k << 33.
        ids: int32 or int64, the id of each.
    """

    features: tuple[int, ...]
    keys: np.ndarray
    ids: np.ndarray


class _Check(NamedTuple):
    """What the field of a column must be.

    Attributes:
        column: Its name.
        fits: bool [batch].
        wanted: What is wanted, for the message.
    """

    column: str
    fits: tf.Tensor
    wanted: str


class RawTable(tf.Module):
    """The fields of a row, each as its text in the table.

    Does what the conversion of the training data did, by the same kinds of values
    (`tfrecords.kinds`), so that the two can't disagree. A value that the vocabulary does not hold
    becomes the out-of-vocabulary id, or an error where there is none (`--reference`).

    The vocabularies are variables; they are empty here, and `rows` is their content.

    Attributes:
        specs: For each column, string [batch].
        vocabulary: The variables: keys in ascending order, and their ids.
    """

    def __init__(self, info: DatasetInfo, data_dir: str) -> None:
        """Reads the vocabularies.

        Raises:
            UserError: If the data set was not made from text, or its vocabulary is damaged.
        """
        super().__init__()
        with as_user_error(f"--serve_raw cannot use {data_dir}. "):
            self._table: TableDescription = text_table_of(info.how_it_was_made)
        self.specs = {
            name: tf.TensorSpec([None], tf.string, name) for name in self._table.feature_columns
        }
        self._unknown = [
            -1 if column.out_of_vocabulary is None else column.out_of_vocabulary
            for column in info.schema.categorical
        ]
        keys: dict[int, KnownVocabulary] = {}
        for number, feature in enumerate(self._table.categorical):
            if feature.meaning.size is None:
                with as_user_error():
                    keys[number] = known_vocabulary(data_dir, info, feature.name)
        self._examples = _examples(self._table, keys)
        few = [k for k in keys if self._table.categorical[k].meaning.key_bits <= _FEW_BITS]
        groups = [few, *([k] for k in keys if k not in few)]
        self._lookups = [_lookup(group, keys) for group in groups if group]
        self.vocabulary = [
            ResourceVariable(array[:0], trainable=False, name="vocabulary", shape=[None])
            for array in self._content()
        ]
        self._check_graph()

    @classmethod
    def of_training(cls, data_dir: str, fingerprint: str) -> RawTable:
        """Reads the vocabularies of a data set that a model was trained on.

        Raises:
            UserError: As the constructor, or if the folder holds no data set, or another one.
        """
        with as_user_error("--serve_raw needs the vocabulary of the training data. "):
            info = DatasetInfo.load_description(data_dir)
        if info.fingerprint != fingerprint:
            raise UserError(
                f"{data_dir} is not the data that the model was trained on any more, so "
                "--serve_raw can't have its vocabulary."
            )
        return cls(info, data_dir)

    def rows(self) -> list[Rows]:
        """Returns the content of each variable of `vocabulary`."""
        return [
            Rows(array.shape, tf.as_dtype(array.dtype), functools.partial(_piece, array))
            for array in self._content()
        ]

    def example(self) -> dict[str, bytes]:
        """Returns for each column the text of a value that is allowed."""
        return self._examples

    def features(self, values: Tensors) -> Tensors:
        """Returns {"dense": float32 [batch, columns], feature: int64 [batch], ...}.

        A feature of many ids is int64 [batch, hotness], or a `tf.RaggedTensor` [batch, None].

        Args:
            values: For each column, string [batch].

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if a text is not what its column must
                hold, or not in a vocabulary without an out-of-vocabulary id.
        """
        checks: list[_Check] = []
        missing = {name: self._is_null(values[name]) for name in self.specs}
        dense: dict[int, tf.Tensor] = {}
        # Fields of one kind at once, so that a graph of many columns stays small.
        for meaning, places in _places([column.meaning for column in self._table.dense]).items():
            columns = [self._table.dense[k].column for k in places]
            found, fits = meaning.graph_read(*_stacked(columns, values, missing))
            needed = self._or_empty(meaning.needed, meaning.missing is not None)
            checks += _checks(columns, fits, needed)
            dense |= dict(zip(places, tf.unstack(found, num=len(places)), strict=True))
        keys: dict[int, Any] = {}
        features = self._table.categorical
        single = [k for k, feature in enumerate(features) if feature.separator is None]
        for kind, places in _places([features[k].meaning for k in single]).items():
            numbers = [single[place] for place in places]
            columns = [features[k].column for k in numbers]
            found, fits = kind.graph_keys(*_stacked(columns, values, missing))
            needed = self._or_empty(kind.needed, kind.blank is not None)
            checks += _checks(columns, fits, needed)
            keys |= dict(zip(numbers, tf.unstack(found, num=len(numbers)), strict=True))
        for number, feature in enumerate(features):
            if feature.separator is not None:
                column = feature.column
                keys[number] = self._bags(feature, values[column], missing[column], checks)
        ids = self._ids(keys, checks)
        with tf.control_dependencies([_complaint(checks, values)]):
            made: Tensors = {}
            if dense:
                made["dense"] = tf.stack([dense[k] for k in range(len(dense))], 1)
            for feature, of_feature in zip(self._table.categorical, ids, strict=True):
                made[feature.name] = tf.identity(of_feature)
        return made

    def _is_null(self, texts: tf.Tensor) -> tf.Tensor:
        missing = tf.zeros_like(texts, tf.bool)
        for text in self._table.null_values:
            missing |= tf.equal(texts, text)
        return missing

    def _or_empty(self, needed: str, may_be_missing: bool) -> str:
        return f"{needed}, or empty" if may_be_missing and "" in self._table.null_values else needed

    def _bags(
        self, feature: CategoricalColumn, texts: tf.Tensor, missing: tf.Tensor, checks: list[_Check]
    ) -> Any:
        """Returns the keys of a field of several values, int64 [batch, hotness] or ragged."""
        kind = feature.meaning
        blank = kind.blank
        bags = tf.strings.split(texts, feature.separator)
        kept = tf.repeat(~missing, bags.row_lengths())
        lengths = tf.where(missing, tf.zeros_like(bags.row_lengths()), bags.row_lengths())
        parts = tf.boolean_mask(bags.values, kept)
        keys, fits = kind.graph_keys(parts, self._is_null(parts))
        wanted = f"values, each {kind.needed}, with {feature.separator} between them"
        bags = tf.RaggedTensor.from_row_lengths(keys, lengths, validate=False)
        checks.append(_Check(feature.column, _all_of_row(fits, bags), wanted))
        if feature.hotness is None:
            return bags
        fits = tf.ones_like(missing) if feature.longer == "cut" else lengths <= feature.hotness
        if blank is None:
            fits &= lengths >= feature.hotness
        most = "" if blank is None else "at most "
        checks.append(_Check(feature.column, fits, f"{most}{feature.hotness} values"))
        fill = 0 if blank is None else as_int64(blank)
        return bags.to_tensor(fill, shape=[None, feature.hotness])

    def _ids(self, keys: Mapping[int, Any], checks: list[_Check]) -> list[Any]:
        """Returns ids like the keys of each feature, in the order of the features."""
        ids = dict(keys)
        for place, lookup in enumerate(self._lookups):
            known, of_known = self.vocabulary[2 * place : 2 * place + 2]
            flat = [
                _flat(keys[number]) + np.int64(k << _FEW_BITS)
                for k, number in enumerate(lookup.features)
            ]
            wanted = tf.concat(flat, 0)
            at = tf.searchsorted(known, wanted)
            inside = tf.equal(tf.gather(known, at), wanted)
            found = tf.cast(tf.gather(of_known, at), tf.int64)
            sizes = tf.stack([tf.size(part) for part in flat])
            for number, is_known, of_feature in zip(
                lookup.features,
                tf.split(inside, sizes, num=len(flat)),
                tf.split(found, sizes, num=len(flat)),
                strict=True,
            ):
                unknown, like = self._unknown[number], keys[number]
                if unknown < 0:
                    fits = _all_of_row(is_known, like)
                    column = self._table.categorical[number].column
                    checks.append(_Check(column, fits, "a value of its vocabulary"))
                ids[number] = _like(tf.where(is_known, of_feature, max(unknown, 0)), like)
        return [ids[number] for number in range(len(ids))]

    def _content(self) -> list[np.ndarray]:
        return [array for lookup in self._lookups for array in (lookup.keys, lookup.ids)]

    def _check_graph(self) -> None:
        """Refuses what no graph computes, before one is made."""
        with tf.Graph().as_default():
            texts, missing = tf.constant([""]), tf.constant([True])
            for feature in self._table.categorical:
                with as_user_error(f"--serve_raw cannot serve the column {feature.column!r}. "):
                    feature.meaning.graph_keys(texts, missing)


def _examples(
    table: TableDescription, vocabularies: Mapping[int, KnownVocabulary]
) -> dict[str, bytes]:
    """Returns for each column the text of a value, of its vocabulary if that can be told."""
    known = {
        number: text
        for number, vocabulary in vocabularies.items()
        for key in vocabulary.keys[:1]
        if (text := table.categorical[number].meaning.text_of(key)) is not None
    }
    texts = {number.column: number.meaning.example.encode() for number in table.dense}
    # Whatever else a column is, it is text too.
    for number, feature in sorted(
        enumerate(table.categorical), key=lambda entry: isinstance(entry[1].meaning, Text)
    ):
        text = known.get(number, feature.meaning.example.encode())
        if feature.separator is not None:
            text = feature.separator.encode().join([text] * (feature.hotness or 1))
        texts.setdefault(feature.column, text)
    return texts


def _lookup(group: Sequence[int], vocabularies: Mapping[int, KnownVocabulary]) -> _KeyIndex:
    """Returns the vocabularies of a group of features as one."""
    keys, ids = [], []
    for k, number in enumerate(group):
        vocabulary = vocabularies[number]
        signed: np.ndarray = vocabulary.keys.view(np.int64)
        order = np.argsort(signed)
        keys.append(signed[order] + np.int64(k << _FEW_BITS))
        ids.append(order + vocabulary.info.reserved)
    dtype = np.int64 if max(map(len, ids)) >= 2**31 - 1 else np.int32
    return _KeyIndex(
        tuple(group),
        np.concatenate([*keys, np.array([_NONE])]),
        np.concatenate([*ids, np.array([0])]).astype(dtype),
    )


def _flat(keys: Any) -> tf.Tensor:
    return keys.values if isinstance(keys, tf.RaggedTensor) else tf.reshape(keys, [-1])


def _like(flat: tf.Tensor, keys: Any) -> Any:
    """Returns values of the shape of keys."""
    if isinstance(keys, tf.RaggedTensor):
        return keys.with_values(flat)
    return tf.ensure_shape(tf.reshape(flat, tf.shape(keys)), keys.shape)


def _all_of_row(flags: tf.Tensor, keys: Any) -> tf.Tensor:
    """Returns bool [batch], whether the flags of all keys of a row are true."""
    if isinstance(keys, tf.RaggedTensor):
        wrong = keys.with_values(tf.cast(~flags, tf.int32))
        return tf.equal(tf.reduce_sum(wrong, 1), 0)
    flags = tf.reshape(flags, tf.shape(keys))
    return flags if keys.shape.rank == 1 else tf.reduce_all(flags, 1)


def _places(values: Sequence[Any]) -> dict[Any, list[int]]:
    """Returns where each of the different values is."""
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return places


def _stacked(columns: Sequence[str], *of_columns: Tensors) -> list[tf.Tensor]:
    return [tf.stack([tensors[column] for column in columns]) for tensors in of_columns]


def _checks(columns: Sequence[str], fits: tf.Tensor, wanted: str) -> list[_Check]:
    of_columns = tf.unstack(fits, num=len(columns))
    return [_Check(c, of_column, wanted) for c, of_column in zip(columns, of_columns, strict=True)]


def _piece(array: np.ndarray, start: int, count: int) -> np.ndarray:
    return array[start : start + count]


def _complaint(checks: Sequence[_Check], values: Tensors) -> tf.Tensor:
    """Returns a tensor whose computation fails where a check does, naming the first such field."""
    fits = tf.stack([check.fits for check in checks])

    def message() -> tf.Tensor:
        place = tf.where(tf.logical_not(fits))[0]
        texts = tf.stack([values[check.column] for check in checks])
        # No quotes: the assertion's message would show them with backslashes.
        return tf.strings.join(
            [
                "Field ",
                tf.constant([check.column for check in checks])[place[0]],
                " of row ",
                tf.strings.as_string(place[1]),
                " is ",
                _printable(tf.strings.substr(texts[place[0], place[1]], 0, 40)),
                ", but must be ",
                tf.constant([check.wanted.replace("'", "") for check in checks])[place[0]],
                ".",
            ]
        )

    return raised_unless(tf.reduce_all(fits), message)


def _printable(text: tf.Tensor) -> tf.Tensor:
    """Returns UTF-8 of any bytes: a message of other bytes would be an error itself."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", replace_control_characters=True)
