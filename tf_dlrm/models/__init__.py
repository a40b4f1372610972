"""Models: compositions of layers, one model per file."""

from tf_dlrm.models.dlrm import DLRM, DLRMConfig

__all__ = ["DLRM", "DLRMConfig"]
