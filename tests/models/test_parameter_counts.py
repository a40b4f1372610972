"""How many numbers the models of the paper's figure 5 have on Criteo Kaggle at dim 16."""

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.models import (
    DCN,
    DLRM,
    DCNConfig,
    DeepFM,
    DeepFMConfig,
    DLRMConfig,
    DLRMDCNv2,
    DLRMDCNv2Config,
    XDeepFM,
    XDeepFMConfig,
)
from tfrecords.random_schema import CRITEO_KAGGLE, table_sizes

BOTTOM, TOP = (512, 256, 64, 16), (512, 256, 1)
TABLES = 540_201_232


def dense_parameters(make, config, dim=16):
    """Counts the weights outside of tables, which do not depend on the tables' rows."""
    features = tuple(
        FeatureConfig(f"C{k}", TableConfig(f"T{k}", 2, dim, optimizer=SGD(0.01)))
        for k in range(1, 27)
    )
    model = make(config(features))
    return sum(int(np.prod(w.shape)) for w in model.trainable_variables if len(w.shape))


def test_tables():
    sizes = table_sizes((CRITEO_KAGGLE,), 0)
    assert len(sizes) == 26 and sum(sizes) * 16 == TABLES


def test_dlrm_and_dcn_are_within_a_percent():
    dlrm = dense_parameters(DLRM, lambda features: DLRMConfig(13, features, BOTTOM, TOP))
    dcn = dense_parameters(DCN, lambda features: DCNConfig(13, features))
    assert dlrm == 155_984 + 320_001
    # 429 inputs: six layers of two vectors, 512-256, and one logit of both.
    assert dcn == 6 * 2 * 429 + (430 * 512 + 513 * 256) + (429 + 256 + 1)
    assert (TABLES + dlrm) / (TABLES + dcn) == pytest.approx(1, abs=0.01)


def test_dlrm_dcnv2():
    count = dense_parameters(DLRMDCNv2, lambda features: DLRMDCNv2Config(13, features, BOTTOM, TOP))
    width = 27 * 16
    crosses = 3 * (2 * 512 * width + width)
    assert count == 155_984 + crosses + (width + 1) * 512 + 513 * 256 + 257


def test_deepfm_and_xdeepfm():
    fields, width = 39, 39 * 16
    deep = (width + 1) * 512 + 513 * 256 + 257
    count = dense_parameters(DeepFM, lambda features: DeepFMConfig(13, features, TOP), 17)
    assert count == 13 * 17 + deep
    count = dense_parameters(
        XDeepFM, lambda features: XDeepFMConfig(13, features, TOP, (100, 50)), 17
    )
    interaction = 100 * fields * fields + 50 * 100 * fields
    assert count == 13 * 17 + deep + interaction + 150
