"""OpenVINO: a runtime that shares no code with TensorFlow, and reads its graphs.

It takes the graph with its tables as constants, as any of its users makes them. It leaves out
assertions, so it does not refuse ids outside a vocabulary; and it cannot parse tf.train.Example, so
`serve_examples` is not for it.
"""

import numpy as np
import openvino
import pytest
import tensorflow as tf
from openvino import opset15
from openvino.frontend.tensorflow import ConversionExtension
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def _bitcast(node):
    """Converts the one operation that OpenVINO lacks.

    The model compares ids as unsigned numbers, of which negative ones are the largest.
    """
    ids = opset15.convert(node.get_input(0), "i64")
    largest = opset15.constant(np.int64(2**63 - 1))
    return opset15.select(opset15.less(ids, np.int64(0)), largest, ids).outputs()


@pytest.mark.parametrize("signature", ["serving_default", "rank"])
def test_probabilities_are_the_models(versions, tmp_path, signature):
    core = openvino.Core()
    core.add_extension(ConversionExtension("Bitcast", _bitcast))
    for version in versions:
        loaded = tf.saved_model.load(version.path)
        frozen = convert_variables_to_constants_v2(loaded.signatures[signature])
        graph = tmp_path / "graph.pb"
        graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
        # Some processors would compute in bfloat16.
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        model = core.compile_model(core.read_model(str(graph)), "CPU", options)
        for rows in (1, 2, 33):
            request = version.requests[signature](rows)
            (result,) = model({f"{k}:0": v for k, v in request.inputs.items()}).values()
            np.testing.assert_allclose(result, request.probability, atol=1e-6)
