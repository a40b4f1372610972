"""Numbers of twenty digits in flags end in a sentence."""

import pytest

_LARGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("convert_criteo", ["min_count", "seed", "rows_per_record", "max_index_range"]),
        ("convert_criteo", ["memory_gb", "multi_hot"]),
        ("leave_one_out", ["training_negatives", "evaluation_negatives", "passes", "seed"]),
        ("random", ["rows", "evaluation_rows", "max_vocabulary", "dense_features", "seed"]),
        ("random", ["indices_per_lookup"]),
        ("synthetic", ["length", "seed", "table", "worker", "rows", "evaluation_rows"]),
        ("inspect", ["rows", "html_accesses"]),
    ],
)
def test_a_number_of_twenty_digits(tmp_path, run_command, module, flags):
    (tmp_path / "in").write_text("userId,movieId,timestamp\n1,2,3\n1,3,4\n2,2,1\n2,4,2\n")
    given = {
        "synthetic": ["profile", f"--output_dir={tmp_path / 'out'}"],
        "random": [f"--output_dir={tmp_path / 'out'}"],
        "inspect": [str(tmp_path)],
    }.get(module, [f"--input={tmp_path / 'in'}", f"--output_dir={tmp_path / 'out'}"])
    for flag in flags:
        done = run_command(f"tfrecords.{module}", *given, f"--{flag}={_LARGE}")
        said = done.out + done.err
        assert done.code == 1 and f"--{flag}" in said, said
        assert "Traceback" not in said and not (tmp_path / "out").exists()
