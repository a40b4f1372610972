import numpy as np
import pytest

from tf_dlrm.models import XDeepFM, XDeepFMConfig


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_the_closed_form(parts, dense):
    config = XDeepFMConfig(dense, parts.features(5, 5, 5), (8, 4, 1), interaction_units=(4, 2))
    model = parts.randomized(XDeepFM(config))
    inputs = parts.inputs(dense)
    fields = np.stack(parts.vectors(model, inputs), 1)
    if dense:
        numbers = inputs["dense"][:, :, None] * model.dense_vectors.kernel.numpy()
        fields = np.concatenate([numbers, fields], 1)
    x0 = x = fields[:, :, 1:]
    sums = []
    for k in range(2):
        kernel = getattr(model.interaction, f"kernel_{k}").numpy()
        kernel = kernel.reshape(x.shape[1], x0.shape[1], -1)
        x = np.einsum("bid,bjd,ijh->bhd", x, x0, kernel)
        sums.append(x.sum(2))
    expected = np.hstack(sums) @ model.interaction_logit.kernel.numpy()
    expected += fields[:, :, 0].sum(1)[:, None] + parts.mlp(model.top_mlp, x0.reshape(len(x0), -1))
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-3, atol=1e-3)


def test_bad_configs_are_sentences(parts):
    with pytest.raises(ValueError, match="top_mlp must end in 1"):
        XDeepFMConfig(3, parts.features(5, 5), top_mlp=(8,))
    with pytest.raises(ValueError, match="units must be one or more whole numbers"):
        XDeepFM(XDeepFMConfig(3, parts.features(5, 5), top_mlp=(1,), interaction_units=(0,)))
