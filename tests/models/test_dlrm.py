"""DLRM: a number computed by hand, gradients, fit, save and load, sentences."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, RowWiseAdagrad, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.models import DLRM, DLRMConfig


def features(dim=4, optimizer=None, rows=(30, 20, 10)):
    optimizer = optimizer or SGD(0.1)
    return tuple(
        FeatureConfig(f"C{k}", TableConfig(f"T{k}", n, dim, optimizer=optimizer))
        for k, n in enumerate(rows)
    )


def config(**changes):
    values = {
        "dense_features": 3,
        "features": features(),
        "bottom_mlp": (8, 4),
        "top_mlp": (8, 1),
    }
    return DLRMConfig(**{**values, **changes})


def data(rows=256):
    rng = np.random.default_rng(0)
    inputs = {"dense": rng.normal(size=(rows, 3)).astype("f")}
    inputs |= {f"C{k}": rng.integers(0, n, rows) for k, n in enumerate((30, 20, 10))}
    labels = (inputs["C0"] % 2 == inputs["C1"] % 2).astype("f")[:, None]
    return inputs, labels


def set_dense(layer, kernel, bias):
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def test_a_number_by_hand():
    model = DLRM(DLRMConfig(1, features(2, rows=(3, 3)), bottom_mlp=(2,), top_mlp=(1,)))
    # x = 2: bottom = relu([2*1 + 1, 2*(-1) + 4]) = [3, 2].
    set_dense(model.bottom_mlp.dense_0, [[1.0, -1.0]], [1.0, 4.0])
    model.embeddings.tables["T0"].assign_rows([[1.0, -2.0]], 1)
    model.embeddings.tables["T1"].assign_rows([[0.5, 10.0]], 2)
    # Pairs: T0.bottom = 3 - 4 = -1; T1.bottom = 1.5 + 20 = 21.5; T1.T0 = 0.5 - 20 = -19.5.
    # Logit of [3, 2, -1, 21.5, -19.5]: 3 + 20 - 100 + 21500 - 195000 + 0.25.
    set_dense(model.top_mlp.dense_0, [[1.0], [10.0], [100.0], [1000.0], [10000.0]], [0.25])
    logit = model({"dense": tf.constant([[2.0]]), "C0": tf.constant([1]), "C1": tf.constant([2])})
    assert logit.shape == (1, 1)
    np.testing.assert_allclose(logit, [[-173576.75]])


def test_projection_is_the_products_of_two_sets_of_vectors():
    projections = {"first_projection": (6, 8), "second_projection": (12,)}
    model = DLRM(config(interaction="projection", **projections))
    inputs, _ = data(5)
    vectors = model.embeddings({k: v for k, v in inputs.items() if k != "dense"})
    bottom = model.bottom_mlp(inputs["dense"]).numpy()
    flat = np.concatenate([bottom, *(vectors[f"C{k}"] for k in range(3))], 1)
    first, second = model.interaction.first, model.interaction.second
    hidden = np.maximum(flat @ first.dense_0.kernel.numpy() + first.dense_0.bias.numpy(), 0)
    a = (hidden @ first.dense_1.kernel.numpy() + first.dense_1.bias.numpy()).reshape(5, 2, 4)
    b = (flat @ second.dense_0.kernel.numpy() + second.dense_0.bias.numpy()).reshape(5, 3, 4)
    products = np.einsum("bid,bjd->bij", a, b).reshape(5, 6)
    wanted = model.top_mlp(tf.constant(np.concatenate([bottom, products], 1)))
    np.testing.assert_allclose(model(inputs), wanted, rtol=1e-4, atol=1e-5)
    other = DLRM(config(interaction="projection", **projections))
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.dense_0.kernel[:, :6], second.dense_0.kernel[:, :6])


def test_concat_and_no_dense():
    model = DLRM(DLRMConfig(0, features(2, rows=(3, 4)), (), (1,), interaction="concat"))
    model.embeddings.tables["T0"].assign_rows([[1.0, 2.0]], 1)
    model.embeddings.tables["T1"].assign_rows([[3.0, 4.0]], 2)
    set_dense(model.top_mlp.dense_0, [[1.0], [10.0], [100.0], [1000.0]], [0.0])
    logit = model({"C0": tf.constant([1]), "C1": tf.constant([2])})
    np.testing.assert_allclose(logit, [[4321.0]])


@pytest.mark.parametrize("changes", [{}, {"self_interaction": True}, {"interaction": "concat"}])
def test_dense_gradients_equal_differences(changes):
    model = DLRM(config(**changes))
    inputs, labels = data(16)

    def loss():
        logits = model(inputs)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))

    with tf.GradientTape() as tape:
        value = loss()
    weights = [
        layer.kernel for mlp in (model.bottom_mlp, model.top_mlp) for layer in mlp.dense_layers
    ]
    # The tape updates the tables, so the differences are taken around the tables as they were.
    saved = model.embeddings.tables.to_arrays()
    gradients = tape.gradient(value, weights)
    model.embeddings.tables.assign_arrays(saved)
    rng = np.random.default_rng(0)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = rng.normal(size=tuple(weight.shape)).astype("f")
        direction /= np.linalg.norm(direction)
        ends = []
        center = tf.constant(weight.numpy())
        for sign in (1, -1):
            weight.assign(center + sign * 1e-2 * direction)
            ends.append(float(loss()))
        weight.assign(center)
        np.testing.assert_allclose(
            np.sum(gradient * direction), (ends[0] - ends[1]) / 2e-2, rtol=0.02, atol=2e-4
        )


def test_a_column_of_ids_is_a_bag_of_one():
    model = DLRM(config())
    inputs, _ = data(16)
    columns = {k: v if k == "dense" else v[:, None] for k, v in inputs.items()}
    np.testing.assert_allclose(model(columns), model(inputs), rtol=1e-6)


def test_batch_of_one_equals_the_batch():
    model = DLRM(config())
    inputs, _ = data(5)
    whole = model(inputs)
    for k in range(5):
        one = model({name: value[k : k + 1] for name, value in inputs.items()})
        np.testing.assert_allclose(one, whole[k : k + 1], rtol=1e-5, atol=1e-6)


def test_save_and_load(tmp_path):
    inputs, labels = data()
    made = config(
        features=features(optimizer=RowWiseAdagrad(0.1)), self_interaction=True, dropout=0.2, seed=3
    )
    model = DLRM(made)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(inputs, labels, verbose=0)
    expected = model(inputs).numpy()
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.config == made
    np.testing.assert_array_equal(loaded(inputs), expected)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    other = DLRM(config(features=features(optimizer=RowWiseAdagrad(0.1)), self_interaction=True))
    assert not np.allclose(other(inputs), expected)
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other(inputs), expected)


def test_config_round_trip():
    made = config(interaction="concat", dropout=0.1, seed=7)
    assert DLRMConfig.from_json(made.to_json()) == made
    model = DLRM(made, name="mine")
    copy = DLRM.from_config(model.get_config())
    assert copy.config == made and copy.name == "mine"


def test_equal_seeds_give_equal_models():
    inputs, _ = data(4)
    logits = [DLRM(config(seed=s))(inputs).numpy() for s in (1, 1, 2)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def test_saved_model_loads_with_tensorflow_alone(tmp_path):
    model = DLRM(config())
    inputs, _ = data(4)

    @tf.function(autograph=False)
    def serve(inputs):
        return model(inputs, training=False)

    specs = {
        k: tf.TensorSpec([None, *v.shape[1:]], tf.as_dtype(v.dtype), name=k)
        for k, v in inputs.items()
    }
    module = tf.Module()
    stacks = model.embeddings.placement.stacks
    module.kept = [*(stack.on().variable for stack in stacks), *model.weights]
    module.serve = serve.get_concrete_function(specs)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    got = loaded.serve(**{k: tf.constant(v) for k, v in inputs.items()})
    np.testing.assert_allclose(got, model(inputs), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bottom_mlp": (8, 5)}, "bottom_mlp must end at the embedding dim, 4"),
        ({"top_mlp": (8, 2)}, r"top_mlp must end in 1, the logit, but is \(8, 2\)"),
        ({"top_mlp": ()}, "top_mlp must end in 1"),
        ({"features": features(4)[:1] + features(5)[1:]}, "needs tables of one dim"),
        ({"interaction": "cat"}, "interaction must be one of"),
        ({"interaction": "concat", "self_interaction": True}, "self_interaction is for"),
        ({"interaction": "projection"}, "first_projection must have layers if and only if"),
        ({"first_projection": (4,)}, r"first_projection must .*, but is \(4,\) for 'dot'"),
        (
            {"interaction": "projection", "first_projection": (8,), "second_projection": (6,)},
            "second_projection must end in a multiple of the embedding dim, 4, but is",
        ),
        ({"dense_features": 0}, "if and only if there are dense features"),
        ({"dense_features": -1}, "dense_features must be"),
        ({"features": ()}, "at least one feature"),
        (
            {"features": (FeatureConfig("dense", TableConfig("t", 3, 4, optimizer=SGD(0.01))),)},
            "may be named 'dense'",
        ),
    ],
)
def test_bad_configs_are_sentences(changes, words):
    with pytest.raises(ValueError, match=words):
        config(**changes)


def test_missing_dense_is_a_sentence():
    inputs, _ = data(4)
    del inputs["dense"]
    with pytest.raises(ValueError, match="have no 'dense'"):
        DLRM(config())(inputs)
