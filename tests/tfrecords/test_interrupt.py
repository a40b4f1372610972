"""How commands end that are interrupted."""

import pytest

_INPUT = "userId,movieId,timestamp\n1,2,3\n1,3,4\n2,2,1\n2,4,2\n"


def _interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "interrupted"),
    [
        (["random", "--output_dir=out", "--tables=9"], "tfrecords.lock.Lock.__init__"),
        (["leave_one_out", "--input=in", "--output_dir=out"], "tfrecords.lock.Lock.__init__"),
        (["synthetic", "write", "--distribution_dir=in"], "tfrecords.progress.Progress.__init__"),
        (
            ["examples", "export", "--dataset=in", "--output_dir=out"],
            "tfrecords.reader.RecordSource.__init__",
        ),
        (["inspect", "in"], "tfrecords.dataset_info.DatasetInfo.load_description"),
    ],
    ids=lambda value: value[0],
)
def test_an_interrupt_ends_with_a_sentence(
    run_command, monkeypatch, tmp_path, arguments, interrupted
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text(_INPUT)
    monkeypatch.setattr(interrupted, _interrupt)
    done = run_command(f"tfrecords.{arguments[0]}", *arguments[1:])
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith(": stopped by SIGINT.")
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()
