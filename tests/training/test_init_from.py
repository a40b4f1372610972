"""Runs that begin with what another run has learnt, on data with further values."""

import csv
import dataclasses
import io
import random
import re

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import stored_features, tables_of
from tf_dlrm.errors import UserError
from tf_dlrm.training.build import build_model
from tf_dlrm.training.checkpoints import checkpoint_folder
from tf_dlrm.training.options.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)
from tf_dlrm.training.run import train
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress

_TOML = """
format = "csv"
label = "y"
[dense]
x = "standardise"
[categorical]
city = "text"
item = "integer"
small = {kind = "integer", vocabulary_size = 5}
"""


_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets: old rows, and new rows with the old ids and further ones."""
    folder = tmp_path_factory.mktemp("data")

    def make(name, items, toml=_TOML, **options):
        rng = random.Random(name)
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["y", "x", "city", "item", "small"])
            for _ in range(300):
                item = rng.choice(items)
                row = (item % 2, rng.random(), f"{name}{item % 3}", item, rng.randrange(5))
                writer.writerow(row)
        output = str(folder / name)
        format = TabularFormat(from_toml(toml, "t.toml"))
        how = Options(**options)
        convert([str(folder / f"{name}.csv")], output, format, how, Progress(io.StringIO()), 1)
        return output

    old = make("old", range(20))
    made = DatasetInfo.load(old).how_it_was_made["format"]["description"]
    same = _TOML.replace('x = "standardise"', re.search("x = {.*}", made)[0])
    more = {"vocabulary_of": old, "extend_vocabulary": True}
    return {
        "old": old,
        "new": make("new", range(10, 40), **more),
        "other": make("o", range(30)),
        "ids": make("i", range(30), same),
    }


def _config(data_dir, model_dir, **changes):
    optimizer = changes.pop("optimizer", "adagrad")
    run = RunOptions(model_dir=str(model_dir), batch_size=50, seed=3, tensorboard=False)
    return TrainingConfig(
        DataOptions(data_dir=data_dir),
        ModelOptions(
            embedding_dim=4, bottom_mlp=(4,), top_mlp=(4, 1), ensemble_size=changes.pop("size", 1)
        ),
        OptimizerOptions(
            embedding_optimizer=optimizer,
            embedding_initial_accumulator=0.25 if "adagrad" in optimizer else 0.0,
        ),
        dataclasses.replace(run, **changes),
        DistributionOptions(),
    )


def _tensors(model_dir):
    reader = tf.train.load_checkpoint(checkpoint_folder(str(model_dir)))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize(
    ("optimizer", "size"), [("adagrad", 1), ("rowwise_adagrad", 2), ("lazy_adam", 1)]
)
def test_old_rows_stay_and_new_ones_are_fresh(data, tmp_path, optimizer, size):
    both = {"optimizer": optimizer, "size": size}
    first = train(_config(data["old"], tmp_path / "a", **both))
    # Nothing is left to train, so the new checkpoint is what the run began with.
    both |= {"init_from": str(tmp_path / "a")}
    began = _config(data["new"], tmp_path / "b", train_steps=first["step"], **both)
    train(began)
    before, after = _tensors(tmp_path / "a"), _tensors(tmp_path / "b")
    schema = DatasetInfo.load(data["new"]).schema
    fresh = build_model(began.model, began.optimizer, schema, 3, None)
    members = [fresh] if size == 1 else fresh.members
    tables = tables_of(stored_features(members[0].config.features))
    old_schema = DatasetInfo.load(data["old"]).schema
    grown = {
        new.name: (old.vocabulary_size, new.vocabulary_size)
        for old, new in zip(old_schema.categorical, schema.categorical, strict=True)
    }
    assert [new - old for old, new in grown.values()] == [3, 20, 0]
    checked = 0
    for key in before:
        *_, name = key.split("/")
        table = next((t for t in tables if f"table:{t.name}/" in key), None)
        if key in ("position/epoch/" + _VALUE, "position/row/" + _VALUE):
            assert after[key] == 0
        elif table is None:
            # The steps, the MLPs with their slots, and what a checkpoint says of itself.
            assert np.array(after[key]).tobytes() == np.array(before[key]).tobytes(), key
        else:
            checked += 1
            old, new = grown[table.name]
            assert before[key].shape[0] == old and after[key].shape[0] == new
            assert after[key][:old].tobytes() == before[key].tobytes(), key
            member = members[int(key.split("member_")[1][0]) if size > 1 else 0]
            if name == "rows":
                rows = member.embeddings.tables[table.name].read_rows().numpy()
                assert after[key][old:].tobytes() == rows[old:].tobytes()
            else:
                first_value = 0.0 if optimizer == "lazy_adam" else 0.25
                assert (after[key][old:] == np.float32(first_value)).all()
    assert checked == size * 3 * (1 + len(tables[0].optimizer.slots))
    goes_on = train(dataclasses.replace(began, run=dataclasses.replace(began.run, train_steps=0)))
    assert goes_on["step"] == first["step"] + 6  # 258 rows in batches of 50


def test_what_cannot_be_gone_on_with(data, tmp_path):
    train(_config(data["old"], tmp_path / "a", train_steps=2))

    def refused(sentence, **changes):
        given = {"model_dir": tmp_path / "b", "init_from": str(tmp_path / "a")} | changes
        config = _config(**given)
        with pytest.raises(UserError, match=sentence):
            config.validate()
            train(config)

    refused(r"Feature x is \(\(x - ", data_dir=data["other"])
    refused("The ids of city, item stand for other values", data_dir=data["ids"])
    new = data["new"]
    refused("--embedding_optimizer=adagrad, but this one has", data_dir=new, optimizer="sgd")
    refused("holds no training run", data_dir=data["new"], init_from=str(tmp_path / "none"))
    refused("--init_from needs --model_dir", data_dir=data["new"], model_dir="")
