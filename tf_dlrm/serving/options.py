"""Options of an export; each field is a flag of `tf_dlrm.export`."""

from __future__ import annotations

import dataclasses

from tf_dlrm.options import Options, option


@dataclasses.dataclass(frozen=True)
class ExportOptions(Options):
    """What a SavedModel offers, and how small it is."""

    table_dtype: str = option(
        "float32",
        "Type of the tables' numbers; int8 and int4 with a scale and an offset for each row.",
        ("float32", "bfloat16", "float16", "int8", "int4"),
    )
    max_auc_loss: float = option(
        0.001,
        "With smaller numbers than in training (--table_dtype, --compute_dtype): how much lower "
        "than the checkpoint's the AUC on the evaluation rows may be; nothing is exported above "
        "that. Negative: it is not measured, which needs the memory of all tables.",
    )
    compute_dtype: str = option(
        "as_trained",
        "Type in which the MLPs and the interaction compute; bfloat16 is faster where the "
        "processor has it, and its loss of AUC is measured as that of tables is.",
        ("as_trained", "float32", "bfloat16"),
    )
    candidate_features: tuple[str, ...] = option(
        (),
        "Columns that differ between the candidates of one user; adds the signature rank, which "
        "scores many candidates in one call.",
    )
    serve_raw: bool = option(
        False,
        "Adds the signature serve_raw, which takes the fields of a row of the converted table as "
        "text, with the training vocabulary inside.",
    )
