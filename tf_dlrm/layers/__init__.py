"""Keras layers, one public layer per file."""

from tf_dlrm.layers.dot_interaction import DotInteraction
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.layers.mlp import MLP
from tf_dlrm.layers.resumable_dropout import ResumableDropout

__all__ = ["DotInteraction", "EmbeddingCollection", "MLP", "ResumableDropout"]
