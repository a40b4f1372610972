"""The table of a comparison, against NumPy."""

import numpy as np
import pytest

from tf_dlrm.comparing.table import comparison_table, spread


def results(aucs, parameters=1000, rate=10.0):
    return [
        {
            "auc": auc,
            "log_loss": 0.5 + k / 100,
            "accuracy": 0.75,
            "parameters": parameters,
            "examples_per_second": rate + k,
        }
        for k, auc in enumerate(aucs)
    ]


def test_a_line_has_means_deviations_and_errors():
    first, second = [0.7, 0.72, 0.71], [0.705, 0.735, 0.72]
    table = comparison_table(
        {("dlrm", "sgd"): results(first), ("dcn", "sgd"): results(second, 1009, 99.0)}
    )
    deviation = np.std(first, ddof=1)
    cell = f"{np.mean(first):.4f} ({deviation:.4f}; {deviation / np.sqrt(3):.4f})"
    assert f"| dlrm | sgd | {cell} | 0.5100 (0.0100; 0.0058) | 0.7500 (" in table
    assert "| 1,009 | 100 |" in table
    assert "not of one size" not in table
    difference = np.subtract(second, first)
    error = np.std(difference, ddof=1) / np.sqrt(3)
    line = f"sgd: the AUC of dcn less that of dlrm, seed by seed: {difference.mean():+.4f}"
    assert f"{line}, standard error {error:.4f}." in table


def test_models_of_other_sizes_are_named():
    table = comparison_table(
        {("dlrm", "sgd"): results([0.7], 1000), ("fm", "sgd"): results([0.7], 1011)}
    )
    assert "The models are not of one size: fm has 1,011 parameters, dlrm 1,000." in table
    assert "Mean of 1 seed (" in table
    assert "+0.0000.\n" in table


def test_an_undefined_metric_is_no_number():
    table = comparison_table({("dlrm", "sgd"): results([0.7, None])})
    assert "| dlrm | sgd | undefined | 0.5050" in table


@pytest.mark.parametrize("values", [[1.0], [1.0, 3.0], [0.1, 0.4, 0.9, 0.2]])
def test_spread(values):
    mean, deviation, error = spread(values)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0.0)
    assert error == pytest.approx(deviation / np.sqrt(len(values)))
