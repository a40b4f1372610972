"""Every private name of TensorFlow that is used; those of Keras are in `keras_internals`.

All were seen in TensorFlow 2.17 to 2.21. Beside what is here, classes of tables and of checkpoints
override methods of TensorFlow's `Trackable` and `Checkpoint` whose names begin with an underscore.
`tests/test_internals.py` has the list, and says of a new version what is missing there.
"""

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.checkpoint.functional_saver import MultiDeviceSaver
from tensorflow.python.eager import tape as tape_stack
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.ops import control_flow_util, control_flow_v2_func_graphs, gradients_util
from tensorflow.python.ops.collective_ops import (
    all_to_all_v2,
    all_to_all_v3,
    initialize_communicator,
)
from tensorflow.python.ops.resource_variable_ops import ResourceVariable
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint
from tensorflow.python.saved_model.save_context import in_save_context
from tensorflow.python.trackable.base import VARIABLE_VALUE_KEY, SaveType, Trackable
from tensorflow.python.trackable.trackable_utils import escape_local_name
from tensorflow.python.training.saving.saveable_object import SaveableObject, SaveSpec

__all__ = [
    "AskedGradient",
    "MultiDeviceSaver",
    "ResourceVariable",
    "SaveSpec",
    "SaveType",
    "SaveableObject",
    "Trackable",
    "VARIABLE_VALUE_KEY",
    "all_to_all_v2",
    "all_to_all_v3",
    "asked_gradients",
    "convert_variables_to_constants_v2",
    "escape_local_name",
    "in_save_context",
    "initialize_communicator",
    "is_in_branch_or_loop",
    "knows",
    "raised_unless",
    "rows_from_tpu",
    "rows_to_tpu",
    "tapes_that_record",
    "tensors_to_save",
    "variables_on_hosts",
    "write_fingerprint",
    "xla_compiles_here",
]


def tapes_that_record(*tensors: tf.Tensor) -> int:
    """Returns how often this thread's open tapes may want the gradient of one of some tensors.

    0 where no tape records what is made of them, 1 where one does, and 2 where several do, or one
    that is persistent.
    """
    return int(gradients_util.PossibleTapeGradientTypes(tensors))


def xla_compiles_here() -> bool:
    """Returns whether what is traced now is part of a function that XLA compiles."""
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def is_in_branch_or_loop() -> bool:
    """Returns whether what is traced now is in the graph of a branch or of the body of a loop."""
    return isinstance(
        tf.compat.v1.get_default_graph(),
        control_flow_v2_func_graphs.CondBranchFuncGraph
        | control_flow_v2_func_graphs.WhileBodyFuncGraph,
    )


def raised_unless(fits: tf.Tensor, message: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns a tensor that costs next to nothing, or fails with a message.

    Args:
        fits: Scalar bool.
        message: Returns a scalar string; what it computes runs only where `fits` is false.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if `fits` is false.
    """

    def complain() -> tf.Tensor:
        failed = tf.debugging.Assert(False, [message()])
        # Run eagerly, an assertion has no operation to wait for.
        with tf.control_dependencies([] if failed is None else [failed]):
            return tf.constant(False)

    checked = tf.cond(fits, lambda: tf.constant(True), complain)
    if not tf.executing_eagerly():
        # As one node, not as switches: a single switch sends TensorFlow's executor on its slow path
        # for the whole request, or step.
        (branch,) = checked.op.inputs
        as_switches = attr_value_pb2.AttrValue(b=False)
        branch.op._set_attr("_lower_using_switch_merge", as_switches)
    return checked


class AskedGradient(NamedTuple):
    """A call of `tf.GradientTape.gradient` that is running.

    Attributes:
        tape: The tape.
        sources: By what it takes the gradient, in a list.
        is_jacobian: Whether `jacobian` or `batch_jacobian` of the tape called it.
    """

    tape: tf.GradientTape
    sources: list[Any]
    is_jacobian: bool


def asked_gradients() -> list[AskedGradient]:
    """Returns the gradients of tapes for which this thread computes now, the innermost first.

    A gradient function is not told by whom it is called, so the call stack has to tell. Tapes
    outside a gradient of graphs are left out: what that makes may be kept, and serve other tapes.
    """
    found: list[AskedGradient] = []
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not gradients_util._GradientsHelper.__code__:
        if frame.f_code is tf.GradientTape.gradient.__code__:
            names = frame.f_locals
            found.append(AskedGradient(names["self"], tf.nest.flatten(names["sources"]), False))
        elif frame.f_code in _JACOBIANS and found and found[-1].tape is frame.f_locals["self"]:
            found[-1] = found[-1]._replace(is_jacobian=True)
        frame = frame.f_back
    return found


_JACOBIANS = (tf.GradientTape.jacobian.__code__, tf.GradientTape.batch_jacobian.__code__)


def knows(tape: tf.GradientTape, tensor: tf.Tensor) -> bool:
    """Returns whether a tape has recorded what a tensor was made of, or watches it.

    TensorFlow can only be asked about all tapes of a thread, so a thread is made that has but this
    one.
    """
    found = []

    def ask() -> None:
        tape_stack.push_tape(tape._tape)
        try:
            found.append(tapes_that_record(tensor) > 0)
        finally:
            tape_stack.pop_tape(tape._tape)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def tensors_to_save(checkpoint: tf.train.Checkpoint) -> Mapping[Any, Mapping[str, Any]]:
    """Returns for each object of a checkpoint its tensors, by their names in a file."""
    tensors: Mapping[Any, Mapping[str, Any]] = checkpoint._saver._gather_serialized_tensors()[0]
    return tensors


def variables_on_hosts(
    embedding: tf.tpu.experimental.embedding.TPUEmbedding, table: str
) -> Mapping[str, Any]:
    """Returns the variables of a table, by "parameters" and the names of slots.

    No public name leads to them while a TPU has the tables.
    """
    variables: Mapping[str, Any] = embedding._variables[table]
    return variables


def rows_to_tpu(embedding: tf.tpu.experimental.embedding.TPUEmbedding) -> None:
    """Copies tables from the host into a TPU's embedding hardware."""
    embedding._load_variables()


def rows_from_tpu(embedding: tf.tpu.experimental.embedding.TPUEmbedding) -> None:
    """Copies tables from a TPU's embedding hardware to the host."""
    embedding._retrieve_variables()
