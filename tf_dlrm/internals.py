"""Private names of TensorFlow and Keras, and in which versions they are known to be so."""

import inspect
import threading
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.eager import tape as tape_stack
from tensorflow.python.ops import (
    control_flow_util,
    control_flow_v2_func_graphs,
    gradients_util,
)


def tapes_that_record(*tensors: tf.Tensor) -> int:
    """Returns how often this thread's open tapes may want the gradient of one of some tensors.

    0 where no tape records what is made of them, 1 where one does, and 2 where several do, or one
    that is persistent. In TensorFlow 2.17 to 2.21.
    """
    return int(gradients_util.PossibleTapeGradientTypes(tensors))


def xla_compiles_here() -> bool:
    """Returns whether what is traced now is part of a function that XLA compiles.

    In TensorFlow 2.17 to 2.21.
    """
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def is_in_branch_or_loop() -> bool:
    """Returns whether what is traced now is in the graph of a branch or of the body of a loop.

    In TensorFlow 2.17 to 2.21.
    """
    return isinstance(
        tf.compat.v1.get_default_graph(),
        control_flow_v2_func_graphs.CondBranchFuncGraph
        | control_flow_v2_func_graphs.WhileBodyFuncGraph,
    )


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
    In TensorFlow 2.17 to 2.21.
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
    one. In TensorFlow 2.17 to 2.21.
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
