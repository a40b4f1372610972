import numpy as np
import pytest

from tf_dlrm.models import DCN, DCNConfig


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_the_closed_form(parts, dense):
    # The dims of the tables may differ.
    config = DCNConfig(dense, parts.features(4, 2, 3), cross_layers=3, top_mlp=(8, 5, 1))
    model = parts.randomized(DCN(config))
    inputs = parts.inputs(dense)
    x0 = np.hstack([*([inputs["dense"]] if dense else []), *parts.vectors(model, inputs)])
    x = x0
    for cross in (model.cross_0, model.cross_1, model.cross_2):
        x = x0 * (x @ cross.kernel.numpy()) + cross.bias.numpy() + x
    expected = x @ model.cross_logit.kernel.numpy() + parts.mlp(model.top_mlp, x0)
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-3, atol=1e-3)


def test_the_default_is_that_of_the_papers(parts):
    config = DCNConfig(3, parts.features(4))
    assert (config.cross_layers, config.top_mlp) == (6, (512, 256, 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cross_layers": 0}, "cross_layers must be a whole number of at least 1, but is 0"),
        ({"top_mlp": (8, 2)}, r"top_mlp must end in 1, the logit, but is \(8, 2\)"),
        ({"dense_features": -1}, "dense_features must be a whole number of at least 0"),
    ],
)
def test_bad_configs_are_sentences(parts, changes, words):
    with pytest.raises(ValueError, match=words):
        DCNConfig(**{"dense_features": 3, "features": parts.features(4), **changes})
