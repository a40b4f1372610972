"""Files of tables that are read without conversion: which there are, and parts of them."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords import files
from tfrecords.conversion import column_table, text_input, text_table
from tfrecords.conversion.table_description import TableDescription
from tfrecords.errors import DataError
from tfrecords.input_files import COMPRESSIONS, compression

# By the format of a description: what names end in, and what messages call such files.
_ENDINGS = {
    "parquet": ((".parquet",), "Parquet"),
    "arrow": ((".arrow", ".arrows", ".feather", ".ipc"), "Arrow"),
    "csv": ((".csv", ".txt", ".data", ".dat"), "CSV"),
    "tsv": ((".tsv", ".txt", ".data", ".dat"), "TSV"),
}
# A footer is rarely longer, so that one request to a store is enough.
_TAIL = 1 << 18
# Row groups and batches of fewer rows are read together.
_LEAST_ROWS = 8192
_TEXT_BYTES = 1 << 22


class Block(NamedTuple):
    """A part of a file that is read at once.

    Attributes:
        first: The first of its row groups, batches, or bytes of text.
        stop: The one behind the last.
        first_row: Number of its first row in the file.
        rows: Number of rows.
    """

    first: int
    stop: int
    first_row: int
    rows: int


class TableFile(abc.ABC):
    """What is known of a file.

    Args:
        path: Where it is.
        name: How it is called in fingerprints.
        description: What its columns are to be.

    Attributes:
        path, name: As above.
        blocks: What is read at once.
        checksum: Of its content; of Parquet of its size and footer.
        label_bounds: The smallest and the largest value of the label's column in each part of the
            file that says so.

    Raises:
        DataError: If the file is damaged, or has not the columns described.
    """

    blocks: tuple[Block, ...]
    checksum: str
    label_bounds: tuple[Any, ...] = ()

    def __init__(self, path: str, name: str, description: TableDescription) -> None:
        self.path = path
        self.name = name
        self._description = description

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(block.rows for block in self.blocks)

    def read(self, block: Block, columns: list[str]) -> pa.Table:
        """Reads columns of a block, with nulls where a value is missing.

        Raises:
            DataError: If they cannot be read.
        """
        try:
            with files.explained(self.path), files.open_file(self.path) as source:
                return self._read(source, block, columns)
        except (pa.ArrowException, OSError) as error:
            last = block.first_row + block.rows - 1
            raise DataError(
                f"Rows {block.first_row} to {last} of {self.path} cannot be read: {error}"
            ) from error

    def place(self, block: Block, row: int) -> str:
        """How messages call a row of a block."""
        return f"Row {block.first_row + row} of {self.path}"

    def check_unchanged(self) -> None:
        """Checks that the file is what it was when it was opened.

        Raises:
            DataError: If it is not.
        """
        if open_table(self.path, self.name, self._description).checksum != self.checksum:
            raise DataError(f"The file {self.path} has changed since it was opened.")

    @abc.abstractmethod
    def _read(self, source: Any, block: Block, columns: list[str]) -> pa.Table: ...


class _ParquetFile(TableFile):
    def __init__(self, path: str, name: str, description: TableDescription) -> None:
        super().__init__(path, name, description)
        self._metadata, self.checksum = _metadata_and_checksum(path)
        metadata = self._metadata
        column_table.check(path, metadata.schema.to_arrow_schema(), description)
        bounds: list[Any] = []
        labels = [
            index
            for index in range(metadata.num_columns)
            if metadata.schema.column(index).path == description.label.column
        ]
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        for group in groups:
            for column in labels:
                statistics = group.column(column).statistics
                if statistics and statistics.has_min_max:
                    bounds += [statistics.min, statistics.max]
        self.label_bounds = tuple(bounds)
        self.blocks = _blocks([group.num_rows for group in groups])

    def _read(self, source: Any, block: Block, columns: list[str]) -> pa.Table:
        # The footer is known, and threads are those who read several blocks at once.
        with pq.ParquetFile(source, metadata=self._metadata, pre_buffer=True) as file:
            groups = list(range(block.first, block.stop))
            table = file.read_row_groups(groups, columns, use_threads=False)
        return column_table.with_nulls(table, self._description.null_values)


class _ArrowFile(TableFile):
    def __init__(self, path: str, name: str, description: TableDescription) -> None:
        super().__init__(path, name, description)
        with files.explained(path), files.open_file(path) as source:
            self.checksum = _checksum(iter(lambda: source.read(_TEXT_BYTES), b""))
            with column_table.explained(path, description.format):
                column_table.check(path, column_table.arrow_schema(source), description)
                label = [description.label.column]
                batches = column_table.arrow_batches(source, label)
                self.blocks = _blocks([len(batch) for batch in batches])

    def _read(self, source: Any, block: Block, columns: list[str]) -> pa.Table:
        batches = column_table.arrow_batches(source, columns, block.first, block.stop)
        table = pa.Table.from_batches(list(batches)).unify_dictionaries()
        return column_table.with_nulls(table, self._description.null_values)


class _TextFile(TableFile):
    def __init__(self, path: str, name: str, description: TableDescription) -> None:
        super().__init__(path, name, description)
        kind = f"{description.format.upper()} table"
        # Read whole, since only its line breaks say where a block begins and how many rows it has.
        pieces = text_input.text_pieces(path, 0, _TEXT_BYTES, kind, files.open_file)
        crc = google_crc32c.Checksum()
        found: list[Block] = []
        row = begin = 0
        with files.explained(path):
            for piece in pieces:
                if not piece.start:
                    self._columns, begin = text_table.header(path, piece.data, description)
                crc.update(piece.data)
                first = max(begin, piece.start)
                rows = piece.data.count(b"\n", first - piece.start)
                if rows:
                    found.append(Block(first, piece.end, row, rows))
                row += rows
        self.blocks = tuple(found)
        self.checksum = crc.hexdigest().decode()

    def _read(self, source: Any, block: Block, columns: list[str]) -> pa.Table:
        source.seek(block.first)
        text = bytes(source.read(block.stop - block.first))
        lines = text_table.Lines(self._columns, text if text[-1:] == b"\n" else text + b"\n")
        table = text_table.parse_lines(lines, self._description)
        if table is None:
            # As text, so that messages show what the file holds.
            table, _, bad = text_table.parse_texts(lines, self._description)
            if bad or table is None:
                raise DataError(f"{self.place(block, bad[0].line)} is no row: {bad[0].what}.")
        return table.select(columns)

    def place(self, block: Block, row: int) -> str:
        header = 0 if self._description.columns else 1
        return f"Line {1 + header + block.first_row + row} of {self.path}"


def split_files(data_dir: str, format: str) -> dict[str, list[str]]:
    """Finds the names of the files of each split.

    Args:
        data_dir: A folder with a folder per split.
        format: That of their description.

    Raises:
        DataError: If there are none, or text is compressed.
    """
    endings, kind = _ENDINGS[format]
    if not files.isdir(data_dir):
        raise DataError(f"There is no folder {data_dir!r} of {kind} files.")
    splits = {}
    for split in files.listdir(data_dir):
        folder = files.join(data_dir, split)
        if split.startswith((".", "_")) or not files.isdir(folder):
            continue
        found = files.listdir(folder)
        names = [name for name in found if name.endswith(endings)]
        for name in found:
            if compression(name) and name[: -len(compression(name))].endswith(endings):
                raise DataError(
                    f"{files.join(folder, name)} is compressed ({', '.join(COMPRESSIONS)}), so no "
                    "part of it can be read without all before it. Decompress it, or convert it "
                    "with `python -m tfrecords.convert`."
                )
        if names:
            splits[split] = names
    if not splits:
        raise DataError(
            f"The folder {data_dir!r} holds no {kind} files ({', '.join(endings)}): they lie in a "
            f"folder per split, as {files.join(data_dir, 'train', f'part-0{endings[0]}')}."
        )
    return splits


def open_table(path: str, name: str, description: TableDescription) -> TableFile:
    """Looks at a file; see `TableFile`."""
    if description.of_text:
        return _TextFile(path, name, description)
    kind = _ParquetFile if description.format == "parquet" else _ArrowFile
    return kind(path, name, description)


def _blocks(group_rows: list[int]) -> tuple[Block, ...]:
    """Whole row groups or batches, small ones together."""
    found = []
    first = first_row = rows = 0
    for group, count in enumerate(group_rows):
        rows += count
        if rows >= _LEAST_ROWS or (group == len(group_rows) - 1 and rows):
            found.append(Block(first, group + 1, first_row, rows))
            first, first_row, rows = group + 1, first_row + rows, 0
    return tuple(found)


def _checksum(parts: Iterator[bytes]) -> str:
    crc = google_crc32c.Checksum()
    for part in parts:
        crc.update(part)
    return crc.hexdigest().decode()


def _metadata_and_checksum(path: str) -> tuple[pq.FileMetaData, str]:
    """What a file's footer says, and a checksum of its size and footer."""
    try:
        size = files.size(path)
        with files.explained(path), files.open_file(path) as file:
            tail = _tail(file, size, _TAIL)
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if length > len(tail):
                tail = _tail(file, size, length)
        metadata = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no Parquet file, or is damaged: {error}") from error
    # Footers end with what the file's writer knows of each column: offsets, sizes and ranges.
    footer = tail[-(int.from_bytes(tail[-8:-4], "little") + 8) :]
    # Not its path, which is written in many ways, and which a copy has not.
    digest = hashlib.sha256(f"{size}:".encode() + footer).hexdigest()
    return metadata, digest[:32]


def _tail(file: Any, size: int, length: int) -> bytes:
    file.seek(max(0, size - length))
    return bytes(file.read(min(size, length)))
