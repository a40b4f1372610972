"""What tables cannot do in some places that a layer may be taken to."""

from collections.abc import Sequence

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.schedules import LearningRateSchedule
from tf_dlrm.embeddings.storage import MultipleHashing


def check_for_xla(layer: str, tables: Sequence[TableConfig]) -> None:
    """Raises ValueError if a table has to say when an id is wrong, where nothing can."""
    names = [
        table.name
        for table in tables
        if table.out_of_vocabulary is None and not isinstance(table.storage, MultipleHashing)
    ]
    if names:
        raise ValueError(
            f"XLA cannot compile layer '{layer}', since what it compiles has no errors: an id "
            "outside its table would silently be taken for another one. Leave jit_compile out, or "
            f"give each of the tables {names} an out_of_vocabulary row."
        )


def check_carried(
    carrier: str,
    layer: str,
    tables: Sequence[TableConfig],
    changed_rate: tuple[float, float] | None,
) -> None:
    """Refuses to leave behind what the next updates of trained tables depend on.

    Args:
        carrier: What carries the state of the model's optimizer, but not of the tables': "An .h5
            file", or "A state tree".
        layer: Name of the layer, for errors.
        tables: Its tables, as they are stored.
        changed_rate: See `TableRates.changed_rate`.

    Raises:
        ValueError: If the optimizer of a table has slots, or a schedule, or if rates differ.
    """
    instead = "Save to .keras instead, or by save_weights"
    if "h5" in carrier:
        instead += ", or with include_optimizer=False"
    names = [
        table.name
        for table in tables
        if table.optimizer.slots
        or isinstance(getattr(table.optimizer, "learning_rate", None), LearningRateSchedule)
    ]
    if names:
        raise ValueError(
            f"{carrier} has no place for the state of the optimizers of tables {names} in layer "
            f"'{layer}', so training could not go on from it, as it does with the state of the "
            f"model's own optimizer. {instead}."
        )
    if changed_rate is not None:
        raise ValueError(
            f"{carrier} has no place for the factor by which the learning rates of the tables of "
            f"layer '{layer}' follow the model's, which was {changed_rate[0]:g} and is "
            f"{changed_rate[1]:g}: they would begin again at their full rates. {instead}."
        )
