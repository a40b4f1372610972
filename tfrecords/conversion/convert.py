"""From files of any format to a data set: parse and count, then write."""

from __future__ import annotations

import collections
import dataclasses
import os
import shutil
from collections.abc import Mapping
from typing import Any

from tfrecords import files, writer
from tfrecords.conversion import features, journal, labels, learnt_numbers
from tfrecords.conversion.counting import Counter
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.formats import kept as kept_of
from tfrecords.conversion.how_it_was_made import how_it_was_made
from tfrecords.conversion.input import Input, Place, no_row
from tfrecords.conversion.journal import Journal
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import MemoryTooSmall, Options
from tfrecords.conversion.plan import Plan, surely_counted
from tfrecords.conversion.sampling import kept
from tfrecords.conversion.spool import Spool, SpoolPiece
from tfrecords.conversion.vocabularies import Vocabularies, known_vocabularies
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.conversion.writing import Writing
from tfrecords.dataset_info import DatasetInfo, FileInfo, VocabularyInfo, file_from_json
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.kinds.number import Number
from tfrecords.odd_labels import OddLabels
from tfrecords.progress import Progress
from tfrecords.schema import Schema
from tfrecords.verify import file_crc


def convert(
    inputs: list[str],
    output_dir: str,
    format: InputFormat,
    options: Options,
    progress: Progress,
    threads: int | None = None,
    fresh: bool = False,
) -> DatasetInfo:
    """Converts files to a data set.

    What a process has finished before it died lies in `.NAME.incomplete` beside the data set; the
    same conversion, started again, goes on from there and ends with the same bytes.

    Args:
        inputs: The files, in the order of time.
        output_dir: The folder; see `DatasetWriter`.
        format: What the files hold.
        options: How.
        progress: Told what has been done, and what is used again.
        threads: Threads that work; None for one per core.
        fresh: Begin anew even if there is work that could be used.

    Returns:
        What was written.

    Raises:
        DataError: If input, output or options cannot be used.
    """
    threads = threads or os.cpu_count() or 1
    if options.vocabulary_of:
        format = learnt_numbers.format_of_data_set(format, options.vocabulary_of)
    features.hotness(format, options)
    source = Input(inputs, format, options.on_bad_row == "skip", threads)
    options.check_files(len(inputs))
    if options.by_row:
        options.by_row.check(kept_of(format))
    with WholeFolder(output_dir, keep_work=True) as folder:
        try:
            _Conversion(folder, source, format, options, progress, threads, fresh).run()
        except (MemoryTooSmall, OddLabels):
            raise
        except DataError:
            # The same command would fail again.
            folder.discard()
            raise
    files.remove(files.join(output_dir, journal.FILE_NAME))
    return DatasetInfo.load(output_dir)


class _Conversion:
    def __init__(
        self,
        folder: WholeFolder,
        source: Input,
        format: InputFormat,
        options: Options,
        progress: Progress,
        threads: int,
        fresh: bool,
    ) -> None:
        self._folder = folder
        self._work = folder.work
        self._source = source
        self._format = format
        self._numbers: Mapping[int, Number] = {}
        self._options = options
        self._progress = progress
        self._threads = threads
        self._memory = Memory.of(options.memory_gb, threads)
        self._known = known_vocabularies(format, options)
        self._journal = Journal(
            folder.work,
            journal.fingerprint(
                format.describe(),
                [dataclasses.asdict(column) for column in format.columns],
                options.describe(),
                source.describe(),
                writer.RECORDS_PER_FILE,
                *([self._known.fingerprint] if self._known else []),
            ),
            fresh,
        )
        if self._journal.removed:
            progress.say(
                f"Removed the unfinished work in {folder.work}: "
                + ("--fresh." if fresh else "it was of another input or other options.")
            )
        self._skipped: collections.Counter[str] = collections.Counter()
        self._label_values: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._journal.close()

    def _run(self) -> None:
        written = self._written()
        finished = self._journal.entries("written")
        if finished:
            self._progress.say("All rows were written already.")
            out = self._writer(
                Schema.from_json(finished[0]["schema"]),
                finished[0]["how_it_was_made"],
                {
                    name: VocabularyInfo(**value)
                    for name, value in finished[0]["vocabularies"].items()
                },
                written,
                None,
            )
            self._commit(out)
            return
        counter = None
        spool = self._spool()
        made = self._journal.entries("vocabularies")
        try:
            if not made and (self._known is None or self._options.extend_vocabulary):
                counter = Counter(
                    os.path.join(self._work, "runs"),
                    spool,
                    self._format.columns,
                    self._options,
                    self._memory,
                )
            self._parse(spool, counter)
            plan = labels.checked_plan(self._format, self._label_values, self._options, spool)
            vocabularies, infos = Vocabularies(
                self._work, self._journal, self._format.columns, self._options, self._known
            ).make(counter, plan, self._memory, self._progress)
            self._format, self._numbers = learnt_numbers.learn(self._format, spool, plan)
        finally:
            if counter is not None:
                counter.close()
        self._write(spool, plan, vocabularies, infos, written)

    def _spool(self) -> Spool:
        pieces = [SpoolPiece(**e["piece"]) for e in self._journal.entries("piece") if e["piece"]]
        return Spool(
            os.path.join(self._work, "spool"),
            len(self._format.dense),
            tuple(column.hotness is None for column in self._format.columns),
            len(self._source.sizes),
            pieces,
            kept_of(self._format),
        )

    def _parse(self, spool: Spool, counter: Counter | None) -> None:
        """Parses what is not in the spool yet, and counts what surely counts."""
        entries = self._journal.entries("piece")
        for entry in entries:
            self._skipped.update(entry["skipped"])
            self._label_values.update(entry["label_values"])
        before = spool.rows
        if before:
            self._progress.say(f"Using {before:,} rows that were parsed already.")
        if not self._journal.entries("parsed"):
            start = Place(**entries[-1]["place"]) if entries else Place(0, 0, 0)
            self._progress.begin("Parsing", self._source.total_bytes)
            for piece in self._source.pieces(start, self._progress.update):
                spooled = None
                if piece.rows is not None:
                    spooled = spool.append(piece.rows, piece.place.file, self._kept(piece, spool))
                self._skipped.update(piece.skipped)
                self._label_values.update(piece.label_values)
                self._journal.add(
                    "piece",
                    place=dataclasses.asdict(piece.place),
                    piece=dataclasses.asdict(spooled) if spooled else None,
                    skipped=piece.skipped,
                    label_values=dict(piece.label_values),
                )
                if counter is not None:
                    files = len(self._source.sizes)
                    counter.count_until(surely_counted(self._options, spool, files))
            if not spool.rows:
                raise no_row(self._source.paths, self._skipped)
            self._journal.add("parsed")
            self._progress.end(spool.rows - before)
        spool.end()
        if self._skipped:
            self._progress.say(f"Skipped {_counted(self._skipped)}.")

    def _kept(self, piece: Any, spool: Spool) -> int:
        options = self._options
        if options.keep_negatives >= 1:
            return len(piece.rows)
        return int(kept(piece.rows.label, spool.rows, options.keep_negatives, options.seed).sum())

    def _written(self) -> list[tuple[str, FileInfo, float]]:
        """The record files that an earlier process has finished, and that are still whole."""
        written = []
        for entry in self._journal.entries("file"):
            file = file_from_json(entry["file"])
            path = os.path.join(self._work, file.path)
            if not os.path.isfile(path) or file_crc(path) != file.crc32c:
                raise DataError(
                    f"The file {path} of unfinished work is not what was written. Run the same "
                    "command again, which begins anew."
                )
            written.append((entry["split"], file, entry["label_sum"]))
        if written:
            rows = sum(file.rows for _, file, _ in written)
            self._progress.say(
                f"Using {len(written)} record files ({rows:,} rows) that were written already."
            )
        return written

    def _writer(
        self,
        schema: Schema,
        how_it_was_made: dict[str, Any],
        vocabularies: dict[str, VocabularyInfo],
        written: list[tuple[str, FileInfo, float]],
        writing: Writing | None,
    ) -> writer.DatasetWriter:
        def on_file(split: str, file: FileInfo, label_sum: float) -> None:
            self._journal.add(
                "file", split=split, file=dataclasses.asdict(file), label_sum=label_sum
            )
            if writing is not None:
                writing.on_file(split, file, label_sum)

        return writer.DatasetWriter(
            self._folder,
            schema,
            how_it_was_made,
            self._options.rows_per_record,
            writer.RECORDS_PER_FILE,
            vocabularies,
            written,
            on_file,
        )

    def _write(
        self,
        spool: Spool,
        plan: Plan,
        vocabularies: list[Vocabulary],
        infos: dict[str, VocabularyInfo],
        written: list[tuple[str, FileInfo, float]],
    ) -> None:
        options = self._options
        made = features.Features(self._format.columns, vocabularies, options, self._numbers)
        writing = Writing(
            self._work,
            self._journal,
            spool,
            plan,
            made,
            options,
            self._memory,
            self._threads,
            self._progress,
        )
        for file in written:
            writing.on_file(*file)
        schema = features.schema(self._format, options, vocabularies)
        how = self._how_it_was_made(spool, plan)
        out = self._writer(schema, how, infos, written, writing)
        try:
            writing.run(out)
        finally:
            out.close()
        self._journal.add(
            "written",
            schema=schema.to_json(),
            how_it_was_made=how,
            vocabularies={name: dataclasses.asdict(info) for name, info in infos.items()},
        )
        self._commit(out)

    def _commit(self, out: writer.DatasetWriter) -> None:
        for name in ("spool", "shuffle", "runs"):
            path = os.path.join(self._work, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)
        out.finish()

    def _how_it_was_made(self, spool: Spool, plan: Plan) -> dict[str, Any]:
        return how_it_was_made(
            self._format,
            self._options,
            self._source.names(),
            rows_read=spool.rows,
            rows_left_out_for_tuning=spool.rows - plan.end,
            negative_rows_dropped=plan.dropped,
            bad_rows_skipped=self._skipped,
        ) | ({"vocabulary_of": self._known.fingerprint} if self._known else {})


def _counted(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} lines for their {kind}" for kind, count in sorted(skipped.items()))
