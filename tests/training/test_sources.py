import dataclasses
import inspect
import io
import json
import socket

import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.training import sources
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.run import train
from tf_dlrm.training.sources import mean_hotness, open_source
from tfrecords.data_service import start_dispatcher, start_worker
from tfrecords.progress import Progress
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.profile_dataset import ProfileOptions, profile_dataset
from tfrecords.traces.source import SyntheticSource
from tfrecords.writer import DatasetWriter

_RANDOM = DataOptions(
    data="random",
    random_tables=("40", "30", "3"),
    random_max_vocabulary=35,
    random_dense_features=2,
    random_train_rows=500,
    random_evaluation_rows=300,
    random_seed=4,
)


@pytest.mark.parametrize(
    ("flags", "hotness", "arguments"),
    [
        ({}, 1, {}),
        (
            {"random_ids": "normal", "random_dense": "normal", "shuffle_window_rows": 99},
            1,
            {"ids": "normal", "dense": "normal", "shuffle_window_rows": 99},
        ),
        ({"random_alpha": 2.0, "random_label": "rounded"}, 1, {"alpha": 2.0, "label": "rounded"}),
        (
            {"random_indices_per_lookup": 3, "random_repeats": False},
            3,
            {"repeats": False, "indices_per_lookup": 3},
        ),
        (
            {"random_indices_per_lookup": 5, "random_indices_per_lookup_fixed": False},
            None,
            {"indices_per_lookup": 5},
        ),
    ],
)
def test_random_flags_become_the_source_that_they_name(
    rows_as_they_are_made, monkeypatch, flags, hotness, arguments
):
    options = dataclasses.replace(_RANDOM, **flags)
    options.validate()
    signature = inspect.signature(RandomSource)
    monkeypatch.setattr(sources, "RandomSource", signature.bind)
    given = open_source(options).arguments
    assert given == {
        "schema": random_schema((35, 30, 3), 2, hotness),
        "rows": {"train": 500, "evaluation": 300},
        "seed": 4,
        "alpha": 1.05,
        "label": "teacher",
        "shuffle_window_rows": 262144,
        "ids": "power_law",
        "repeats": True,
        "indices_per_lookup": 1,
        "dense": "uniform",
        **arguments,
    }


@pytest.fixture(scope="module")
def twin_dir(tmp_path_factory):
    """A folder of distributions of a data set with a fixed and a ragged column."""
    tmp_path = tmp_path_factory.mktemp("twin")
    fixed, ragged = CategoricalColumn("C1", 40), CategoricalColumn("C2", 30, None)
    schema = Schema(("a", "b", "c", "d"), (fixed, ragged))
    original = RandomSource(schema, {"train": 900}, seed=1, indices_per_lookup=3)
    with DatasetWriter(str(tmp_path / "original"), schema, {}, 300) as writer:
        for features, label in original.batches("train", 300):
            bags = features["C2"]
            arrays = {"dense": features["dense"].numpy(), "C1": features["C1"].numpy()}
            arrays["C2"] = (bags.values.numpy(), bags.row_lengths().numpy())
            writer.write("train", arrays, label.numpy())
            writer.write("evaluation", arrays, label.numpy())
    folder, progress = str(tmp_path / "twin"), Progress(io.StringIO())
    profile_dataset(str(tmp_path / "original"), "train", folder, ProfileOptions(), progress)
    return folder


@pytest.mark.parametrize(
    ("flags", "rows"),
    [({}, (900, 900)), ({"synthetic_train_rows": 500, "synthetic_seed": 7}, (500, 900))],
)
def test_synthetic_flags_become_the_source_that_they_name(twin_dir, flags, rows):
    options = DataOptions(data="synthetic", synthetic_dir=twin_dir, **flags)
    options.validate()
    source = open_source(options)
    expected = SyntheticSource(
        twin_dir, {"train": rows[0], "evaluation": rows[1]}, flags.get("synthetic_seed", 0)
    )
    assert (source.rows("train"), source.rows("evaluation")) == rows
    assert source.fingerprint == expected.fingerprint
    assert type(source) is SyntheticSource


@pytest.mark.slow
def test_a_twin_trains_and_resumes(tiny, tmp_path, twin_dir, copy_as_of):
    options = {"data": "synthetic", "synthetic_dir": twin_dir, "checkpoint_every_steps": 5}
    whole = tiny(**options, model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    assert expected["step"] == 9 and expected["evaluation_examples"] == 900
    copy_as_of(whole.run.model_dir, str(tmp_path / "run"), 5)
    result = train(tiny(**options))
    for name in ("auc", "log_loss", "calibration"):
        assert result[name] == expected[name]


def test_training_through_a_data_service_gives_the_same_numbers(tiny, tmp_path):
    dispatcher = start_dispatcher(0)
    worker = start_worker(dispatcher.target.split("://")[1], 0)
    steps = {"epochs": 2, "eval_every_steps": 10}
    train(tiny(**steps, model_dir=str(tmp_path / "plain")))
    # Stopped in the middle of an epoch, and resumed.
    served = {"data_service": dispatcher.target, "model_dir": str(tmp_path / "served")}
    train(tiny(**steps, **served, train_steps=27))
    train(tiny(**steps, **served))
    plain, through = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "served")
    )
    for line in (*plain, *through):
        line.pop("time", None)
    assert plain[-1]["step"] == 40
    through = [line for line in through if line["step"] != 27]
    assert through == plain
    del worker


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data_service": "localhost:5050"}, "--data_service=localhost:5050: The address of a"),
        ({"data": "synthetic", "data_service": "grpc://a:1"}, "--data=synthetic is read in this"),
        (
            {"data": "folder", "data_dir": "s3://a/b", "data_service": "grpc://a:1"},
            "--data_dir=s3://a/b in an object store is read in this process only",
        ),
        ({"data_service": "grpc://localhost:{port}"}, "No tf.data service answers at grpc://"),
    ],
)
def test_data_services_that_cannot_be_used(flags, message):
    with socket.socket() as unheard:
        unheard.bind(("localhost", 0))  # nobody else gets the port, and it does not listen
        address = flags["data_service"].format(port=unheard.getsockname()[1])
        with pytest.raises(UserError, match=message):
            dataclasses.replace(_RANDOM, **flags | {"data_service": address}).validate()


def test_the_mean_hotness_is_that_of_the_rows():
    options = DataOptions(
        data="random",
        random_tables=("50", "60"),
        random_indices_per_lookup=5,
        random_indices_per_lookup_fixed=False,
        random_train_rows=3000,
    )
    source = open_source(options)
    (batch,) = source.batches("train", 3000)
    expected = {name: len(batch[0][name].values) / 3000 for name in ("C1", "C2")}
    assert mean_hotness(source) == expected
    assert 1 < expected["C1"] < 5 and expected["C1"] != expected["C2"]
    fixed = dataclasses.replace(options, random_indices_per_lookup_fixed=True)
    assert mean_hotness(open_source(fixed)) == {"C1": 5.0, "C2": 5.0}


def test_the_mean_hotness_of_a_damaged_data_set_is_an_error(tmp_path):
    folder = tmp_path / "data"
    schema = Schema((), (CategoricalColumn("bag", 9, hotness=None),))
    with DatasetWriter(str(folder), schema) as writer:
        writer.write("train", {"bag": ([1, 2, 3], [1, 2])}, [0.0, 1.0])
    source = open_source(DataOptions(data_dir=str(folder)))
    assert mean_hotness(source) == {"bag": 1.5}
    (path,) = folder.glob("train-*")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"Record 0 of {path} is broken"):
        mean_hotness(source)
