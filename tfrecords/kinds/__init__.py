"""What the values of columns mean: one class a kind, by Arrow and in a graph."""

from collections.abc import Mapping

from tfrecords.kinds.date_part import DatePart
from tfrecords.kinds.hexadecimal import Hexadecimal
from tfrecords.kinds.integer import Integer
from tfrecords.kinds.kind import Kind
from tfrecords.kinds.text import Text
from tfrecords.kinds.whole import Bucket

# By the word of a description.
KINDS: Mapping[str, type[Kind]] = {
    "text": Text,
    "integer": Integer,
    "hexadecimal": Hexadecimal,
    "datetime": DatePart,
    "bucket": Bucket,
}
