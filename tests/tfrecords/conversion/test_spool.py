"""What was parsed waits on disk; damage is found before anything is made of it."""

import os

import numpy as np
import pytest

from tfrecords.conversion.encoding import encode
from tfrecords.conversion.rows import Rows
from tfrecords.conversion.spool import Spool
from tfrecords.errors import DataError


@pytest.fixture
def spool(tmp_path):
    path = str(tmp_path / "spool")
    spool = Spool(path, 0, (False,), 1, [])
    for keys in ([5, 7, 5], [7, 9, 9]):
        rows = Rows(
            np.zeros(3, np.float32),
            np.zeros((0, 3), np.float32),
            (np.array(keys, np.uint64),),
            (None,),
        )
        spool.append(encode(rows), 0, 3)
    spool.end()
    return spool, path


def test_dictionaries_are_what_was_written_or_refused(spool):
    spool, path = spool
    (column,) = spool.read_dictionaries(spool.pieces[1])
    assert sorted(zip(column.keys.tolist(), column.counts.tolist(), strict=True)) == [
        (7, 1),
        (9, 2),
    ]
    first, second = spool.pieces
    for place in range(second.offset, second.offset + second.dictionaries):
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 64]))
        with pytest.raises(DataError, match=f"at byte {second.offset} of the work file {path}"):
            spool.read_dictionaries(second)
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))
    assert spool.read_dictionaries(first)[0].counts.sum() == 3


def test_a_file_that_lost_its_end_is_not_filled_up_with_zeros(spool):
    spool, path = spool
    os.truncate(path, spool.pieces[1].offset + 5)
    with pytest.raises(DataError, match=f"{path} has lost its end, so it cannot be used"):
        Spool(path, 0, (False,), 1, spool.pieces)
    os.unlink(path)
    with pytest.raises(DataError, match="has lost its end"):
        Spool(path, 0, (False,), 1, spool.pieces)
