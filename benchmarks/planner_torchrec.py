"""TorchRec's plan for the tables that standard input describes; for an environment with TorchRec.

Reads one JSON object, writes one: for each table its sharding and its ranks. TorchRec chooses among
the four shardings that both systems have, with memory and bandwidths as given.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

SHARDINGS = ["data_parallel", "table_wise", "row_wise", "column_wise"]
# TorchRec's bandwidths are in bytes a millisecond.
BYTES_PER_MILLISECOND = 1e9 / 1e3


def plan(problem: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Returns (sharding, ranks) of each table C1, C2, ..."""
    names = [f"C{k + 1}" for k in range(len(problem["rows"]))]
    tables = [
        EmbeddingBagConfig(
            name=name, embedding_dim=problem["dim"], num_embeddings=rows, feature_names=[name]
        )
        for name, rows in zip(names, problem["rows"], strict=True)
    ]
    model = torch.nn.Module()
    model.tables = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)
    topology = Topology(
        world_size=problem["devices"],
        local_world_size=min(problem["devices"], problem["devices_per_host"]),
        compute_device="cuda",
        hbm_cap=int(problem["memory"]),
        hbm_mem_bw=problem["memory_gbs"] * BYTES_PER_MILLISECOND,
        intra_host_bw=problem["intra_host_gbs"] * BYTES_PER_MILLISECOND,
        inter_host_bw=problem["inter_host_gbs"] * BYTES_PER_MILLISECOND,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=problem["batch_size"] // problem["devices"],
        storage_reservation=FixedPercentageStorageReservation(0.0),
        constraints={
            name: ParameterConstraints(
                pooling_factors=[ids],
                sharding_types=SHARDINGS,
                compute_kernels=["fused", "dense"],
            )
            for name, ids in zip(names, problem["hotness"], strict=True)
        },
        debug=False,
    )
    optimizer = {"optimizer": EmbOptimType.EXACT_ADAGRAD}
    found = planner.plan(model, [EmbeddingBagCollectionSharder(fused_params=optimizer)])
    return {
        name: (entry.sharding_type, list(entry.ranks or []))
        for name, entry in found.plan["tables"].items()
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(plan(json.load(sys.stdin))) + "\n")
