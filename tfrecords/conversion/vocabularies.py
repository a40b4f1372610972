"""Makes the vocabularies of a conversion, or takes those that were made before."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tfrecords.conversion import meanings
from tfrecords.conversion.counting import Counter
from tfrecords.conversion.formats import InputColumn, InputFormat
from tfrecords.conversion.journal import Journal
from tfrecords.conversion.known_vocabularies import KnownVocabularies
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import MemoryTooSmall, Options
from tfrecords.conversion.plan import Plan
from tfrecords.conversion.vocabulary import Vocabulary
from tfrecords.conversion.vocabulary_files import read_vocabulary, write_vocabulary
from tfrecords.dataset_info import VocabularyInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress

# A key and an id of 32 bits.
_VALUE_BYTES = 12


def known_vocabularies(format: InputFormat, options: Options) -> KnownVocabularies | None:
    """The vocabularies of `--vocabulary_of`; None where it is not given.

    Raises:
        DataError: See `KnownVocabularies`.
    """
    if not options.vocabulary_of:
        return None
    own = meanings.of_data_set({"format": format.describe(), "options": options.describe()})
    counted = [column.name for column in format.columns if column.vocabulary_size is None]
    return KnownVocabularies(options.vocabulary_of, counted, own)


class Vocabularies:
    """Those of all columns of a conversion.

    Args:
        work: The work folder.
        journal: What is finished.
        columns: The categorical columns of the input.
        options: How to convert.
        known: The vocabularies of another data set, whose ids are taken; None for none.
    """

    def __init__(
        self,
        work: str,
        journal: Journal,
        columns: Sequence[InputColumn],
        options: Options,
        known: KnownVocabularies | None,
    ) -> None:
        self._work = work
        self._journal = journal
        self._columns = columns
        self._options = options
        self._known = known

    def make(
        self, counter: Counter | None, plan: Plan, memory: Memory, progress: Progress
    ) -> tuple[list[Vocabulary], dict[str, VocabularyInfo]]:
        """The vocabulary of each column, and what `dataset.json` says of those that are counted.

        Args:
            counter: Counts the values; None where they need not be counted.
            plan: Which rows count.
            memory: How much there is.
            progress: Told what has been done, and what is used again.

        Raises:
            MemoryTooSmall: If the vocabularies need more memory than is theirs.
        """
        names = [column.name for column in self._columns if column.vocabulary_size is None]
        entries = self._journal.entries("vocabularies")
        columns: Iterable[tuple[str, np.ndarray | None]]
        infos: dict[str, VocabularyInfo] = {}
        if entries:
            progress.say("Using the vocabularies that were made already.")
            before = entries[0]["columns"]
            infos = {name: VocabularyInfo(**value) for name, value in before.items()}
            columns = ((name, self._read(infos[name])) for name in names)
        elif counter is not None:
            columns = self._counted(counter, plan, memory, progress)
        else:
            assert self._known is not None  # for mypy
            known = self._known.columns
            columns = ((name, known[name].keys) for name in names)
        made: dict[str, Vocabulary] = {}
        reserved = self._options.reserved
        for name, keys in columns:
            if keys is None:
                made.clear()  # there will be an error, and memory is wanted until then
                continue
            if not entries:
                infos[name] = write_vocabulary(self._work, name, keys, reserved)
            made[name] = Vocabulary.in_order(keys, reserved)
        if not entries:
            self._journal.add(
                "vocabularies",
                columns={name: dataclasses.asdict(info) for name, info in infos.items()},
            )
        vocabularies = [
            made[column.name]
            if column.vocabulary_size is None
            else Vocabulary(None, None, column.vocabulary_size)
            for column in self._columns
        ]
        return vocabularies, infos

    def _counted(
        self, counter: Counter, plan: Plan, memory: Memory, progress: Progress
    ) -> Iterator[tuple[str, np.ndarray | None]]:
        """The keys of each column in the order of their ids; None where memory is too small."""
        progress.begin("Counting values", plan.counted)
        counter.count_rest(plan)
        most = memory.vocabulary_bytes // _VALUE_BYTES
        sizes: dict[str, int] = {}
        for number, column in enumerate(self._columns):
            if column.vocabulary_size is not None:
                continue
            new = counter.finish(number, max(0, most - sum(sizes.values())))
            sizes[column.name] = new.values
            if new.keys is None or new.ids is None:
                # The sizes of the others are still wanted, for the message.
                yield column.name, None
                continue
            ordered: np.ndarray = np.empty(new.values, np.uint64)
            ordered[new.ids] = new.keys
            if self._known is not None:
                before = self._known.columns[column.name].keys
                ordered = np.concatenate([before, ordered[~np.isin(ordered, before)]])
            yield column.name, ordered
        if sum(sizes.values()) > most:
            raise MemoryTooSmall(_too_small(sizes, memory))
        shutil.rmtree(os.path.join(self._work, "runs"))
        progress.end(plan.counted)

    def _read(self, info: VocabularyInfo) -> np.ndarray:
        keys = read_vocabulary(self._work, info)
        if keys is None:
            raise DataError(
                f"The file {os.path.join(self._work, info.path)} of unfinished work is not what "
                "was written. Run the same command again, which begins anew."
            )
        return keys


def _too_small(sizes: dict[str, int], memory: Memory) -> str:
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    total = sum(sizes.values())
    needed = total * _VALUE_BYTES / memory.vocabulary_bytes * memory.gigabytes
    return (
        f"The vocabularies have {total:,} values (the largest: "
        f"{', '.join(f'{name} {size:,}' for name, size in largest)}), which takes about "
        f"{total * _VALUE_BYTES / 1e9:.2f} GB, more than the half of --memory_gb="
        f"{memory.gigabytes:g} that is theirs. Use --memory_gb={needed + 0.01:.2f} or "
        "more (the parsed rows are kept for that), a higher --min_count, or --max_index_range, "
        "or convert on a larger machine or with tfrecords.convert_beam."
    )
