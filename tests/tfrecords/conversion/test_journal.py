"""What a conversion has finished: which entries count, and of which conversions."""

import dataclasses

from tfrecords.conversion.journal import Journal
from tfrecords.conversion.options import Options


def test_what_stands_behind_a_broken_line_is_gone(tmp_path):
    def entries(number):
        journal = Journal(str(tmp_path), "same")
        found = [entry["number"] for entry in journal.entries("piece")]
        journal.add("piece", number=number)
        journal.close()
        return found

    assert [entries(number) for number in (1, 2, 3)] == [[], [1], [1, 2]]
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes().replace(b'"number":2', b'"number?:2'))
    # The line that is written in its place is as long, so that the third would follow it.
    assert [entries(number) for number in (4, 5)] == [[1], [1, 4]]


def test_work_is_of_every_option_but_the_memory():
    changes = {"min_count": 2, "vocabulary": "all", "split": "0.5", "tuning": True}
    changes |= {"shuffle": "day", "seed": 1, "reference": True, "on_bad_row": "skip"}
    changes |= {"rows_per_record": 7, "keep_negatives": 0.5, "multi_hot": (1, 2)}
    changes |= {"multi_hot_distribution": "pareto"}
    # The last one is a path; the content of what is there is said elsewhere.
    others = {"memory_gb", "on_odd_labels", "held_out_files", "extend_vocabulary", "vocabulary_of"}
    assert {*changes, *others} == {field.name for field in dataclasses.fields(Options)}
    files = Options(split="files", held_out_files=(1, 1)).describe()
    assert files != Options(split="files", held_out_files=(2, 0)).describe()
    more = Options(vocabulary_of="a", extend_vocabulary=True).describe()
    assert more != Options(vocabulary_of="a").describe() == Options().describe()
    for name, value in changes.items():
        assert Options(**{name: value}).describe() != Options().describe(), name
    assert Options(memory_gb=1.0, on_odd_labels="accept").describe() == Options().describe()
