"""Training on the devices of several processes that go in step."""

from __future__ import annotations

import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.connecting import connecting
from tf_dlrm.training.distribution.distribution import Distribution
from tf_dlrm.training.distribution.tf_config import check_task, read_tf_config


class MultiWorkerMirrored(Distribution):
    """Tables cut over the processes that TF_CONFIG names; the MLPs copied to each."""

    holds_all_tables = False

    def check_cluster(self) -> None:
        """See `Distribution.check_cluster`: it must have workers and nothing else."""
        cluster, role, index = read_tf_config()
        if set(cluster) != {"worker"}:
            raise UserError(
                "--distribution=multi_worker_mirrored needs a TF_CONFIG whose cluster has workers "
                f"and nothing else; it has {sorted(cluster) or 'nothing'}. python -m "
                "tf_dlrm.launch starts workers on this machine."
            )
        check_task(cluster, role, index)

    def make_strategy(self) -> tf.distribute.Strategy:
        """See `Distribution.make_strategy`; waits until all processes are there."""
        with connecting():
            return tf.distribute.MultiWorkerMirroredStrategy()
