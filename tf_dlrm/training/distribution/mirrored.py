"""Training on several devices of this process."""

from __future__ import annotations

import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.distribution import Distribution


class Mirrored(Distribution):
    """Tables cut over the GPUs of this machine, or over logical CPUs; the MLPs copied to each."""

    def make_strategy(self) -> tf.distribute.Strategy:
        """See `Distribution.make_strategy`."""
        if not self.options.virtual_devices:
            devices = tf.config.list_logical_devices("GPU")
            if not devices:
                raise UserError(
                    "--distribution=mirrored found no GPU; --virtual_devices=2 makes two logical "
                    "CPUs."
                )
            return tf.distribute.MirroredStrategy([device.name for device in devices])
        count = self.options.virtual_devices
        cpu = tf.config.list_physical_devices("CPU")[0]
        there = tf.config.get_logical_device_configuration(cpu)
        if not there or len(there) < count:
            try:
                tf.config.set_logical_device_configuration(
                    cpu, [tf.config.LogicalDeviceConfiguration()] * count
                )
            except RuntimeError as error:
                raise UserError(
                    f"--virtual_devices={count} must be set before TensorFlow starts, which in "
                    f"this process has {len(there or [1])} logical CPU(s) already."
                ) from error
        # Not by the default, TensorFlow's collectives: their keys begin anew with every strategy,
        # and a second one of the same process is taken for the first.
        return tf.distribute.MirroredStrategy(
            [f"/cpu:{k}" for k in range(count)],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
