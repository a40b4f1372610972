"""What of TensorFlow's errors is told."""

import pytest
import tensorflow as tf

from tfrecords.errors import first_line
from tfrecords.record_format import frame


def test_the_damage_that_compiled_steps_met(tmp_path):
    header, footer = frame(b"row")
    (tmp_path / "rows").write_bytes(header + b"raw" + footer)
    records = iter(tf.data.TFRecordDataset(str(tmp_path / "rows")))

    @tf.function
    def steps():
        return tf.while_loop(lambda row: row == "", lambda row: (next(records),), [""])

    with pytest.raises(tf.errors.DataLossError) as failed:
        steps()
    assert first_line(failed.value).startswith("corrupted record at 12")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one.", "one"),
        (" \n", "RuntimeError"),
        ("\n  one \ntwo", "one"),
        (
            "Graph execution error:\n\nassertion failed: [a] [1]\n\t [[{{node b}}]]",
            "assertion failed: [a] [1]",
        ),
        ("Graph execution error:\n\nDetected at node x\nwhy\n\t [[{{node b}}]]", "why"),
        ("{{function_node __inference_f_1}} why\n\t [[{{node b}}]]", "why"),
        ("Graph execution error:\n\nwhy", "why"),
        ("Graph execution error", "Graph execution error"),
    ],
)
def test_the_line_that_says_what_happened(message, line):
    assert first_line(RuntimeError(message)) == line
