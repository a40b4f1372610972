"""Embedding tables without Keras: configs, lookup, row-sparse optimizers, placements."""

from tf_dlrm.embeddings.bags import Bags, make_bags
from tf_dlrm.embeddings.config import (
    FeatureConfig,
    TableConfig,
    features_from_json,
    features_to_json,
    tables_of,
)
from tf_dlrm.embeddings.initializers import Constant, Normal, Range, TruncatedNormal, Uniform
from tf_dlrm.embeddings.lookup import Lookup, Placement
from tf_dlrm.embeddings.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Frozen,
    LazyAdam,
    Optimizer,
    RowWiseAdagrad,
)
from tf_dlrm.embeddings.schedules import LearningRateSchedule
from tf_dlrm.embeddings.storage import (
    MixedDimension,
    MultipleHashing,
    QuotientRemainder,
    WeightedRows,
    mixed_dimensions,
)
from tf_dlrm.embeddings.stored_features import stored_features
from tf_dlrm.embeddings.stores.local import LocalPlacement
from tf_dlrm.embeddings.tables import Table, TableSet

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Bags",
    "Constant",
    "FeatureConfig",
    "Frozen",
    "LazyAdam",
    "LearningRateSchedule",
    "LocalPlacement",
    "Lookup",
    "MixedDimension",
    "MultipleHashing",
    "Normal",
    "Optimizer",
    "Placement",
    "QuotientRemainder",
    "Range",
    "RowWiseAdagrad",
    "Table",
    "TableConfig",
    "TableSet",
    "TruncatedNormal",
    "Uniform",
    "WeightedRows",
    "features_from_json",
    "features_to_json",
    "make_bags",
    "mixed_dimensions",
    "stored_features",
    "tables_of",
]
