import pytest

from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema


def test_json_round_trip():
    schema = Schema(
        ("a", "b"),
        (CategoricalColumn("c", 5, 3, 0), CategoricalColumn("d", 7, None)),
        label="clicked",
    )
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CategoricalColumn("c", 0), "'c': vocabulary_size must be .* at least 1, not 0"),
        (lambda: CategoricalColumn("c", 2.5), "vocabulary_size .* not 2.5"),
        (lambda: CategoricalColumn("c", 5, 0), "'c': hotness .* not 0"),
        (lambda: CategoricalColumn("c", 5, 1, 5), r"'c': out_of_vocabulary .* \[0, 5\), not 5"),
        (lambda: CategoricalColumn("", 5), "must be text, not ''"),
        (lambda: Schema(("a",), (CategoricalColumn("a", 5),)), "names the column 'a' twice"),
        (lambda: Schema(("label",), ()), "names the column 'label' twice"),
        (lambda: Schema((), (CategoricalColumn("dense", 5),)), "cannot be called 'dense'"),
        (lambda: Schema((), ()), "at least one dense or categorical column"),
        (lambda: Schema.from_json({"dense": []}), "schema cannot be read: KeyError"),
        (lambda: Schema.from_json({"dense": "I1"}), "'dense' of a schema must be a list, not 'I1'"),
        (lambda: Schema.from_json({"dense": [], "categorical": {}}), "must be a list, not {}"),
    ],
)
def test_what_is_not_allowed(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_large_vocabularies_take_eight_bytes():
    assert CategoricalColumn("c", 2**31 - 1).dtype == "<i4"
    assert CategoricalColumn("c", 2**31).dtype == "<i8"
    columns = (CategoricalColumn("c", 2**31, 3), CategoricalColumn("d", 9, None))
    assert Schema(("a", "b"), columns).row_bytes == 3 * 4 + 3 * 8 + 4
