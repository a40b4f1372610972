"""Click logs as TFRecord files: schema, conversion, writing, reading, and generated data."""
