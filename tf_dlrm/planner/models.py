"""Known models to plan for: table sizes, ids per example, MLPs."""

from __future__ import annotations

import dataclasses

from tf_dlrm.embeddings.config import FeatureConfig, TableConfig
from tf_dlrm.embeddings.optimizers import Optimizer
from tf_dlrm.planner.workload import Dense


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A model, apart from its optimizer.

    Attributes:
        rows: Rows of each table.
        hotness: Ids in an example for each table.
        dim: Width of all tables.
        dense: The MLPs.
    """

    rows: tuple[int, ...]
    hotness: tuple[float, ...]
    dim: int
    dense: Dense

    def features(self, optimizer: Optimizer) -> tuple[FeatureConfig, ...]:
        """Returns a feature C1, C2, ... for each table, which has the same name."""
        return features_of(self.rows, self.dim, optimizer)

    def hotness_by_feature(self) -> dict[str, float]:
        """Returns the ids in an example by feature."""
        return {f"C{k + 1}": float(ids) for k, ids in enumerate(self.hotness)}


def features_of(rows: tuple[int, ...], dim: int, optimizer: Optimizer) -> tuple[FeatureConfig, ...]:
    """Returns features C1, C2, ... with a table each."""
    return tuple(
        FeatureConfig(f"C{k + 1}", TableConfig(f"C{k + 1}", size, dim, optimizer=optimizer))
        for k, size in enumerate(rows)
    )


_MLPERF_MLPS = Dense(13, (512, 256, 128), (1024, 1024, 512, 256, 1))

KNOWN_MODELS = {
    # MLPerf's DLRM v1: Criteo Terabyte, 40 million rows at most (the paper's code,
    # bench/run_and_time.sh).
    "mlperf": KnownModel(
        rows=(
            *(39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346),
            *(10, 2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108),
            36,
        ),
        hotness=(1.0,) * 26,
        dim=128,
        dense=_MLPERF_MLPS,
    ),
    # MLPerf's DLRM-DCNv2: the same log with several ids per feature (MLCommons training,
    # recommendation_v2/torchrec_dlrm/README.MD). Its interaction is three cross layers; here it is
    # the dot product, which this package has.
    "mlperf_multi_hot": KnownModel(
        rows=(
            *(40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282),
            *(10, 2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108),
            36,
        ),
        hotness=(
            *(3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1),
        ),
        dim=128,
        dense=_MLPERF_MLPS,
    ),
    # The paper's accuracy run (section 5.2), tables as the paper's code counts them.
    "criteo_kaggle": KnownModel(
        rows=(
            *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
            *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
        ),
        hotness=(1.0,) * 26,
        dim=16,
        dense=Dense(13, (512, 256, 64, 16), (512, 256, 1)),
    ),
    # The paper's sample model for performance (section 5.3): flags/paper_sample_model.flags.
    "paper_sample": KnownModel(
        rows=(1_000_000,) * 8,
        hotness=(100.0,) * 8,
        dim=64,
        dense=Dense(512, (512, 512, 64), (1024, 1024, 1024, 1)),
    ),
    # 48 tables of 976,562,500 rows x 256 are 12.0e12 parameters. No such model is published table
    # by table; the scale is that of Mudigere et al. (arXiv 2104.05158), sizes and MLPs are ours.
    "trillions": KnownModel(
        rows=(976_562_500,) * 48,
        hotness=(20.0,) * 48,
        dim=256,
        dense=Dense(512, (1024, 512, 256), (1024, 1024, 512, 256, 1)),
    ),
}
