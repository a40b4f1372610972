import numpy as np
import pytest

from tf_dlrm.training.evaluation.metrics import click_metrics


def test_metrics_of_four_rows_by_hand():
    # Three of the four (positive, negative) pairs are in order.
    logits = np.array([np.log(3), 0.0, -np.log(3), np.log(3) / 2], np.float32)
    labels = np.array([1, 1, 0, 0], np.float32)
    probabilities = [0.75, 0.5, 0.25, np.sqrt(3) / (1 + np.sqrt(3))]
    log_loss = -np.mean(np.log([0.75, 0.5, 0.75, 1 - probabilities[3]]))
    metrics = click_metrics(logits, labels)
    assert metrics["auc"] == 0.75
    assert metrics["log_loss"] == pytest.approx(log_loss, rel=1e-6)
    assert metrics["normalized_entropy"] == pytest.approx(log_loss / np.log(2), rel=1e-6)
    assert metrics["calibration"] == pytest.approx(np.mean(probabilities) / 0.5, rel=1e-6)
    assert metrics["accuracy"] == 0.75
    assert metrics["evaluation_examples"] == 4


def test_ties_count_half():
    assert click_metrics(np.zeros(6, np.float32), np.array([0, 1] * 3))["auc"] == 0.5


def test_ties_count_half_beside_pairs_that_are_none():
    # Of six pairs of a positive and a negative four are in order, one is tied, one is not.
    logits, labels = np.array([1.0, 2.0, 1.0, 0.0, 1.5]), np.array([1, 1, 0, 0, 0])
    assert click_metrics(logits, labels)["auc"] == pytest.approx(4.5 / 6)


def test_unequal_classes_by_hand():
    # Probabilities of 0.75, 0.5, 0.5, 0.2, 0.2; base rate 0.4, so no number is its complement's.
    logits = np.array([np.log(3), 0.0, 0.0, np.log(0.25), np.log(0.25)])
    metrics = click_metrics(logits, np.array([1, 0, 0, 0, 1]))
    log_loss = -(np.log(0.75) + 2 * np.log(0.5) + np.log(0.8) + np.log(0.2)) / 5
    entropy = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    assert metrics["log_loss"] == pytest.approx(log_loss)
    assert metrics["normalized_entropy"] == pytest.approx(log_loss / entropy)
    assert metrics["calibration"] == pytest.approx((2.15 / 5) / 0.4)
    assert metrics["accuracy"] == pytest.approx(2 / 5)  # a probability of 0.5 says 1


def test_the_base_rate_has_a_normalized_entropy_of_one():
    labels = np.array([1, 0, 0, 0, 0])
    metrics = click_metrics(np.full(5, np.log(0.25)), labels)
    assert metrics["normalized_entropy"] == pytest.approx(1.0)
    assert metrics["calibration"] == pytest.approx(1.0)


def test_huge_logits_overflow_nowhere():
    metrics = click_metrics(np.array([1e4, -1e4, 1e4]), np.array([1, 0, 0]))
    assert metrics["log_loss"] == pytest.approx(1e4 / 3)


def test_one_class_has_no_auc():
    metrics = click_metrics(np.array([0.5, -0.5]), np.array([0, 0]))
    assert metrics["auc"] is None and metrics["accuracy"] is None
    assert metrics["normalized_entropy"] is None
    assert metrics["calibration"] is None


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        click_metrics(np.zeros(0), np.zeros(0))
