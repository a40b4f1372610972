import numpy as np
import pytest

from tf_dlrm.models import DLRMDCNv2, DLRMDCNv2Config


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_the_closed_form(parts, dense):
    bottom = (7, 4) if dense else ()
    config = DLRMDCNv2Config(
        dense, parts.features(4, 4, 4), bottom, (8, 1), cross_layers=2, cross_rank=3
    )
    model = parts.randomized(DLRMDCNv2(config))
    inputs = parts.inputs(dense)
    vectors = parts.vectors(model, inputs)
    x0 = np.hstack([parts.mlp(model.bottom_mlp, inputs["dense"]), *vectors] if dense else vectors)
    x = x0
    for cross in (model.cross_0, model.cross_1):
        projected = x @ cross.kernel_v.numpy() @ cross.kernel_u.numpy()
        x = x0 * (projected + cross.bias.numpy()) + x
    np.testing.assert_allclose(model(inputs), parts.mlp(model.top_mlp, x), rtol=1e-3, atol=1e-3)


def test_the_default_is_mlperfs(parts):
    config = DLRMDCNv2Config(13, parts.features(4), (8, 4), (8, 1))
    assert (config.cross_layers, config.cross_rank) == (3, 512)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cross_layers": 0}, "cross_layers must be a whole number of at least 1, but is 0"),
        ({"cross_rank": 0.5}, "cross_rank must be a whole number of at least 1, but is 0.5"),
        ({"bottom_mlp": ()}, "if and only if there are dense features"),
        ({"top_mlp": (8,)}, "top_mlp must end in 1"),
    ],
)
def test_bad_configs_are_sentences(parts, changes, words):
    values = {"dense_features": 3, "bottom_mlp": (8,), "top_mlp": (1,)}
    with pytest.raises(ValueError, match=words):
        DLRMDCNv2Config(**{**values, "features": parts.features(4), **changes})
