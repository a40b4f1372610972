"""How a run is spread over devices and processes: what its kinds have in common."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.errors import UserError
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.tpu.placement import TpuPlan
from tf_dlrm.training.distribution.planning import plan_for_replicas
from tf_dlrm.training.distribution.shares import distribute
from tf_dlrm.training.distribution.tf_config import read_tf_config
from tf_dlrm.training.options.config import TrainingConfig
from tf_dlrm.training.options.distribution import DistributionOptions
from tf_dlrm.training.sources import Source
from tf_dlrm.training.steps import make_logits, make_training_steps
from tfrecords.schema import Schema

Logits = Callable[[dict[str, tf.Tensor]], tf.Tensor]


class Distribution(abc.ABC):
    """A kind of `--distribution`; `choose` has one for each.

    Attributes:
        holds_all_tables: Whether this process can read all rows of all tables.
        make_steps: Returns a function (iterator of shares, count) -> sum of the `count` mean
            losses, of the model, the optimizer of its MLPs, the strategy and the loss.
    """

    holds_all_tables = True
    make_steps: Callable[..., Callable[[Any, tf.Tensor], tf.Tensor]] = staticmethod(
        make_training_steps
    )

    def __init__(self, options: DistributionOptions) -> None:
        self.options = options

    def check_cluster(self) -> None:
        """Refuses a cluster that does not fit: without it, each process would train by itself.

        Raises:
            UserError: If TF_CONFIG names one that this kind of run has no use for.
        """
        cluster, _, _ = read_tf_config()
        tasks = sum(len(addresses) for addresses in cluster.values())
        if tasks > 1:
            raise UserError(
                f"TF_CONFIG names a cluster of {tasks} processes, but "
                f"--distribution={self.options.distribution} runs in one; unset TF_CONFIG."
            )

    def serve(self) -> None:  # noqa: B027
        """Works for the process that trains, where this one does not; does not return then."""

    @abc.abstractmethod
    def make_strategy(self) -> tf.distribute.Strategy:
        """Returns the strategy.

        Raises:
            UserError: If there are no such devices, or TensorFlow has started with others.
        """

    def plan_tables(
        self, config: TrainingConfig, source: Source, strategy: tf.distribute.Strategy
    ) -> Plan | TpuPlan | None:
        """Returns where each table is: as the options say, or as is best; None for one device.

        Raises:
            UserError: If there is no such plan.
        """
        return plan_for_replicas(config, source, strategy.num_replicas_in_sync)

    def share_out(
        self,
        strategy: tf.distribute.Strategy,
        batches: tf.data.Dataset,
        batch_size: int,
        model: RankingModel | Ensemble,
    ) -> Any:
        """Gives each replica of a strategy its share of every batch; see `distribute`."""
        del batch_size, model
        return distribute(strategy, batches)

    def evaluated_logits(
        self,
        config: TrainingConfig,
        schema: Schema,
        model: RankingModel | Ensemble,
        strategy: tf.distribute.Strategy,
    ) -> Callable[[], Logits]:
        """Returns a function that returns the logits function of the model as it is then."""
        del config, schema
        logits = make_logits(model, strategy)
        return lambda: logits
