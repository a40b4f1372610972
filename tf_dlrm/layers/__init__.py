"""Keras layers, one public layer per file."""

from tf_dlrm.layers.compressed_interaction import CompressedInteraction as CompressedInteraction
from tf_dlrm.layers.cross import Cross as Cross
from tf_dlrm.layers.dense_vectors import DenseVectors as DenseVectors
from tf_dlrm.layers.dot_interaction import DotInteraction as DotInteraction
from tf_dlrm.layers.embedding_collection import EmbeddingCollection as EmbeddingCollection
from tf_dlrm.layers.factorization_machine import FactorizationMachine as FactorizationMachine
from tf_dlrm.layers.low_rank_cross import LowRankCross as LowRankCross
from tf_dlrm.layers.mlp import MLP as MLP
from tf_dlrm.layers.projected_interaction import ProjectedInteraction as ProjectedInteraction
from tf_dlrm.layers.resumable_dropout import ResumableDropout as ResumableDropout
from tf_dlrm.layers.vector_cross import VectorCross as VectorCross
