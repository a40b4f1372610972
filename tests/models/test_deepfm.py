import numpy as np
import pytest

from tf_dlrm.models import DeepFM, DeepFMConfig


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_the_closed_form(parts, dense):
    config = DeepFMConfig(dense, parts.features(5, 5, 5), top_mlp=(8, 4, 1))
    model = parts.randomized(DeepFM(config))
    inputs = parts.inputs(dense)
    fields = np.stack(parts.vectors(model, inputs), 1)
    if dense:
        numbers = inputs["dense"][:, :, None] * model.dense_vectors.kernel.numpy()
        fields = np.concatenate([numbers, fields], 1)
    vectors = fields[:, :, 1:]
    products = np.einsum("bid,bjd->bij", vectors, vectors)
    expected = fields[:, :, 0].sum(1) + np.tril(products, -1).sum((1, 2))
    expected = expected[:, None] + parts.mlp(model.top_mlp, vectors.reshape(len(vectors), -1))
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-4)


def test_bad_configs_are_sentences(parts):
    with pytest.raises(ValueError, match="top_mlp must end in 1"):
        DeepFMConfig(3, parts.features(5, 5), top_mlp=(8,))
    with pytest.raises(ValueError, match="tables of one dim of at least 2"):
        DeepFMConfig(3, parts.features(5, 4), top_mlp=(1,))
