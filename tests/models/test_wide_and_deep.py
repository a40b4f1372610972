import numpy as np
import pytest

from tf_dlrm.models import WideAndDeep, WideAndDeepConfig


@pytest.mark.parametrize("dense", [3, 0])
def test_equals_the_closed_form(parts, dense):
    # The second feature, of dim 1, is for the wide part alone.
    config = WideAndDeepConfig(dense, parts.features(5, 1, 3), top_mlp=(8, 4, 1))
    model = parts.randomized(WideAndDeep(config))
    inputs = parts.inputs(dense)
    first, second, third = parts.vectors(model, inputs)
    deep = [*([inputs["dense"]] if dense else []), first[:, 1:], third[:, 1:]]
    expected = first[:, :1] + second + third[:, :1] + parts.mlp(model.top_mlp, np.hstack(deep))
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_bad_configs_are_sentences(parts):
    with pytest.raises(ValueError, match="The deep part has no input"):
        WideAndDeepConfig(0, parts.features(1, 1), top_mlp=(8, 1))
    with pytest.raises(ValueError, match="top_mlp must end in 1"):
        WideAndDeepConfig(0, parts.features(2, 1), top_mlp=(8,))
