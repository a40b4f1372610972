"""What tables cannot do in some places that a layer may be taken to."""

from collections.abc import Sequence

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.schedules import LearningRateSchedule
from tf_dlrm.embeddings.storage import MultipleHashing


def check_for_xla(layer: str, tables: Sequence[TableConfig]) -> None:
    """Refuses tables that have to say when an id is wrong, where nothing can.

    Args:
        layer: Name of the layer, for errors.
        tables: Its tables.

    Raises:
        ValueError: If a table has no row for ids outside of it.
    """
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


def check_for_h5(layer: str, tables: Sequence[TableConfig]) -> None:
    """Refuses to leave behind what the next updates of trained tables depend on.

    Args:
        layer: Name of the layer, for errors.
        tables: Its tables, as they are stored.

    Raises:
        ValueError: If the optimizer of a table has slots, or a schedule.
    """
    names = [
        table.name
        for table in tables
        if table.optimizer.slots
        or isinstance(getattr(table.optimizer, "learning_rate", None), LearningRateSchedule)
    ]
    if names:
        raise ValueError(
            f"An .h5 file has no place for the state of the optimizers of tables {names} in layer "
            f"'{layer}', so training could not go on from it, as it does with the state of the "
            "model's own optimizer. Save to .keras instead, or with include_optimizer=False, or "
            "by save_weights."
        )
