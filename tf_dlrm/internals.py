"""Private names of TensorFlow and Keras, and in which versions they are known to be so."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util, gradients_util


def tapes_that_record(tensor: tf.Tensor) -> int:
    """Returns how often this thread's open tapes may want the gradient of a tensor.

    0 where no tape records what is made of it, 1 where one does, and 2 where several do, or one
    that is persistent. In TensorFlow 2.17 to 2.21.
    """
    return int(gradients_util.PossibleTapeGradientTypes([tensor]))


def xla_compiles_here() -> bool:
    """Returns whether what is traced now is part of a function that XLA compiles.

    In TensorFlow 2.17 to 2.21.
    """
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
