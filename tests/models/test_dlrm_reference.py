"""Equal to the paper's code, facebookresearch/dlrm, by numbers that it computed.

Weights and inputs are drawn here as they were for the reference (`draw`), and copied into it; its
logits before the sigmoid, losses, and tables after training were stored. The reference ran with
PyTorch 2.13 on a CPU, `BCELoss`, `torch.optim.SGD(lr=0.3)`, `torch.optim.Adagrad(lr=0.1)` and its
own `RWSAdagrad(lr=0.1)`.
"""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, RowWiseAdagrad, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig

ROWS, DIM, BATCH, STEPS = (7, 5, 11), 3, 6, 5


def draw(width):
    """Returns tables, bottom layers, top layers and batches, all from one generator in order."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)

    tables = [normal(rows, DIM) for rows in ROWS]
    bottom = [(normal(4, 6), normal(6)), (normal(6, 3), normal(3))]
    top = [(normal(width, 8), normal(8)), (normal(8, 1), normal(1))]
    batches = []
    for _ in range(STEPS):
        dense = normal(BATCH, 4)
        bags = [
            [rng.integers(0, rows, rng.integers(0, 4)).tolist() for _ in range(BATCH)]
            for rows in ROWS
        ]
        labels = rng.integers(0, 2, (BATCH, 1)).astype(np.float32)
        batches.append((dense, bags, labels))
    return tables, bottom, top, batches


def build(interaction, self_interaction, optimizer):
    width = {"concat": 12, "dot": 3 + (10 if self_interaction else 6)}[interaction]
    tables, bottom, top, batches = draw(width)
    features = tuple(
        FeatureConfig(f"f{k}", TableConfig(f"t{k}", rows, DIM, optimizer=optimizer))
        for k, rows in enumerate(ROWS)
    )
    model = DLRM(DLRMConfig(4, features, (6, 3), (8, 1), interaction, self_interaction))
    for k, rows in enumerate(tables):
        model.embeddings.tables[f"t{k}"].assign_rows(rows)
    for mlp, layers in ((model.bottom_mlp, bottom), (model.top_mlp, top)):
        for dense, (kernel, bias) in zip(mlp.dense_layers, layers, strict=True):
            dense.kernel.assign(kernel)
            dense.bias.assign(bias)
    return model, batches


def inputs_of(batch):
    ids = {f"f{k}": tf.ragged.constant(bags, tf.int64) for k, bags in enumerate(batch[1])}
    return {"dense": tf.constant(batch[0]), **ids}


LOGITS = {
    ("dot", False): [-0.64437664, -0.89676106, -0.66627645, -0.99185812, -0.84374845, -0.81968951],
    ("dot", True): [1.1679087, -5.4156961, -0.98566717, -2.3601892, 0.36094069, -0.11093009],
    ("concat", False): [
        -0.73165822,
        0.30507702,
        0.76218265,
        -0.10313845,
        -0.013223052,
        -0.075238585,
    ],
}


@pytest.mark.parametrize(("interaction", "self_interaction"), LOGITS)
def test_logits(interaction, self_interaction):
    model, batches = build(interaction, self_interaction, SGD(0.1))
    got = model(inputs_of(batches[0]))[:, 0]
    np.testing.assert_allclose(got, LOGITS[interaction, self_interaction], rtol=0, atol=1e-5)


# Losses of five steps; for each table the sum of the elements and of their squares after them; the
# logits of the first batch after them.
TRAINING = {
    "sgd": (
        [0.6171307, 1.1083035, 1.12369, 0.69304448, 0.65120071],
        [(-1.5023521, 3.6721881), (0.091582701, 1.538171), (5.5630485, 8.9280521)],
        [-0.4186762, -0.61014247, -0.24873796, -0.40142941, -0.63051069, -0.3301124],
    ),
    "adagrad": (
        [0.6171307, 0.95008755, 1.419937, 0.7044158, 0.7508018],
        [(-1.0383189, 3.5594295), (0.1492818, 1.6673513), (4.8514415, 8.8867755)],
        [-0.41538715, -0.59524918, 0.016409248, -0.39271778, -0.36103785, 0.14582413],
    ),
    "row_wise_adagrad": (
        [0.6171307, 0.9833023, 1.3747658, 0.70096987, 0.75015408],
        [(-1.1009011, 3.5322809), (0.53814194, 1.6294785), (4.764264, 8.6775162)],
        [-0.27518523, -0.627222, -0.33471978, -0.41824347, -0.61560899, 0.12058207],
    ),
}
OPTIMIZERS = {"sgd": SGD(0.3), "adagrad": Adagrad(0.1), "row_wise_adagrad": RowWiseAdagrad(0.1)}


@pytest.mark.parametrize("name", TRAINING)
def test_training(name):
    losses, tables, logits = TRAINING[name]
    model, batches = build("dot", False, OPTIMIZERS[name])
    if name == "sgd":
        dense = keras.optimizers.SGD(0.3)
    else:  # as the reference's, but for an epsilon that no gradient here feels
        dense = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0, epsilon=1e-20)
    model.compile(dense, keras.losses.BinaryCrossentropy(from_logits=True), run_eagerly=True)
    got = []
    for batch in batches:
        logs = model.train_on_batch(inputs_of(batch), tf.constant(batch[2]), return_dict=True)
        got.append(float(logs["loss"]))
    np.testing.assert_allclose(got, losses, rtol=3e-5)
    for k, (total, squares) in enumerate(tables):
        rows = model.embeddings.tables[f"t{k}"].read_rows().numpy().astype("f8")
        np.testing.assert_allclose([rows.sum(), (rows**2).sum()], [total, squares], rtol=3e-5)
    np.testing.assert_allclose(model(inputs_of(batches[0]))[:, 0], logits, rtol=0, atol=3e-5)
