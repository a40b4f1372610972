import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.planner import Dense, Workload
from tf_dlrm.planner.workload import expected_unique


def test_uniform_unique_ids_by_hand():
    # Two draws of two ids are different with a chance of a half: 1.5 ids on average.
    assert expected_unique([0, 1, 2], 2, 2).tolist() == pytest.approx([0.0, 0.75, 1.5])
    # A table of one row has one id.
    assert expected_unique([1], 1, 5) == pytest.approx([1.0])
    # Hardly any repeats in a huge table.
    assert expected_unique([10**12], 10**12, 1000)[0] == pytest.approx(1000, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.2])
@pytest.mark.parametrize("size", [1, 5000])
def test_no_draws_find_nothing(size, alpha):
    assert expected_unique([0, size], size, 0.0, alpha).tolist() == [0, 0]


@pytest.mark.parametrize(("size", "draws", "alpha"), [(700, 300, 1.0), (200_000, 5000, 1.2)])
def test_power_law_is_the_sum_over_all_ids(size, draws, alpha):
    probabilities = np.arange(1, size + 1) ** -alpha
    probabilities /= probabilities.sum()
    below = np.cumsum(1 - (1 - probabilities) ** draws)
    bounds = [1, 10, size // 3, size]
    expected = [below[bound - 1] for bound in bounds]
    found = expected_unique(bounds, size, draws, alpha, popular_first=True)
    assert found.tolist() == pytest.approx(expected, rel=0.01)
    # Where popular ids lie anywhere, each half has half of them.
    halves = expected_unique([size // 2, size], size, draws, alpha)
    assert halves.tolist() == pytest.approx([expected[-1] / 2, expected[-1]], rel=0.01)


def test_power_law_against_draws():
    rng = np.random.default_rng(0)
    size, draws = 5000, 2000
    probabilities = np.arange(1, size + 1) ** -1.05
    probabilities /= probabilities.sum()
    counted = [len(np.unique(rng.choice(size, draws, p=probabilities))) for _ in range(50)]
    found = expected_unique([size], size, draws, 1.05)[0]
    assert found == pytest.approx(np.mean(counted), rel=0.02)


def test_ids_of_features_that_share_a_table_add_up():
    shared, other = (
        TableConfig("t", 10, 4, optimizer=SGD(0.01)),
        TableConfig("u", 10, 4, optimizer=SGD(0.01)),
    )
    features = [
        FeatureConfig("a", shared),
        FeatureConfig("b", shared),
        FeatureConfig("c", other),
    ]
    workload = Workload(8, {"a": 2.5})
    assert workload.ids_per_example(features, "t") == 3.5
    assert workload.ids_per_example(features, "u") == 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but is 0."),
        ({"batch_size": 2, "hotness": {"a": 0}}, "hotness of 'a' must be a number above 0"),
        ({"batch_size": 2, "alpha": -1}, "alpha must be between 0"),
        ({"batch_size": 2, "communication_bytes": 3}, "communication_bytes must be 4 or 2"),
    ],
)
def test_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Workload(**arguments)


def test_layers_of_the_dense_part():
    # 3 vectors of 4: 3 pairs, after the 4 outputs of the bottom MLP.
    dense = Dense(5, (8, 4), (6, 1))
    assert dense.layers([4, 4]) == [(5, 8), (8, 4), (7, 6), (6, 1)]
    assert dense.interaction_multiplications([4, 4]) == 3 * 3 * 4
    itself = Dense(5, (8, 4), (6, 1), interaction_itself=True)
    assert itself.layers([4, 4])[2] == (10, 6)
    concat = Dense(5, (8, 4), (6, 1), "concat")
    assert concat.layers([4, 2])[2] == (10, 6)
    assert concat.interaction_multiplications([4, 2]) == 0
    assert Dense(0, (), (1,)).layers([4, 4, 4]) == [(3, 1)]
