import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.models import MatrixFactorization, MatrixFactorizationConfig


def test_a_number_by_hand(parts):
    model = MatrixFactorization(MatrixFactorizationConfig(0, parts.features(3, 3)))
    model.embeddings.tables["T0"].assign_rows([[0.5, 1.0, -2.0]], 4)
    model.embeddings.tables["T1"].assign_rows([[-0.25, 3.0, 10.0]], 2)
    model.bias.assign([100.0])
    # 3 - 20, and the biases 0.5, -0.25 and 100.
    logit = model({"C0": tf.constant([4]), "C1": tf.constant([2])})
    np.testing.assert_allclose(logit, [[83.25]], rtol=1e-6)


@pytest.mark.parametrize(
    ("dense", "dims", "words"),
    [
        (0, (3, 3, 3), r"no dense ones, but there are 3 \(C0, C1, C2\) and 0 dense"),
        (2, (3, 3), r"MatrixFactorization reads two .* there are 2 \(C0, C1\) and 2 dense"),
    ],
)
def test_other_features_are_a_sentence(parts, dense, dims, words):
    with pytest.raises(ValueError, match=words):
        MatrixFactorizationConfig(dense, parts.features(*dims))
