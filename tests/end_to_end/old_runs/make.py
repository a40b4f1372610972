"""Makes the folders beside it: python make.py CHECKOUT, of the version whose files shall be kept.

Each NAME.flags, with NAME.plan.json if there is one, becomes a folder NAME: the model directory as
it is after `FIRST` steps, without its lock. Beside it, `expected.npz` has what came of that: the
numbers in the checkpoint that the same command left `LAST - FIRST` steps later; its metrics; and of
an export of the first checkpoint, the numbers as they are stored and the probabilities of the rows
of `inputs_of`.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
FIRST, LAST = 10, 26
ROWS = 50
METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration")


def flags_of(name: str) -> list[str]:
    """Returns the flags of a run, but for its folder and its end."""
    plan = HERE / f"{name}.plan.json"
    return [f"--flagfile={HERE / name}.flags", *([f"--plan={plan}"] if plan.exists() else [])]


def numbers_of(prefix: str) -> dict[str, np.ndarray]:
    """Returns the numbers of a checkpoint, or of a SavedModel's variables, by their keys."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    found = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    return {key: value for key, value in found.items() if isinstance(value, np.ndarray | np.number)}


def inputs_of(signature, run: dict) -> dict:
    """Returns the same `ROWS` rows always, with one to three ids where there may be several."""
    import tensorflow as tf

    rng = np.random.default_rng(7)
    inputs = {}
    for column in run["schema"]["categorical"]:
        name, size, hotness = (column[key] for key in ("name", "vocabulary_size", "hotness"))
        if hotness is None:
            lengths = rng.integers(1, 4, ROWS)
            inputs[f"{name}_row_lengths"] = lengths
            inputs[name] = rng.integers(0, size, lengths.sum())
        else:
            inputs[name] = rng.integers(0, size, [ROWS] if hotness == 1 else [ROWS, hotness])
    specs = signature.structured_input_signature[1]
    inputs["dense"] = rng.random([ROWS, len(run["schema"]["dense"])])
    if set(specs) != set(inputs):
        raise ValueError(f"The signature has {specs}, but there are {set(inputs)}.")
    return {name: tf.cast(value, specs[name].dtype) for name, value in inputs.items()}


def main() -> None:
    checkout = pathlib.Path(sys.argv[1]).resolve()

    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, cwd=checkout, text=True, stdout=subprocess.PIPE, check=True)
        return done.stdout

    for flags in sorted(HERE.glob("*.flags")):
        folder = HERE / flags.stem
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as at:
            train = ["tf_dlrm.train", *flags_of(flags.stem), f"--model_dir={at}/run"]
            run(*train, f"--train_steps={FIRST}")
            shutil.copytree(f"{at}/run", folder, ignore=shutil.ignore_patterns(".lock"))
            described = (folder / "run.json").read_text().replace(at, "/tmp")
            (folder / "run.json").write_text(described)
            run("tf_dlrm.export", f"--model_dir={at}/run", f"--export_dir={at}/export")
            result = json.loads(run(*train, f"--train_steps={LAST}").splitlines()[-1])
            import tensorflow as tf

            signature = tf.saved_model.load(f"{at}/export").signatures["serving_default"]
            answers = signature(**inputs_of(signature, json.loads(described)))
            np.savez_compressed(
                folder / "expected.npz",
                **{
                    f"trained/{k}": v
                    for k, v in numbers_of(f"{at}/run/checkpoints/checkpoint-{LAST}").items()
                },
                **{
                    f"exported/{k}": v
                    for k, v in numbers_of(f"{at}/export/variables/variables").items()
                },
                **{f"metrics/{name}": result[name] for name in METRICS},
                answers=answers["probability"],
            )


if __name__ == "__main__":
    main()
