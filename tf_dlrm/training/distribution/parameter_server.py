"""Training by workers that do not wait for each other, with all weights on parameter servers.

One process, the chief, reads the examples and hands a batch at a time to whichever worker is free.
Every batch is trained on, also when workers come and go, and a run that was stopped goes on with
the batch after the last one: workers have no state that could be lost.

A batch is trained on exactly once unless its worker dies while it computes. TensorFlow's
coordinator then gives that one batch to a worker anew, behind the other batches of the same stretch
(half a second of steps), and those of its updates that had reached the servers before are made
twice. So the numbers then differ a little, also with one worker, from those of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings import stored_features
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.embeddings.stores.choose import server_devices, server_plan
from tf_dlrm.errors import UserError
from tf_dlrm.keras_api import uses_legacy_keras
from tf_dlrm.kernels.use import kernels_allowed
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.training.distribution.connecting import connecting, listening
from tf_dlrm.training.distribution.distribution import Distribution
from tf_dlrm.training.distribution.planning import given_or_made
from tf_dlrm.training.distribution.tf_config import check_task, read_tf_config
from tf_dlrm.training.loss import CrossEntropy
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.sources import Source
from tf_dlrm.training.steps import make_step
from tfrecords.tracing import traced_as_written

_ROLES = ("chief", "worker", "ps")


def is_server() -> bool:
    """Returns whether TF_CONFIG makes this process a worker or a parameter server.

    Raises:
        UserError: if its cluster does not have one chief, parameter servers and workers.
    """
    cluster, role, _ = read_tf_config()
    numbers = {name: len(addresses) for name, addresses in cluster.items()}
    fits = set(numbers) == set(_ROLES) and all(numbers.values()) and numbers["chief"] == 1
    if not fits or role not in _ROLES:
        raise UserError(
            "--distribution=parameter_server needs a TF_CONFIG whose cluster has one chief, and "
            f"ps and workers; it has {numbers or 'nothing'} and the task is {role!r}. "
            "python -m tf_dlrm.launch --parameter_servers=2 starts them on this machine."
        )
    return bool(role != "chief")


def serve() -> None:
    """Holds weights, or computes, for the chief; ends by a signal only."""
    _prepare()
    # Python's own handlers wait for the call below, which never returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with listening():
        server = tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
        )
    server.join()


def make_asynchronous_steps(
    model: RankingModel | Ensemble,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    loss_of: CrossEntropy,
) -> Callable[[Iterator[Any], tf.Tensor], tf.Tensor]:
    """Returns a function (iterator of batches, count) -> sum of the `count` mean losses.

    As `make_training_steps`, but each batch goes to one of the workers, and their updates reach the
    servers in any order. A batch whose worker is lost goes to another one (see above). It returns
    when all `count` batches are done, so that evaluations and checkpoints see whole steps.
    """
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    step = make_step(model, optimizer, strategy, loss_of)

    def plain_step(features: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        # It runs in a worker, which knows TensorFlow's own operations only.
        with kernels_allowed(False):
            return step(features, labels)

    @tf.function(reduce_retracing=True)
    @traced_as_written
    def train_on(features: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        return strategy.run(plain_step, args=(features, labels))

    def training_steps(batches: Iterator[Any], count: tf.Tensor) -> tf.Tensor:
        losses = [coordinator.schedule(train_on, args=next(batches)) for _ in range(int(count))]
        coordinator.join()
        return tf.add_n([loss.fetch() for loss in losses])

    return training_steps


class ParameterServer(Distribution):
    """Tables and MLPs on servers; workers that do not wait for each other; this is the chief."""

    make_steps = staticmethod(make_asynchronous_steps)

    def check_cluster(self) -> None:
        """See `Distribution.check_cluster`: one chief, parameter servers and workers."""
        is_server()  # which checks the roles
        check_task(*read_tf_config())

    def serve(self) -> None:
        """See `Distribution.serve`."""
        if is_server():
            serve()  # until a signal comes

    def make_strategy(self) -> tf.distribute.Strategy:
        """See `Distribution.make_strategy`; waits until all processes are there.

        Raises:
            UserError: under Keras 3, whose optimizers TensorFlow cannot put on parameter servers.
        """
        if not uses_legacy_keras():
            raise UserError(
                "--distribution=parameter_server needs Keras 2: set TF_USE_LEGACY_KERAS=1."
            )
        _prepare()
        with connecting():
            return tf.distribute.ParameterServerStrategy(
                tf.distribute.cluster_resolver.TFConfigClusterResolver()
            )

    def plan_tables(
        self, config: TrainingConfig, source: Source, strategy: tf.distribute.Strategy
    ) -> Plan:
        """See `Distribution.plan_tables`; without a given plan, see `server_plan`."""
        del strategy
        servers = len(server_devices())
        return given_or_made(
            config, source, lambda features: server_plan(stored_features(features), servers)
        )


def _prepare() -> None:
    # A process that is lost must be seen as lost, and not be waited for.
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
