"""Files of Keras models that version 3b157f7 wrote: read, used and trained as that version did.

`old_models/make.py` made them, where it says how, by that version in Keras 2 and in Keras 3.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

from tf_dlrm.keras_api import keras, uses_legacy_keras

FOLDER = pathlib.Path(__file__).parent / "old_models"
_SPEC = importlib.util.spec_from_file_location("old_models_make", FOLDER / "make.py")
old_models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(old_models)


def _by_weights(folder):
    model = old_models.build(seed=9)
    model.load_weights(folder / "model.weights.h5")
    return model


def _by_model(folder):
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.parametrize("load", [_by_model, _by_weights])
def test_an_old_model_goes_on_as_it_would_have(load):
    folder = FOLDER / ("keras2" if uses_legacy_keras() else "keras3")
    expected = np.load(folder / "expected.npz")
    model = load(folder)
    found = {f"before/{name}": value for name, value in old_models.state_of(model).items()}
    old_models.train(model)
    found |= {f"after/{name}": value for name, value in old_models.state_of(model).items()}
    assert set(found) == set(expected.files)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    moved = np.abs(expected["after/outputs"] - expected["before/outputs"])
    assert moved.max() > 0.01
