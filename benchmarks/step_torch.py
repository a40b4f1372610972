"""Peers in PyTorch: facebookresearch/dlrm's model, and one whose tables are FBGEMM's.

python step_torch.py reference|fbgemm CASE [CHECKOUT of facebookresearch/dlrm]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_cases import LEARNING_RATE, REFERENCE, Case, serve


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def reference(case: Case, dlrm_dir: str) -> tuple[Any, Any, list[Any]]:
    """Returns model, optimizer and batches of the paper's code."""
    from quality_reference import import_reference

    module = import_reference(Path(dlrm_dir).resolve())
    vectors = 1 + len(case.table_rows)
    top = (vectors * (vectors - 1) // 2 + case.dim, *case.top)
    model = module.DLRM_Net(
        case.dim,
        np.array(case.table_rows),
        np.array((case.dense, *case.bottom)),
        np.array(top),
        arch_interaction_op="dot",
        sigmoid_top=len(top) - 2,
        loss_function="bce",
    )
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    elif case.optimizer == "adagrad":
        optimizer = torch.optim.Adagrad(model.parameters(), lr=LEARNING_RATE)
    else:
        from optim.rwsadagrad import RowWiseSparseAdagrad

        optimizer = RowWiseSparseAdagrad(model.parameters(), lr=LEARNING_RATE)
    batches = []
    for dense, values, lengths, labels in case.batches():
        offsets = [torch.from_numpy(_offsets(own)[:-1]) for own in lengths]
        ids = [torch.from_numpy(own.astype(np.int64)) for own in values]
        inputs = (torch.from_numpy(dense), offsets, ids)
        batches.append((inputs, torch.from_numpy(labels).view(-1, 1)))
    return model, optimizer, batches


class FbgemmModel(torch.nn.Module):
    """The same maths with FBGEMM's tables, which learn in the backward pass."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        kinds = {
            "sgd": EmbOptimType.EXACT_SGD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        }
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (rows, case.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
                for rows in case.table_rows
            ],
            optimizer=kinds[case.optimizer],
            learning_rate=LEARNING_RATE,
            eps=1e-10,
        )
        self.tables.init_embedding_weights_uniform(-0.01, 0.01)
        vectors = 1 + len(case.table_rows)
        self.shape = (-1, vectors - 1, case.dim)
        self.pairs = torch.tril_indices(vectors, vectors, -1)
        self.bottom = _mlp(case.dense, case.bottom, last_relu=True)
        width = case.dim + vectors * (vectors - 1) // 2
        self.top = _mlp(width, case.top, last_relu=False)

    def forward(
        self, dense: torch.Tensor, offsets: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Returns logits [batch, 1]."""
        bottom = self.bottom(dense)
        rows = self.tables(ids, offsets).view(self.shape)
        vectors = torch.cat([bottom.unsqueeze(1), rows], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        products = products[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([bottom, products], 1))

    def loss_fn(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy."""
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


def _mlp(inputs: int, units: tuple[int, ...], last_relu: bool) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for size in units:
        layers += [torch.nn.Linear(inputs, size), torch.nn.ReLU()]
        inputs = size
    return torch.nn.Sequential(*(layers if last_relu else layers[:-1]))


def fbgemm(case: Case) -> tuple[Any, Any, list[Any]]:
    """Returns model, optimizer of the MLPs and batches with FBGEMM's tables."""
    model = FbgemmModel(case)
    dense = [*model.bottom.parameters(), *model.top.parameters()]
    kind = torch.optim.SGD if case.optimizer == "sgd" else torch.optim.Adagrad
    batches = []
    for columns, values, lengths, labels in case.batches():
        offsets = torch.from_numpy(_offsets(np.concatenate(lengths)))
        ids = torch.from_numpy(np.concatenate(values).astype(np.int64))
        inputs = (torch.from_numpy(columns), offsets, ids)
        batches.append((inputs, torch.from_numpy(labels).view(-1, 1)))
    return model, kind(dense, lr=LEARNING_RATE), batches


def runner(case: Case, model: Any, optimizer: Any, batches: list[Any]) -> Callable[[int], float]:
    """Returns what does a number of steps."""
    place = 0

    def run(steps: int) -> float:
        nonlocal place
        for _ in range(steps):
            inputs, labels = batches[place % len(batches)]
            place += 1
            if case.inference:
                with torch.inference_mode():
                    last = model(*inputs)[0, 0]
                continue
            last = model.loss_fn(model(*inputs), labels)
            optimizer.zero_grad()
            last.backward()
            optimizer.step()
        return float(last.detach())

    return run


def main(system: str, case: Case, *dlrm_dir: str) -> None:
    """Builds the model and serves step times."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # the reference prints
    built = reference(case, *dlrm_dir) if system == REFERENCE else fbgemm(case)
    sys.stdout = answers
    serve(case, runner(case, *built))


if __name__ == "__main__":
    main(sys.argv[1], Case.from_json(sys.argv[2]), *sys.argv[3:])
