"""Click logs as TFRecord files: schema, conversion, writing, reading, and generated data."""

from tfrecords.python_api import open, write

__all__ = ["open", "write"]
