"""Models: compositions of layers, one model per file."""

from tf_dlrm.models.dcn import DCN, DCNConfig
from tf_dlrm.models.deepfm import DeepFM, DeepFMConfig
from tf_dlrm.models.dlrm import DLRM, DLRMConfig
from tf_dlrm.models.dlrm_dcnv2 import DLRMDCNv2, DLRMDCNv2Config
from tf_dlrm.models.ensemble import Ensemble
from tf_dlrm.models.factorization_machine import FM, FMConfig
from tf_dlrm.models.matrix_factorization import MatrixFactorization, MatrixFactorizationConfig
from tf_dlrm.models.neural_collaborative_filtering import NeuMF, NeuMFConfig
from tf_dlrm.models.ranking_model import RankingConfig, RankingModel
from tf_dlrm.models.wide_and_deep import WideAndDeep, WideAndDeepConfig
from tf_dlrm.models.xdeepfm import XDeepFM, XDeepFMConfig

__all__ = [
    "DCN",
    "DCNConfig",
    "DLRM",
    "DLRMConfig",
    "DLRMDCNv2",
    "DLRMDCNv2Config",
    "DeepFM",
    "DeepFMConfig",
    "Ensemble",
    "FM",
    "FMConfig",
    "MatrixFactorization",
    "MatrixFactorizationConfig",
    "NeuMF",
    "NeuMFConfig",
    "RankingConfig",
    "RankingModel",
    "WideAndDeep",
    "WideAndDeepConfig",
    "XDeepFM",
    "XDeepFMConfig",
]
