"""The rate of an update: Adam's correction, schedules, and who follows an optimizer outside."""

import numpy as np
import pytest
import tensorflow as tf
from optimizer_oracles import SCHEDULE

from tf_dlrm.embeddings import FTRL, SGD, Adagrad, LazyAdam
from tf_dlrm.embeddings.schedules import rates_scaled

_UPDATES = (*range(1, 11), 1_000, 1_000_000, 2**31)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "betas", [(0.9, 0.999), (0.0, 0.0), (0.0, 0.9999), (0.99, 0.999999), (0.5, 0.1)]
)
def test_adam_is_corrected_as_in_float64(betas, compiled):
    optimizer = LazyAdam(0.1, *betas)
    rate = tf.function(optimizer.rate, jit_compile=compiled, autograph=False)
    first, second = (np.float64(beta) for beta in betas)
    for t in _UPDATES:
        # 1 - beta^t, without the digits that the difference loses.
        wanted = 0.1 * np.sqrt(_one_minus(second, t)) / _one_minus(first, t)
        found = rate(tf.constant(t - 1, tf.int64))
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=str(t))


def _one_minus(beta, t):
    return 1.0 if beta == 0 else -np.expm1(t * np.log(beta))


def test_adam_is_corrected_beside_its_schedule():
    rate = LazyAdam(SCHEDULE, 0.7, 0.8).rate(tf.constant(1, tf.int64))
    # The second of three steps of warm-up to 0.2.
    wanted = 0.2 * 2 / 3 * (1 - 0.8**2) ** 0.5 / (1 - 0.7**2)
    np.testing.assert_allclose(rate, wanted, rtol=1e-6)


def test_rates_follow_a_scale_but_ftrl_refuses_one():
    step = tf.constant(0, tf.int64)
    with rates_scaled(tf.constant(0.5)):
        np.testing.assert_allclose(Adagrad(0.1).rate(step), 0.05)
        np.testing.assert_allclose(SGD(SCHEDULE).rate(step), 0.5 * 0.2 / 3)
        np.testing.assert_allclose(LazyAdam(0.1, 0.0, 0.75).rate(step), 0.05 * 0.25**0.5, rtol=1e-6)
        with pytest.raises(tf.errors.InvalidArgumentError, match="which tables trained by FTRL"):
            FTRL(0.1).rate(step)
    with rates_scaled(tf.constant(1.0)):
        np.testing.assert_allclose(FTRL(0.1).rate(step), 0.1)
    assert not FTRL.follows_rates and Adagrad.follows_rates
