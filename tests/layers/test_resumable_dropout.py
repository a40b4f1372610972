import numpy as np
import tensorflow as tf

from tf_dlrm.layers import ResumableDropout


def test_masks_depend_on_the_seed_and_the_number_of_calls_only():
    ones = tf.ones((64, 64))
    layer, same, other = (
        ResumableDropout(0.25, 7),
        ResumableDropout(0.25, 7),
        ResumableDropout(0.25, 8),
    )
    first, second = layer(ones, training=True).numpy(), layer(ones, training=True).numpy()
    assert (first != second).any()
    np.testing.assert_array_equal(same(ones, training=True), first)
    assert (other(ones, training=True).numpy() != first).any()
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((first == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(layer(ones, training=False), ones)


def test_a_checkpoint_holds_where_the_masks_are(tmp_path):
    ones = tf.ones((64, 64))
    layer = ResumableDropout(0.5, 1)
    layer(ones, training=True)
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    expected = layer(ones, training=True)
    resumed = ResumableDropout(0.5, 1)
    resumed.build()
    tf.train.Checkpoint(layer=resumed).read(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(resumed(ones, training=True), expected)


def test_config_round_trip():
    layer = ResumableDropout(0.5, 1, name="drop")
    copy = ResumableDropout.from_config(layer.get_config())
    assert (copy.rate, copy.seed, copy.name) == (0.5, 1, "drop")
