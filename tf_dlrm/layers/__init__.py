"""Keras layers, one public layer per file."""

from tf_dlrm.layers.compressed_interaction import CompressedInteraction
from tf_dlrm.layers.cross import Cross
from tf_dlrm.layers.dense_vectors import DenseVectors
from tf_dlrm.layers.dot_interaction import DotInteraction
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.layers.factorization_machine import FactorizationMachine
from tf_dlrm.layers.low_rank_cross import LowRankCross
from tf_dlrm.layers.mlp import MLP
from tf_dlrm.layers.projected_interaction import ProjectedInteraction
from tf_dlrm.layers.resumable_dropout import ResumableDropout
from tf_dlrm.layers.vector_cross import VectorCross

__all__ = [
    "MLP",
    "CompressedInteraction",
    "Cross",
    "DenseVectors",
    "DotInteraction",
    "EmbeddingCollection",
    "FactorizationMachine",
    "LowRankCross",
    "ProjectedInteraction",
    "ResumableDropout",
    "VectorCross",
]
