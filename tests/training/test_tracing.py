"""Nothing is rewritten on its way into a graph."""

import pytest
from tensorflow.python.autograph.impl import api  # no public name tells what was rewritten

from tf_dlrm.training.run import train


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="one_device"),
        pytest.param(
            {"distribution": "mirrored", "virtual_devices": 2},
            id="mirrored",
            marks=pytest.mark.slow,
        ),
        pytest.param({"distribution": "tpu", "tpu": "host"}, id="tpu", marks=pytest.mark.slow),
    ],
)
def test_autograph_rewrites_nothing_of_training_evaluation_and_export(
    tiny, tmp_path, monkeypatch, request, changes
):
    # Rows and exports are made alike for all: each is looked at once.
    if not changes:
        request.getfixturevalue("rows_as_they_are_made")
    elif changes["distribution"] == "mirrored":
        changes = changes | {"export_dir": str(tmp_path / "export")}
    rewritten = []
    rewrite = api._convert_actual

    def recorded(entity, *others):
        rewritten.append(f"{entity.__module__}.{entity.__qualname__}")
        return rewrite(entity, *others)

    monkeypatch.setattr(api, "_convert_actual", recorded)
    config = tiny(train_steps=2, **changes)
    assert train(config)["step"] == 2
    # TensorFlow's own wrapper of a signature is, while saving.
    assert [name for name in rewritten if not name.startswith("tensorflow.")] == []
