import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_dlrm.embeddings.row_format import TABLE_DTYPES, row_format
from tf_dlrm.serving.options import ExportOptions


def decoded(name, rows):
    """The rows after encoding and decoding, and their number of bytes."""
    format = row_format(name)
    encoded = format.encode(rows)
    assert encoded.shape == (len(rows), format.width(rows.shape[1]))
    return format.decode(tf.constant(encoded, format.dtype), rows.shape[1]).numpy(), encoded.nbytes


def oracle(rows, bits):
    """Each number as the nearest multiple of its row's scale, in double precision."""
    low = np.minimum(rows.min(1), 0.0).astype(np.float64)
    high = np.maximum(rows.max(1), 0.0).astype(np.float64)
    least = (high - low) / (2**bits - 2)
    return least[:, np.newaxis]


@pytest.mark.parametrize("dim", [1, 2, 5, 16, 64])
@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
def test_no_number_is_off_by_more_than_half_a_scale(name, bits, dim):
    rng = np.random.default_rng(dim)
    magnitudes = 10.0 ** rng.uniform(-20, 20, (500, 1))
    rows = (rng.normal(0.3, 1.0, (500, dim)) * magnitudes).astype(np.float32)
    values, _ = decoded(name, rows)
    # The scale is rounded up to bfloat16, by at most one part in 128.
    bound = oracle(rows, bits) * (0.5 * (1 + 1 / 128)) + np.abs(rows) * 1e-6
    assert (np.abs(values - rows) <= bound).all()
    # And not by much less either: half a scale is what so few bits allow.
    if dim == 64:
        assert (np.abs(values - rows).max(1) > oracle(rows, bits)[:, 0] * 0.25).all()


def test_zeros_are_kept_and_rows_do_not_touch_each_other():
    rows = np.array([[0, 0, 0], [1, 0, -1], [5, 5, 5], [-3, -2, 0]], np.float32)
    for name in ("int8", "int4"):
        values, _ = decoded(name, rows)
        assert (values[rows == 0] == 0).all()
        np.testing.assert_array_equal(decoded(name, rows[::-1])[0][::-1], values)


@pytest.mark.parametrize(
    ("name", "bytes_a_row"),
    [("float32", 64), ("bfloat16", 32), ("float16", 32), ("int8", 19), ("int4", 11)],
)
def test_bytes_of_16_columns(name, bytes_a_row):
    rows = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    assert decoded(name, rows)[1] == 10 * bytes_a_row
    assert row_format(name).row_bytes(16) == bytes_a_row


def test_float_types_round_as_numpy_does():
    rows = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    np.testing.assert_array_equal(decoded("float32", rows)[0], rows)
    np.testing.assert_array_equal(decoded("float16", rows)[0], rows.astype(np.float16))
    # To the nearest of 8 digits, ties to even.
    bits = rows.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    np.testing.assert_array_equal(
        decoded("bfloat16", rows)[0], nearest.astype(np.uint32).view(np.float32)
    )


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"70000\.0 is outside the range of float16"):
        row_format("float16").encode(np.array([[1.0, 7e4]], np.float32))
    with pytest.raises(ValueError, match="int8 cannot keep numbers that are not finite"):
        row_format("int8").encode(np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(ValueError, match="table_dtype must be one of .*, but is 'int2'"):
        row_format("int2")


def test_the_flag_offers_every_type():
    field = ExportOptions.__dataclass_fields__["table_dtype"]
    assert field.metadata["choices"] == TABLE_DTYPES


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False),
    ),
    bits=st.sampled_from([4, 8]),
)
def test_any_rows(rows, bits):
    values, _ = decoded(f"int{bits}", rows)
    bound = oracle(rows, bits) * 0.51 + np.abs(rows.astype(np.float64)) * 1e-6
    # A scale that is subnormal may be taken for 0.
    bound += 2.0 ** (bits - 126)
    assert (np.abs(values.astype(np.float64) - rows) <= bound).all()
