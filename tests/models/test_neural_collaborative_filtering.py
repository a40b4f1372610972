import numpy as np
import pytest

from tf_dlrm.models import NeuMF, NeuMFConfig


@pytest.mark.parametrize(
    ("gmf_dim", "dims", "top_mlp"),
    [(4, (4, 4), ()), (0, (4, 5), (8, 1)), (2, (5, 6), (8, 3, 1))],
    ids=["gmf", "mlp", "neumf"],
)
def test_equals_the_closed_form(parts, gmf_dim, dims, top_mlp):
    model = parts.randomized(NeuMF(NeuMFConfig(0, parts.features(*dims), gmf_dim, top_mlp)))
    inputs = parts.inputs(features=2)
    user, item = parts.vectors(model, inputs)
    expected = np.zeros((6, 1))
    if gmf_dim:
        expected += (user[:, :gmf_dim] * item[:, :gmf_dim]) @ model.gmf.kernel.numpy()
    if top_mlp:
        rest = np.hstack([user[:, gmf_dim:], item[:, gmf_dim:]])
        expected += parts.mlp(model.top_mlp, rest)
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-5)
    weights = [w for w in model.trainable_variables if len(w.shape)]
    assert len(weights) == bool(gmf_dim) + 2 * len(top_mlp)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, (4, 4, 4), 2, (8, 1)), "NeuMF reads two categorical features"),
        ((1, (4, 4), 2, (8, 1)), "NeuMF reads two categorical features"),
        ((0, (4, 5), 5, ()), r"no more than the tables' dims, \[4, 5\], but is 5"),
        ((0, (4, 4), -1, (1,)), "gmf_dim must be a whole number of at least 0, but is -1"),
        ((0, (4, 4), 4, (8, 1)), r"top_mlp must be empty where gmf_dim, 4, leaves no columns"),
        ((0, (4, 4), 2, ()), "top_mlp must end in 1"),
    ],
)
def test_bad_configs_are_sentences(parts, values, words):
    dense, dims, *others = values
    with pytest.raises(ValueError, match=words):
        NeuMFConfig(dense, parts.features(*dims), *others)
