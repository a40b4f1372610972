"""EmbeddingCollection: the embedding tables of a model as one Keras layer."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.lookup import Placement
from tf_dlrm.embeddings.optimizers import Frozen, Optimizer
from tf_dlrm.embeddings.stored_features import (
    joined_vectors,
    projected_tables,
    stored_features,
)
from tf_dlrm.embeddings.stores.choose import make_placement, register
from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.embeddings.tables import TableSet
from tf_dlrm.internals import tapes_that_record, xla_compiles_here
from tf_dlrm.keras_api import keras
from tf_dlrm.keras_internals import (
    add_as_weight,
    calling_layers,
    gives_state_tree,
    values_are_given,
    writes_optimizer_to_h5,
)
from tf_dlrm.kernels.use import are_allowed, kernels_allowed
from tf_dlrm.layers.bags_of_features import bags_of_features
from tf_dlrm.layers.followed_optimizer import TableRates
from tf_dlrm.layers.fused_update import FusedUpdate
from tf_dlrm.layers.initial_weights import normal_by_fans
from tf_dlrm.layers.refusals import check_carried, check_for_xla
from tfrecords.tracing import traced_as_written

# Where files have what `TableRates.saved` holds.
_FOLLOWED = "followed_optimizer"
_PROJECTION_KEY = "%s:projection"


@keras.saving.register_keras_serializable(package="tf_dlrm")
class EmbeddingCollection(keras.layers.Layer):
    """Looks up the ids of many features, and trains the tables during the backward pass.

    The update of the tables is fused into the backward pass: whoever computes a gradient by this
    layer's trainable weights (`fit`, or a `tf.GradientTape` of one's own) thereby updates the
    looked-up rows, each with the optimizer of its table. To Keras the tables are therefore weights
    that are not trained, and no optimizer of Keras sees them; a scalar weight `trap`, which stays
    0, makes the gradient come by. A tape that is asked for other gradients only, as by inputs or
    by another layer's weights, updates nothing. With `trainable = False`, or called with
    `training=False`, the tables stay as they are; one whose optimizer is `Frozen()` always does.

    One backward pass is one update, however often the layer was called on the way to the loss: the
    gradients of each row are summed first. So several batches accumulate where one tape records
    all of them; each further tape, and each block under `tf.recompute_grad`, updates by itself. The
    rows of a feature whose vectors nobody used stay as they are. A second gradient by the weights
    through one call, by a persistent or an outer tape, raises ValueError, a jacobian by them
    NotImplementedError, as does one from outside a branch or a loop of a graph that the call is
    in. A `tf.function` that calls the layer and whose caller has the tape is an update each time it
    runs, whatever the gradient is by, and does not know which of its results were used. XLA
    compiles the layer only if all tables have an out-of-vocabulary row.

    Where a gradient, or a weight of its bag, is a NaN, infinite, or so large that its square is,
    that backward pass updates no table on any replica; `tables.skipped_updates` counts it.

    A table whose config has a `storage` is kept as other tables, under names of their own, and
    perhaps as a matrix, which is a weight of the layer.

    What the Keras optimizer of the model that trains the layer does to tables:

    | what                                         | to tables                                   |
    |----------------------------------------------|---------------------------------------------|
    | its kind, its learning rate when compiled    | nothing: each table has an optimizer        |
    | `learning_rate.assign`, callbacks that do so | their rates change by the same factor; with |
    |                                              | FTRL, or on a TPU, an error                 |
    | a schedule as learning rate                  | an error, unless each table has a schedule  |
    | `clipnorm`, `clipvalue`, `global_clipnorm`,  | an error                                    |
    | accumulation, `weight_decay`, `use_ema`      |                                             |
    | a loss scale                                 | an error                                    |

    The factor is relative to the rate when a model of this package is compiled; in other models,
    to that in the first training step. `follow` sets it, tells the layer the optimizer of a loop
    of one's own, and with None lets tables do without all of it but the loss scale. A loop whose
    optimizer nobody told is an error where the process has one that scales losses: it is looked
    for in eager steps, and whenever a graph is traced.

    `tf.train.Checkpoint` and Keras's `.keras` and `.weights.h5` files hold the tables, their
    optimizer slots and the number of updates, whatever the placement. All that goes by weights
    (`get_weights` and `set_weights`, old `.h5` files, `EarlyStopping`'s best weights) carries the
    tables without these, as it leaves out the state of Keras's optimizers (a whole model's `.h5`
    file and Keras 3's `get_state_tree` have that, so making them is an error), between equal layers
    in equal places: tables of equal dim and optimizer are one weight. Under a strategy, each
    process has the weights of its own devices, a copy on each of them.

    These files also hold the learning rate that the factor is relative to. It counts for an
    optimizer that was restored with the tables, as its number of iterations tells; another one
    begins with a factor of 1. A step of one's own that was traced before keeps its factor's
    reference. That `follow(None)` was called is not saved.

    Args:
        features: The features and their tables.
        seed: Seed of the tables' first values.
        plan: Where each table is, under a strategy of several replicas; None for a default. No
            part of the layer's config: the same layer may be placed otherwise elsewhere.
        communication_dtype: In which type vectors and gradients travel between replicas:
            "float32", or "bfloat16" for half the traffic and fewer digits. Not in the config.

    Call arguments:
        ids: `{feature: ids}` for all features: int32 or int64, dense [batch] or [batch, hotness],
            `tf.RaggedTensor` [batch, None] or `tf.SparseTensor` [batch, places]. Or what
            `embeddings.stored_features.stored_ids` made of them.
        weights: None, or `{feature: weights}` for any of the features, floats of the structure of
            the feature's ids. Gradients flow back to them.
        training: False makes a plain lookup, whose gradient updates nothing. None is as True
            where a tape records the call, and in a graph, whose caller may have one; only with a
            tape, or True, do native kernels do the work.

    Returns:
        `{feature: [batch, dim of its table]}`. An empty bag gives zeros.

    Raises:
        ValueError: If a feature is missing, unknown, or of a wrong type or rank, or if it is known
            that features have unequal numbers of rows.
        tf.errors.InvalidArgumentError: When it runs, if features have unequal numbers of rows, or
            an id is outside its table and the table has no out-of-vocabulary row.

    Example:
        >>> table = TableConfig("movie", 1000, 8, optimizer=Adagrad(0.05), combiner="mean")
        >>> features = [FeatureConfig("seen", table), FeatureConfig("next", table)]
        >>> layer = EmbeddingCollection(features)
        >>> vectors = layer({"seen": tf.ragged.constant([[1, 2], []]), "next": tf.constant([3, 0])})
        >>> vectors["seen"].shape
        TensorShape([2, 8])

    References:
        Naumov et al., arXiv 1906.00091, section 2.1 (embeddings) and 3.1 (model parallelism).
    """

    def __init__(
        self,
        features: Sequence[FeatureConfig | Mapping[str, Any]],
        seed: int = 0,
        plan: Any = None,
        communication_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        # Ids have no float type to cast, and weights are cast where they are used.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.supports_jit = False
        configs = [FeatureConfig.from_dict(f) if isinstance(f, Mapping) else f for f in features]
        tables_of(stored_features(configs))
        tables_of(configs)
        if self.compute_dtype == "float16":
            raise ValueError(
                "EmbeddingCollection cannot run in float16: the loss scale would be part of the "
                "tables' updates. Use mixed_bfloat16 or float32."
            )
        self._hidden = _Hidden(tuple(configs), plan)
        self._seed = seed
        self._communication_dtype = communication_dtype
        self._rates = TableRates(self.name, tables_of(configs))

    @property
    def features(self) -> tuple[FeatureConfig, ...]:
        """The features and their tables."""
        return self._hidden.features

    @property
    def placement(self) -> Placement:
        """Where the tables are.

        Raises:
            ValueError: If the layer has not been built.
        """
        if self._hidden.placement is None:
            raise ValueError(
                f"Layer '{self.name}' has no tables yet: call it on ids, or call its build()."
            )
        return self._hidden.placement

    @property
    def tables(self) -> TableSet:
        """The tables by name, with their rows, their slots and the number of updates."""
        return self.placement.tables

    @property
    def table_weights(self) -> tuple[Any, ...]:
        """Those of the layer's weights that hold the rows of tables."""
        return self._hidden.table_weights

    def build(self, ids_shape: Any = None, weights_shape: Any = None) -> None:
        """Creates the tables; they depend on the features alone, so shapes are not needed."""
        del ids_shape, weights_shape
        if self._hidden.placement is not None:
            return
        self.trap = self.add_weight(name="trap", shape=(), initializer="zeros", trainable=True)
        with tf.init_scope():
            self._hidden.placement = make_placement(
                stored_features(self.features),
                self._seed,
                self._hidden.plan,
                self._communication_dtype,
            )
        self._updates = FusedUpdate(self.name)
        frozen = [t.name for t in tables_of(self.features) if isinstance(t.optimizer, Frozen)]
        for k, (name, shape) in enumerate(projected_tables(self.features).items()):
            # One attribute each: tf.train.Checkpoint does not look into lists of Keras 3.
            matrix = self.add_weight(
                name=f"projection_of_{name}",
                shape=shape,
                initializer=normal_by_fans(self._seed + k),
                trainable=name not in frozen,
            )
            setattr(self, f"projection_{k}", matrix)
        if not isinstance(self._hidden.plan, FrozenTables):
            trained: dict[Optimizer, list[str]] = {}
            for table in tables_of(self.features):
                trained.setdefault(table.optimizer, []).append(table.name)
            by = "; ".join(
                f"{', '.join(names)} by {optimizer}" for optimizer, names in trained.items()
            )
            logging.info("Layer '%s' trains %s.", self.name, by)
        self._hidden.table_weights = tuple(
            add_as_weight(self, variable) for variable in self.tables.row_variables
        )
        # For tf.train.Checkpoint: the tables by name, whatever variables hold them.
        self._checkpoint_tables = self.tables
        self.built = True

    @staticmethod
    def checkpoint_key(table: str, slot: str) -> str:
        """Returns the key of a table's "rows" or slot in a checkpoint, after that of the layer."""
        return f"_checkpoint_tables/{TableSet.checkpoint_key(table, slot)}"

    @property
    def reference_rate(self) -> float | None:
        """The followed optimizer's learning rate at which the tables' own hold; None for none."""
        self._rates.settle()
        followed = self._rates.followed
        return None if followed is None else followed.reference_rate

    def follow(self, optimizer: Any, reference_rate: float | None = None) -> None:
        """Lets the tables' learning rates follow that of a Keras optimizer; see the class.

        Args:
            optimizer: The optimizer of a loop of one's own or of a compiled model; None, and the
                tables keep their own rates, whatever model trains them.
            reference_rate: The optimizer's learning rate at which the tables' own rates hold; None
                for that which a file gave to the tables, if it gave the optimizer its state too,
                and else for its rate now.

        Raises:
            ValueError: If the optimizer does what tables cannot follow.
        """
        self.build()
        self._rates.follow(optimizer, reference_rate, self.trap)

    def follow_model(self, optimizer: Any, reference_rate: float | None = None) -> None:
        """Does as `follow`, unless that was called: for models, when they are compiled."""
        self.build()
        self._rates.follow_model(optimizer, reference_rate, self.trap)

    @traced_as_written
    def call(
        self,
        ids: Mapping[str, Any],
        weights: Mapping[str, Any] | None = None,
        training: bool | None = None,
    ) -> dict[str, tf.Tensor]:
        """Returns `{feature: [batch, dim]}`; see the class."""
        if values_are_given(self.table_weights):
            raise ValueError(
                f"stateless_call cannot give other tables to layer '{self.name}', whose lookups "
                "read its own. Call set_weights, and then the model."
            )
        if xla_compiles_here() and not self.placement.checks_ids_on_host:
            check_for_xla(self.name, tables_of(self.features))
        bags, stored = bags_of_features(
            self.name,
            self.features,
            ids,
            weights or {},
            # A user's one row may stand beside many candidates'; signatures compare the others.
            one_batch=not isinstance(self._hidden.plan, FrozenTables),
        )
        learns = training is not False and self.trainable
        trap = tf.convert_to_tensor(self.trap) if learns else None
        if training is None and trap is not None:
            # What a tape records is a training step, whatever Keras was told.
            training = tapes_that_record(trap) > 0
        with kernels_allowed(are_allowed(training)):
            if trap is None:
                vectors = self.placement.lookup(stored).vectors
            else:
                rates = functools.partial(self._rates.of_update, calling_layers(), self.trap)
                vectors = self._updates.lookup(self.placement, stored, trap, self.trap, rates)
        found = joined_vectors(self.features, bags, vectors, self._projections())
        return {name: tf.cast(vector, self.compute_dtype) for name, vector in found.items()}

    def _projections(self) -> dict[str, tf.Tensor]:
        """Returns the matrices behind narrow tables by table."""
        names = projected_tables(self.features)
        return {name: getattr(self, f"projection_{k}") for k, name in enumerate(names)}

    def compute_output_shape(
        self, ids_shape: Mapping[str, Any], weights_shape: Any = None
    ) -> dict[str, tuple[int | None, int]]:
        """Returns `{feature: (batch, dim)}`."""
        del weights_shape
        return {
            feature.name: (ids_shape[feature.name][0], feature.table.dim)
            for feature in self.features
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer.

        Raises:
            ValueError: If it goes into an `.h5` file with the state of the model's optimizer, but
                tables have been trained whose slots have no place there.
        """
        if writes_optimizer_to_h5():
            self._check_carried("An .h5 file")
        features = [feature.to_dict() for feature in self.features]
        return {**super().get_config(), "features": features, "seed": self._seed}

    @property
    def variables(self) -> list[Any]:
        """The weights, as of any layer; to `get_state_tree`, only if they are all there is.

        Raises:
            ValueError: If tables have been trained whose slots have no place in a state tree.
        """
        if gives_state_tree():
            self._check_carried("A state tree")
        return super().variables

    def _check_carried(self, carrier: str) -> None:
        if self._hidden.placement is not None and int(self.tables.updates):
            tables = tables_of(stored_features(self.features))
            check_carried(carrier, self.name, tables, self._rates.changed_rate())

    def save_own_variables(self, store: Any) -> None:
        """Writes the tables, their slots, the number of updates, and matrices to a Keras file."""
        for key, value in self.tables.to_arrays().items():
            store[key] = value
        followed = self._rates.to_save()
        if followed is not None:
            store[_FOLLOWED] = followed.numpy()
        for name, matrix in self._projections().items():
            store[_PROJECTION_KEY % name] = tf.convert_to_tensor(matrix).numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote."""
        for name, matrix in self._projections().items():
            try:
                matrix.assign(store[_PROJECTION_KEY % name])
            except KeyError as error:
                raise ValueError(f"The saved weights hold no matrix for table '{name}'.") from error
        self.tables.assign_arrays(store)
        with contextlib.suppress(KeyError):  # where nothing was followed
            self._rates.saved.assign(np.asarray(store[_FOLLOWED]))

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        """Adds what a checkpoint says of the optimizer that was followed, if any was."""
        children = super()._trackable_children(save_type, **kwargs)
        followed = self._rates.to_save() if save_type == "checkpoint" else None
        return children if followed is None else {**children, _FOLLOWED: followed}

    def _lookup_dependency(self, name: str, *args: Any) -> Any:
        """Finds that also where nothing is followed yet."""
        return self._rates.saved if name == _FOLLOWED else super()._lookup_dependency(name, *args)


def _make_on_tpu(*arguments: Any) -> Placement:
    """Loads what only a TPU needs where there is one."""
    from tf_dlrm.tpu.placement import make_tpu_placement

    return make_tpu_placement(*arguments)


register(tf.distribute.TPUStrategy, _make_on_tpu)


@dataclasses.dataclass
class _Hidden:
    """What Keras is not to see, which tracks and wraps what it finds in a layer's attributes."""

    features: tuple[FeatureConfig, ...]
    plan: Any
    placement: Placement | None = None
    table_weights: tuple[Any, ...] = ()
