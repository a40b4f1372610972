"""The options of the model: which one, and of what size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tf_dlrm.errors import UserError
from tf_dlrm.options import Options, commas, option

# For each model, those of the options on sizes that it reads; all models read all other options.
_SIZES: dict[str, tuple[str, ...]] = {
    "dlrm": (
        *("bottom_mlp", "top_mlp", "dropout"),
        *("interaction", "interaction_itself", "first_projection", "second_projection"),
    ),
    "dlrm_dcnv2": ("bottom_mlp", "top_mlp", "dropout", "cross_layers", "cross_rank"),
    "dcn": ("top_mlp", "dropout", "cross_layers"),
    "wide_and_deep": ("top_mlp", "dropout"),
    "deepfm": ("top_mlp", "dropout"),
    "xdeepfm": ("top_mlp", "dropout", "interaction_units"),
    "neural_collaborative_filtering": ("top_mlp", "dropout", "gmf_dim"),
    "factorization_machine": (),
    "matrix_factorization": (),
}
MODELS = tuple(_SIZES)
# Each is operations of its own in TensorFlow's graph, which takes seconds for tens of them.
_MOST_PARTS = 256


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
    """The model, apart from what the data set's schema says of its inputs."""

    model: str = option("dlrm", "Model to train.", MODELS)
    embedding_dim: int = option(
        16,
        "Size of every vector. Where a model has a weight for each id too, rows are one number "
        "longer: in wide_and_deep, deepfm, xdeepfm, factorization_machine, matrix_factorization.",
        least=1,
    )
    bottom_mlp: tuple[int, ...] = option(
        (512, 256, 64, 16), "Units of the bottom MLP; the last is --embedding_dim.", least=1
    )
    top_mlp: tuple[int, ...] = option(
        (512, 256, 1),
        "Units of the top MLP, or of the deep part of the model; the last is 1.",
        least=1,
    )
    interaction: str = option(
        "dot",
        "How the vectors interact: all pairwise dot products; none; or the products of two sets of "
        "vectors that MLPs make of all vectors.",
        ("dot", "concat", "projection"),
    )
    first_projection: tuple[int, ...] = option(
        (),
        "With --interaction=projection, units of one MLP; the last a multiple of the dim.",
        least=1,
    )
    second_projection: tuple[int, ...] = option(
        (),
        "With --interaction=projection, units of the other MLP; the last a multiple of the dim.",
        least=1,
    )
    interaction_itself: bool = option(
        False, "Whether the dot interaction includes each vector's product with itself."
    )
    cross_layers: int = option(
        0,
        "Number of cross layers; 0 for the papers', 6 of dcn and 3 of dlrm_dcnv2.",
        least=0,
        most=_MOST_PARTS,
    )
    cross_rank: int = option(
        512, "Rank of the matrices of the cross layers of dlrm_dcnv2.", least=1
    )
    interaction_units: tuple[int, ...] = option(
        (200, 200, 200), "Vectors of each layer of xdeepfm's compressed interaction.", least=1
    )
    gmf_dim: int = option(
        8,
        "How much of --embedding_dim neural_collaborative_filtering has for the generalised matrix "
        "factorization; the rest is for its MLP. 0 for the MLP alone; with all of it, for GMF "
        "alone, --top_mlp is empty.",
        least=0,
    )
    dropout: float = option(
        0.0, "Share of the top MLP's hidden units dropped in training.", least=0, below=1
    )
    ensemble_size: int = option(
        1,
        "Models of different seeds that are trained side by side, their logits averaged.",
        least=1,
        most=_MOST_PARTS,
    )
    embedding_initializer_scale: float = option(
        0.0, "Tables start in U(-scale, scale); 0 for the paper's scale, sqrt(1 / rows).", least=0
    )
    table_storage: str = option(
        "full",
        "How tables are stored: a row for each id; two small tables, of ids' quotients and "
        "remainders; fewer columns the less popular the rows are; or with a trained weight for "
        "each row.",
        ("full", "quotient_remainder", "mixed_dimensions", "weighted_rows"),
    )
    storage_from_rows: int = option(
        200,
        "With quotient_remainder and mixed_dimensions, smaller tables are stored in full.",
        least=0,
    )
    quotient_remainder_collisions: int = option(
        4, "Ids that share a row of the quotients' table.", least=2
    )
    quotient_remainder_operation: str = option(
        "multiply",
        "How the rows of quotient and remainder become one.",
        ("multiply", "add", "concatenate"),
    )
    mixed_dimensions_temperature: float = option(
        0.3,
        "0 gives all tables equally many columns, 1 nearly equally many numbers.",
        least=0,
        most=1,
    )
    hash_buckets: int = option(
        0,
        "Tables of more rows are hashed to so many, whatever their ids; 0 for no hashing.",
        least=0,
    )
    hash_functions: int = option(
        2, "Hashed rows that are added for each id.", least=1, most=_MOST_PARTS
    )
    prediction_clamp: float = option(
        0.0,
        "Predictions stay so far from 0 and 1, where the loss has no gradient any more.",
        least=0,
        below=0.5,
    )
    compute_dtype: str = option(
        "float32",
        "In what the MLPs and the interaction compute; weights and tables are float32 anyway.",
        ("float32", "bfloat16"),
    )

    @property
    def sizes(self) -> dict[str, Any]:
        """The options on sizes that this model reads, by name."""
        return {name: getattr(self, name) for name in _SIZES[self.model]}

    def validate(self) -> None:
        """Raises UserError when the model has no use for an option, or sizes do not fit."""
        super().validate()
        self._check_use([self.model], f"--model={self.model}")
        self._check_storage()
        sizes = self.sizes
        if sizes.get("gmf_dim", 0) > self.embedding_dim:
            raise UserError(
                f"--gmf_dim={self.gmf_dim} must be no more than "
                f"--embedding_dim={self.embedding_dim}."
            )
        if sizes.get("gmf_dim") == self.embedding_dim:
            if self.top_mlp:
                raise UserError(
                    f"--top_mlp={commas(self.top_mlp)} must be empty: --gmf_dim={self.gmf_dim} "
                    "leaves nothing of --embedding_dim for it."
                )
        elif "top_mlp" in sizes and (not self.top_mlp or self.top_mlp[-1] != 1):
            raise UserError(f"--top_mlp={commas(self.top_mlp)} must end in 1, the logit.")
        if sizes.get("bottom_mlp") and self.bottom_mlp[-1] != self.embedding_dim:
            raise UserError(
                f"--bottom_mlp={commas(self.bottom_mlp)} must end in "
                f"--embedding_dim={self.embedding_dim}."
            )
        if not sizes.get("interaction_units", True):
            raise UserError("--interaction_units= must have one layer or more.")
        if self.interaction != "dot" and self.interaction_itself:
            raise UserError(f"--interaction_itself contradicts --interaction={self.interaction}.")
        for name in ("first_projection", "second_projection"):
            units = getattr(self, name)
            if bool(units) != (self.interaction == "projection"):
                raise UserError(
                    f"--{name}={commas(units)} must have layers if and only if "
                    f"--interaction={self.interaction} is projection."
                )
            if units and units[-1] % self.embedding_dim:
                raise UserError(
                    f"--{name}={commas(units)} must end in a multiple of "
                    f"--embedding_dim={self.embedding_dim}."
                )

    def of_model(self, model: str) -> ModelOptions:
        """Returns the options of another model: those that it does not read have their defaults."""
        unread = {name for names in _SIZES.values() for name in names} - set(_SIZES[model])
        defaults: dict[str, Any] = {
            f.name: f.default for f in dataclasses.fields(self) if f.name in unread
        }
        return dataclasses.replace(self, model=model, **defaults)

    def check_some_use(self, models: Sequence[str]) -> None:
        """Raises UserError when none of the models has a use for an option."""
        self._check_use(models, f"any of --models={commas(models)}")

    def _check_use(self, models: Sequence[str], what: str) -> None:
        for name, text in self.given().items():
            users = [model for model, names in _SIZES.items() if name in names]
            if users and not set(users) & set(models):
                raise UserError(
                    f"--{name}={text} has no effect with {what}; it is for {', '.join(users)}."
                )

    def _check_storage(self) -> None:
        if self.hash_buckets and self.table_storage != "full":
            raise UserError(
                f"--hash_buckets={self.hash_buckets} contradicts "
                f"--table_storage={self.table_storage}."
            )
        cut = self.table_storage in ("quotient_remainder", "mixed_dimensions")
        read = {
            "storage_from_rows": cut,
            "quotient_remainder_collisions": self.table_storage == "quotient_remainder",
            "quotient_remainder_operation": self.table_storage == "quotient_remainder",
            "mixed_dimensions_temperature": self.table_storage == "mixed_dimensions",
            "hash_functions": self.hash_buckets > 0,
        }
        for name, text in self.given().items():
            if not read.get(name, True):
                raise UserError(
                    f"--{name}={text} has no effect with "
                    f"--table_storage={self.table_storage} and --hash_buckets={self.hash_buckets}."
                )

    def check_dense(self, dense_features: int) -> None:
        """Raises UserError unless there is a bottom MLP just where there are dense features."""
        if bool(self.sizes.get("bottom_mlp", dense_features)) != bool(dense_features):
            must = "have layers" if dense_features else "be empty"
            raise UserError(
                f"--bottom_mlp={commas(self.bottom_mlp)} must {must}: the data has "
                f"{dense_features} dense features."
            )
