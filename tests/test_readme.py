import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


# What the example about tables in memory is given; the label follows from one of two columns.
_FRAMES = r"""
import numpy as np
import pyarrow as pa
toml = 'format = "csv"\nlabel = "y"\n[categorical]\na = "text"\nb = "integer"'
open("clicks.toml", "w").write(toml)
a, b = np.random.default_rng(1).integers(0, 8, (2, 20_000))
table = pa.table({"y": (a < 4).astype(int), "a": a.astype(str), "b": b})
frame, other_frame = table.slice(0, 18_000), table.slice(18_000)
"""


@pytest.mark.process
def test_tables_in_memory_become_a_model(tmp_path):
    example = _FRAMES + _examples()[0]
    example += (
        "\nassert [data.rows(split) for split in ('train', 'evaluation')] == [18_000, 2_000]\n"
        "sizes = [f.table.vocabulary_size for f in model.config.features]\n"
        "assert sizes == [9, 9], sizes\n"
        # Nine steps teach little; more of the same do.
        "history = model.fit(data.dataset('train', 256, shuffle_seed=1, epochs=5), verbose=0)\n"
        "assert history.history['loss'][-1] < 0.4, history.history\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", example],
        env=os.environ
        | {
            "TF_USE_LEGACY_KERAS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(README.parent),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.process
@pytest.mark.parametrize("legacy_keras", ["0", "1"])
def test_the_python_example_runs(legacy_keras):
    example = _examples()[1]
    if legacy_keras == "1":
        example = example.replace("import keras\n", "import tf_keras as keras\n")
    example += (
        "\nlosses = model.history.history['loss']\n"
        "assert losses[-1] < 0.9 * losses[0], losses\n"
        "assert config.features[0].table.vocabulary_size == 10_000\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", example],
        env=os.environ | {"TF_USE_LEGACY_KERAS": legacy_keras, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.process
def test_a_model_of_ones_own_learns_in_keras_3():
    example = _examples()[2]
    lines = example.split("\n\nrng")[0].splitlines()
    assert len(lines) <= 25
    example = example.replace("model.fit(", "history = model.fit(")
    example += (
        "\nlosses = history.history['loss']\n"
        "assert keras.__version__.startswith('3.'), keras.__version__\n"
        "assert losses[-1] < 0.6 * losses[0], losses\n"
        "(layer,) = [l for l in model.layers if isinstance(l, EmbeddingCollection)]\n"
        "parts = ('quotient', 'remainder')\n"
        "assert set(layer.tables) == {f'{name}.{part}' for name in names for part in parts}\n"
        "fresh = EmbeddingCollection(features)\n"
        "fresh.build()\n"
        "for name in layer.tables:\n"
        "    moved = layer.tables[name].read_rows() - fresh.tables[name].read_rows()\n"
        "    assert np.abs(moved).max() > 0.01, name\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", example],
        env=os.environ | {"TF_USE_LEGACY_KERAS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def _examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_every_flag_file_is_in_the_readme_and_the_other_way_round():
    files = {path.name for path in (README.parent / "flags").glob("*.flags")}
    assert set(re.findall(r"`(\w+\.flags)`", README.read_text())) == files


def _commands():
    """Flags by the module of this project that the README's command lines give them to."""
    text = README.read_text().replace("\\\n", " ")
    found = {}
    for module, rest in re.findall(r"python -m (tf_dlrm\.\w+)((?: [^`\s#&|]+)*)", text):
        own, _, inner = rest.partition(" -- ")
        found.setdefault(module, set()).update(re.findall(r" --(\w+)", own))
        found.setdefault("tf_dlrm.train", set()).update(re.findall(r" --(\w+)", f" {inner}"))
    return found


def test_every_flag_of_a_command_exists():
    commands = _commands()
    assert {f"tf_dlrm.{name}" for name in ("train", "evaluate", "export", "launch")} <= set(
        commands
    )
    assert "distribution" in commands["tf_dlrm.train"]  # after the launcher's --
    for module, names in commands.items():
        # Which does not start TensorFlow.
        command = [sys.executable, "-m", module, "--helpfull"]
        text = subprocess.run(command, cwd=README.parent, capture_output=True, text=True).stdout
        known = set(re.findall(r"--(?:\[no\])?(\w+)", text))
        assert names - known == set(), module
