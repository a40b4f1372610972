import numpy as np
import pytest

from tf_dlrm.models import FM, FMConfig


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_rendles_sum(parts, dense):
    model = parts.randomized(FM(FMConfig(dense, parts.features(5, 5, 5))))
    inputs = parts.inputs(dense)
    rows = [np.stack(parts.vectors(model, inputs), 1)]
    if dense:
        rows.append(inputs["dense"][:, :, None] * model.dense_vectors.kernel.numpy())
    fields = np.concatenate(rows, 1)
    expected = []
    for example in fields:
        pairs = [(i, j) for i in range(len(example)) for j in range(i)]
        second = sum(example[i, 1:] @ example[j, 1:] for i, j in pairs)
        expected.append(model.bias.numpy() + example[:, 0].sum() + second)
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [(1, 1, 1), (4, 5, 4)])
def test_bad_dims_are_a_sentence(parts, dims):
    with pytest.raises(ValueError, match="tables of one dim of at least 2, whose first column"):
        FMConfig(0, parts.features(*dims))
