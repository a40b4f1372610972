"""Description files: any round-trips, and every wrong entry is a sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.conversion.column_description import CategoricalColumn, DenseColumn, LabelColumn
from tfrecords.conversion.description_file import built_in, from_toml, load, to_toml
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.kinds.date_part import PARTS

_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1)
_NAME = _LINE.filter(lambda name: name != "dense" and "/" not in name and name[0] != ".")
_NUMBER = st.floats(allow_nan=False, allow_infinity=False)
_COUNT = st.integers(1, 2**40)


@st.composite
def _labels(draw, column):
    kind = draw(st.sampled_from(["number", "from", "values"]))
    if kind == "from":
        return LabelColumn(column, positive_from=draw(_NUMBER))
    if kind == "values":
        texts = draw(st.lists(st.text(), min_size=2, max_size=5, unique=True))
        return LabelColumn(column, None, texts[:1], draw(st.sampled_from([(), tuple(texts[1:])])))
    return LabelColumn(column)


@st.composite
def _categorical(draw, name, text):
    column = draw(_LINE)
    how = draw(st.sampled_from(["counted", "ids", "hash", "datetime"]))
    if how == "datetime":
        part = draw(st.sampled_from(sorted(PARTS)))
        return CategoricalColumn(
            name,
            column,
            "datetime",
            missing=draw(st.none() | st.integers(0, PARTS[part] - 1)),
            datetime_format=draw(st.sampled_from(["iso", "unix", "%y%m%d%H", '%d"\\%Y'])),
            part=part,
        )
    separator = draw(st.none() | st.sampled_from(["|", "::", '"', "\t\\", "é"]))
    hotness = draw(st.sampled_from([None, 1, 7])) if separator or not text else 1
    options = {"separator": separator, "hotness": hotness}
    if hotness is not None and (separator or hotness > 1):
        options["longer"] = draw(st.sampled_from(["error", "cut"]))
    if how == "counted":
        options["kind"] = draw(st.sampled_from(["text", "integer", "hexadecimal"]))
        options["min_count"] = draw(st.none() | _COUNT)
    elif how == "hash":
        options["kind"] = draw(st.sampled_from(["text", "integer"]))
        options["hash_buckets"] = draw(_COUNT)
    else:
        options["kind"] = "integer"
        options["vocabulary_size"] = draw(_COUNT)
        if hotness is not None:
            options["missing"] = draw(st.none() | st.just(options["vocabulary_size"] - 1))
    return CategoricalColumn(name, column, **options)


@st.composite
def _descriptions(draw):
    form = draw(st.sampled_from(["csv", "tsv", "parquet"]))
    names = draw(st.lists(_NAME, min_size=2, max_size=6, unique=True))
    cut = draw(st.integers(1, len(names)))
    dense = tuple(
        DenseColumn(
            name,
            draw(_LINE),
            draw(st.sampled_from(["none", "log1p"])),
            draw(st.none() | _NUMBER),
        )
        for name in names[1:cut]
    )
    categorical = tuple(draw(_categorical(name, form != "parquet")) for name in names[cut:])
    label = draw(_labels(names[0]))
    options = {
        "null_values": draw(st.lists(st.text(), max_size=3)),
        "other_columns": draw(st.sampled_from(["error", "ignore"])),
    }
    plain = TableDescription(
        form, label, dense, categorical, quoting=True if form != "parquet" else None
    )
    ignore = draw(
        st.lists(_LINE.filter(lambda name: name not in plain.used), max_size=2, unique=True)
    )
    if form != "parquet":
        options["quoting"] = True
        if form == "csv":
            options["delimiter"] = draw(st.sampled_from([",", ";", "\t", "\\", "'", " "]))
        if draw(st.booleans()):
            options["columns"] = draw(st.permutations([*plain.used, *ignore]))
    return TableDescription(form, label, dense, categorical, ignore=ignore, **options)


@settings(max_examples=40)
@given(_descriptions())
def test_any_description_round_trips(description):
    text = to_toml(description)
    assert from_toml(text, "d.toml") == description
    assert to_toml(from_toml(text, "d.toml")) == text


def test_what_a_file_says():
    description = from_toml(
        """
        format = "csv"
        delimiter = ";"
        null_values = ["", "NA"]
        ignore = ["id"]
        label = "click"
        [dense]
        price = "log1p"
        age = {missing = 30}
        [categorical]
        city = "text"
        tags = {kind = "integer", separator = "|"}
        pair = {separator = ",", hotness = 2, longer = "cut"}
        [categorical.hour]
        column = "time"
        kind = "datetime"
        datetime_format = "iso"
        part = "hour_of_day"
        """,
        "d.toml",
    )
    assert description == TableDescription(
        format="csv",
        delimiter=";",
        quoting=True,
        null_values=("", "NA"),
        ignore=("id",),
        label=LabelColumn("click"),
        dense=(DenseColumn("price", "price", "log1p"), DenseColumn("age", "age", "none", 30.0)),
        categorical=(
            CategoricalColumn("city", "city"),
            CategoricalColumn("tags", "tags", "integer", separator="|", hotness=None),
            CategoricalColumn("pair", "pair", separator=",", hotness=2, longer="cut"),
            CategoricalColumn(
                "hour", "time", "datetime", datetime_format="iso", part="hour_of_day"
            ),
        ),
    )
    assert description.used == ("click", "price", "age", "city", "tags", "pair", "time")


def test_text_formats_have_their_defaults():
    tsv = from_toml('format = "tsv"\nlabel = "y"\n[dense]\nx = "none"', "d.toml")
    assert (tsv.delimiter, tsv.quoting) == ("\t", False)
    csv = from_toml('format = "csv"\nlabel = "y"\n[dense]\nx = "none"', "d.toml")
    assert (csv.delimiter, csv.quoting) == (",", True)


def test_built_in_descriptions():
    assert built_in() == ("avazu", "criteo", "movielens", "movielens_pairs")
    avazu = load("avazu")
    assert avazu.label.column == "click" and avazu.ignore == ("id",)
    assert len(avazu.categorical) == 23
    assert [column.ids for column in avazu.categorical[:3]] == [24, 7, None]
    assert load("movielens").label == LabelColumn("rating", positive_from=4.0)
    assert load("movielens_pairs").label == load("movielens").label
    assert load("movielens_pairs").categorical == load("movielens").categorical[:2]


def _file(top='format = "csv"', label='label = "y"', rest='[categorical]\nc = "text"'):
    return f"{top}\n{label}\n{rest}\n"


def _c(entry):
    return _file(rest=f"[categorical]\nc = {{{entry}}}")


_DATE = 'kind = "datetime", datetime_format = "iso", part = "weekday"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 1 2", r"d\.toml is no TOML: .*line 1"),
        ('format = "csv"\nformat = "tsv"', r"d\.toml is no TOML: "),
        ("", r"^d\.toml: format is missing\.$"),
        ('format = "csv"', "^d.toml: label is missing"),
        (_file('format = "xml"'), "format must be 'csv', 'tsv', 'parquet' or 'arrow', not 'xml'"),
        (_file("format = []"), r"format must be 'csv', .* not \[\]"),
        (
            _file('format = "csv"\nheader = true'),
            "^d.toml: 'header' is not known; allowed are form",
        ),
        (_file('format = "csv"\nother_columns = 1'), "other_columns must be 'error' or 'ignore'"),
        (_file('format = "csv"\ndelimiter = ""'), "delimiter must be one or more ASCII char"),
        (_file('format = "csv"\ndelimiter = "é"'), "delimiter must be one or more ASCII char"),
        (
            _file('format = "csv"\ndelimiter = "::"\nquoting = true'),
            "quoting needs a delimiter of one character, not '::'",
        ),
        (_file('format = "csv"\nstrip = 1'), "strip must be true or false, not 1"),
        (_file('format = "csv"\ndelimiter = " "\nstrip = true'), "strip takes blanks away"),
        (_file('format = "csv"\ndelimiter = "\\n"'), r"delimiter cannot be '\\n'"),
        (_file('format = "tsv"\ndelimiter = ","'), "format = 'tsv' means tabs"),
        (_file('format = "parquet"\nquoting = true'), "quoting is for text"),
        (_file('format = "csv"\nquoting = "yes"'), "quoting must be true or false, not 'yes'"),
        (_file('format = "csv"\nnull_values = ""'), "null_values must be a list of texts, not ''"),
        (_file('format = "csv"\nignore = [1]'), r"ignore must be a list of texts, not \[1\]"),
        (_file('format = "csv"\nignore = ["c"]'), "ignore names 'c', which is used"),
        (_file('format = "csv"\ncolumns = ["y"]'), "columns does not name 'c'"),
        (_file('format = "csv"\ncolumns = ["y", "c", "y"]'), "columns names 'y' twice"),
        (
            _file('format = "csv"\ncolumns = ["y", "c", "z"]'),
            "columns names 'z', which is no label",
        ),
        (_file(label="label = 3"), r"\[label\] must be text or a table, not 3"),
        (_file(label="label = {}"), r"\[label\] column is missing"),
        (_file(label='label = ""'), r"\[label\] column must be the name of a column, not ''"),
        (_file(label='label = "dense"'), r"\[label\] column cannot be 'dense'"),
        (_file(label='label = {column = "y", x = 1}'), r"\[label\] 'x' is not known"),
        (
            _file(label='label = {column = "y", positive_from = "4"}'),
            r"\[label\] positive_from must be a number, not '4'",
        ),
        (
            _file(label='label = {column = "y", positive_from = nan}'),
            r"\[label\] positive_from must be a number, not nan",
        ),
        (
            _file(label='label = {column = "y", positive_from = 1, positive_values = ["a"]}'),
            r"\[label\] positive_from is for numbers",
        ),
        (
            _file(label='label = {column = "y", negative_values = ["a"]}'),
            "negative_values needs positive_values",
        ),
        (
            _file(label='label = {column = "y", positive_values = ["a"], negative_values = ["a"]}'),
            "'a' is one of positive_values and one of negative_values",
        ),
        (_file(rest=""), r"\[dense\] and \[categorical\] are both empty"),
        ('dense = "x"\nformat = "csv"\nlabel = "y"', r"\[dense\] must be a table of columns"),
        (_file(rest="[dense]\nx = 1"), r"\[dense\.x\] must be text or a table, not 1"),
        (
            _file(rest='[dense]\nx = "log2"'),
            r"\[dense\.x\] transform must be 'none', 'log1p', 's",
        ),
        (_file(rest='[dense]\nx = {missing = "0"}'), r"\[dense\.x\] missing must be a number"),
        (
            _file(rest="[dense]\nx = {missing = 1" + 400 * "0" + "}"),
            r"\[dense\.x\] missing must be a number",
        ),
        (_file(rest="[dense]\nx = {scale = 1}"), r"\[dense\.x\] 'scale' is not known"),
        (_file(rest='[dense]\ny = "none"'), "feature 'y' of .dense. is named in .label. as well"),
        (
            _file(rest='[dense]\nx = "none"\n[categorical]\nx = "text"'),
            "feature 'x' of .categorical. is named in .dense. as well",
        ),
        (_file(rest='[categorical]\ndense = "text"'), "key of the matrix of all dense columns"),
        (_file(rest='[categorical]\n"a/b" = "text"'), "files are named after features"),
        (_c('kind = "number"'), r"\[categorical\.c\] kind must be 'text', 'integer'"),
        (_c("min_count = 0"), r"min_count must be a whole number of at least 1, not 0"),
        (_c("min_count = true"), r"min_count must be a whole number of at least 1, not True"),
        (_c('kind = "integer", vocabulary_size = 1.5'), "vocabulary_size must be a whole number"),
        (_c("vocabulary_size = 5"), "vocabulary_size is for kind = 'integer', not 'text'"),
        (
            _c('kind = "integer", vocabulary_size = 5, hash_buckets = 2'),
            "vocabulary_size and hash_buckets contradict each other",
        ),
        (_c("hash_buckets = 5, min_count = 2"), "hash_buckets and min_count contradict"),
        (
            _c('kind = "hexadecimal", hash_buckets = 5'),
            "hash_buckets is for kind = 'text' or 'integer', not",
        ),
        (_c('hotness = "many"'), "hotness must be a whole number of at least 1, or 'any'"),
        (_c("hotness = 3"), "hotness needs separator"),
        (_c('separator = ""'), "separator must be the text between two values"),
        (_c('separator = "|", longer = "cut"'), "longer = 'cut' needs hotness = a number"),
        (_c('longer = "keep"'), "longer must be 'error' or 'cut'"),
        (_c("missing = 0"), "missing is an id, for columns with vocabulary_size"),
        (
            _c('kind = "integer", vocabulary_size = 5, missing = 5'),
            r"missing must be an id in \[0, 5\), not 5",
        ),
        (
            _c('kind = "integer", vocabulary_size = 5, missing = 1, separator = "|"'),
            "missing has no use with hotness = 'any'",
        ),
        (_c('part = "weekday"'), "part is for kind = 'datetime', not 'text'"),
        (_c('kind = "datetime", part = "weekday"'), "datetime_format must say how"),
        (_c('kind = "datetime", datetime_format = "iso"'), "part must be 'hour_of_day', "),
        (
            _c('kind = "datetime", datetime_format = "YYMMDD", part = "month"'),
            "hold directives such as %Y, not 'YYMMDD'",
        ),
        (_c(_DATE + ', separator = "|"'), "kind = 'datetime' is for columns of one value"),
        (_c(_DATE + ", min_count = 2"), "kind = 'datetime' and min_count contradict"),
        (
            'format = "csv"\nquoting = false\nlabel = "y"\n[categorical]\nc = {separator = ","}',
            "separator is ',', which is the delimiter",
        ),
    ],
)
def test_wrong_entries(text, message):
    with pytest.raises(DataError, match=message) as error:
        from_toml(text, "d.toml")
    assert str(error.value).startswith("d.toml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(
        DataError,
        match=r"'nosuch' is neither a file nor .* \(avazu, criteo, movielens, movielens_pairs\)",
    ):
        load("nosuch")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'format = "\xe9"')
    with pytest.raises(DataError, match=r"latin.toml is no UTF-8 text"):
        load(str(path))
    path.write_text(_file())
    assert load(str(path)).label.column == "y"


def test_comments_stand_behind_their_features():
    description = from_toml(_file(), "d.toml")
    text = to_toml(description, {"c": "seen: 'a'"})
    assert "c = \"text\"  # seen: 'a'" in text.splitlines()
    assert from_toml(text, "d.toml") == description
