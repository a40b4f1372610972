"""Models: compositions of layers, one model per file."""

from tf_dlrm.models.dlrm import DLRM, DLRMConfig
from tf_dlrm.models.ensemble import Ensemble

__all__ = ["DLRM", "DLRMConfig", "Ensemble"]
