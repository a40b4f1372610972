"""Whether TensorFlow and Keras, in the versions that are installed, have what is private in them.

A new version fails here first, in a sentence for each name that it lacks.
"""

import ast
import importlib
import inspect
import pathlib

import pytest

from tf_dlrm.keras_api import keras, uses_legacy_keras

_ROOT = pathlib.Path(__file__).parents[1]
_ALLOWED = {"tf_dlrm/internals.py", "tf_dlrm/keras_internals.py"}
_P = "tensorflow.python."
_TENSORFLOW = {
    (
        _P + "checkpoint.functional_saver",
        "MultiDeviceSaver",
    ): "parts of a checkpoint",
    (_P + "eager.tape", "push_tape"): "a tape is asked what it has recorded",
    (_P + "eager.tape", "pop_tape"): "a tape is asked what it has recorded",
    (
        _P + "framework.convert_to_constants",
        "convert_variables_to_constants_v2",
    ): "the dense part of an export has its weights as constants",
    (_P + "ops.control_flow_util", "GraphOrParentsInXlaContext"): "XLA does not check ids",
    (_P + "ops.control_flow_v2_func_graphs", "CondBranchFuncGraph"): "gradients from a branch",
    (_P + "ops.control_flow_v2_func_graphs", "WhileBodyFuncGraph"): "gradients from a loop",
    (_P + "ops.gradients_util", "PossibleTapeGradientTypes"): "whether a tape records a call",
    (_P + "ops.gradients_util", "_GradientsHelper"): "gradients of graphs end a walk up the stack",
    (_P + "ops.collective_ops", "all_to_all_v2"): "the exchange between processes",
    (_P + "ops.collective_ops", "all_to_all_v3"): "the exchange within a process",
    (_P + "ops.collective_ops", "initialize_communicator"): "the exchange within a process",
    (_P + "ops.resource_variable_ops", "ResourceVariable"): "tables that no strategy copies",
    (_P + "saved_model.fingerprinting_utils", "write_fingerprint"): "the fingerprint of an export",
    (_P + "saved_model.save_context", "in_save_context"): "no kernels in what is exported",
    (_P + "trackable.base", "VARIABLE_VALUE_KEY"): "counters in a checkpoint",
    (_P + "trackable.base", "SaveType"): "tables are in checkpoints, not in a SavedModel",
    (_P + "trackable.base", "Trackable"): "tables in a checkpoint",
    (_P + "trackable.trackable_utils", "escape_local_name"): "keys of tables in a checkpoint",
    (_P + "training.saving.saveable_object", "SaveableObject"): "tables in a checkpoint",
    (_P + "training.saving.saveable_object", "SaveSpec"): "tables in a checkpoint",
}
_METHODS_OF_TENSORFLOW = {
    ("tensorflow", "__internal__.decorator.make_decorator"): "Keras 2 sees a call's arguments",
    (
        "tensorflow",
        "__internal__.eager_context.eager_mode",
    ): "a graph of its own while rows are cut",
    ("tensorflow", "train.Checkpoint._write"): "workers write a checkpoint together",
    (_P + "framework.ops", "Operation._set_attr"): "a complaint's branch stays one node",
    (_P + "checkpoint.checkpoint", "TrackableSaver._gather_serialized_tensors"): "the same",
    (_P + "trackable.base", "Trackable._gather_saveables_for_checkpoint"): "tables in a checkpoint",
    (_P + "trackable.base", "Trackable._lookup_dependency"): "tables in a checkpoint",
    (_P + "trackable.base", "Trackable._restore_from_tensors"): "counters in a checkpoint",
    (_P + "trackable.base", "Trackable._serialize_to_tensors"): "counters in a checkpoint",
    (_P + "trackable.base", "Trackable._trackable_children"): "tables in a checkpoint",
    (_P + "tpu.tpu_embedding_v2", "TPUEmbedding._load_variables"): "rows to a TPU",
    (_P + "tpu.tpu_embedding_v2", "TPUEmbedding._retrieve_variables"): "rows from a TPU",
}
_KERAS_2 = {
    ("tf_keras", "layers.Layer._flatten_layers"): "the state of random numbers in all layers",
    ("tf_keras", "optimizers.Optimizer._use_weight_decay"): "tables follow no weight decay",
    ("tf_keras", "optimizers.Optimizer._var_key"): "one operation for the update of a weight",
}
_KERAS_3 = {
    ("keras.src.backend.common.stateless_scope", "get_stateless_scope"): "stateless_call",
    ("keras.src.backend.common.stateless_scope", "StatelessScope.get_current_value"): "the same",
    ("keras.src.backend.common.symbolic_scope", "in_symbolic_scope"): "shapes of outputs",
    ("keras", "Model._maybe_symbolic_build"): "shapes of a batch under a strategy",
    ("keras", "Variable._initialize"): "rows of tables as weights",
    ("keras", "Variable._initialize_with_initializer"): "rows of tables as weights",
    ("keras", "layers.Layer._flatten_layers"): "the state of random numbers in all layers",
    ("keras", "layers.Layer._track_variable"): "rows of tables as weights",
    ("keras", "optimizers.Optimizer._use_weight_decay"): "tables follow no weight decay",
    ("keras", "Model.get_state_tree"): "tables whose slots have no place in a state tree",
}
_KERAS = _KERAS_2 if uses_legacy_keras() else _KERAS_3
_ALL = {**_TENSORFLOW, **_METHODS_OF_TENSORFLOW, **_KERAS}


@pytest.mark.parametrize(("module", "name"), _ALL, ids=lambda text: text.rpartition(".")[2])
def test_this_version_has_the_name(module, name):
    purpose = f"which tf_dlrm needs for this: {_ALL[module, name]}"
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise AssertionError(f"There is no module {module}, {purpose}.") from error
    for part in name.split("."):
        assert hasattr(found, part), f"{module} has no {name}, {purpose}."
        found = getattr(found, part)


def test_functions_on_the_call_stack_have_the_variables_that_are_read_there():
    """Some are asked while they run; see `asked_gradients` and `writes_optimizer_to_h5`."""
    tensorflow = importlib.import_module("tensorflow")
    for name in ("gradient", "jacobian", "batch_jacobian"):
        names = getattr(tensorflow.GradientTape, name).__code__.co_varnames
        assert "self" in names, f"GradientTape.{name} has no `self`, but {names}."
    assert "sources" in tensorflow.GradientTape.gradient.__code__.co_varnames
    module = importlib.import_module(
        "tf_keras.src.saving.legacy.hdf5_format"
        if uses_legacy_keras()
        else "keras.src.legacy.saving.legacy_h5_format"
    )
    names = module.save_model_to_hdf5.__code__.co_varnames
    assert {"model", "include_optimizer"} <= set(names), f"save_model_to_hdf5 has {names}."


def test_objects_have_the_fields_that_are_read():
    tensorflow = importlib.import_module("tensorflow")
    checkpoint = tensorflow.train.Checkpoint()
    embedding = tensorflow.tpu.experimental.embedding.TPUEmbedding
    assert "self._variables = " in inspect.getsource(embedding), "It has no _variables."
    assert hasattr(checkpoint, "_saver"), "A Checkpoint has no _saver."
    with tensorflow.GradientTape() as tape:
        assert hasattr(tape, "_tape"), "A GradientTape has no _tape."
    layer = keras.layers.Dense(1)
    if not uses_legacy_keras():
        assert hasattr(layer, "dtype_policy"), "A layer of Keras 3 has no dtype_policy."
        model = keras.Model()
        assert hasattr(model, "_distribute_strategy"), "A Model has no _distribute_strategy."
    else:
        assert hasattr(layer, "_non_trainable_weights"), "A layer has no _non_trainable_weights."
        weight = tensorflow.Variable([1.0])
        for make, names in (
            (keras.optimizers.Adagrad, ["_accumulators"]),
            (keras.optimizers.Adam, ["_momentums", "_velocities"]),
        ):
            optimizer = make()
            optimizer.build([weight])
            for name in ("_index_dict", *names):
                assert hasattr(optimizer, name), f"{make.__name__} of Keras 2 has no {name}."
        assert hasattr(layer, "_dtype_policy"), "A layer of Keras 2 has no _dtype_policy."


def _modules():
    for room in ("tf_dlrm", "tfrecords", "serving"):
        for path in sorted((_ROOT / room).rglob("*.py")):
            yield path.relative_to(_ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _imported(tree):
    """Yields (module, name) of what is imported, and (text, "") of texts that name a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, ""


def _is_private(module):
    return module.startswith(("tensorflow.python", "keras.src", "tf_keras.src"))


def test_nothing_else_imports_what_is_private_in_tensorflow_or_keras():
    wrong = [
        f"{path} imports {module}"
        for path, tree in _modules()
        if path not in _ALLOWED
        for module, _ in _imported(tree)
        if _is_private(module) and " " not in module
    ]
    assert not wrong, f"These belong into tf_dlrm/(keras_)internals.py: {wrong}"


def test_every_private_import_is_in_the_list():
    listed = {f"{module}.{name}" for module, name in {**_TENSORFLOW, **_KERAS_3}}
    for path, tree in _modules():
        if path in _ALLOWED:
            for module, name in _imported(tree):
                if _is_private(module):
                    full = f"{module}.{name}".rstrip(".")
                    known = any(entry == full or entry.startswith(f"{full}.") for entry in listed)
                    assert known, f"{path} imports {full}, which is not listed here."


def test_fields_of_others_are_read_in_no_other_module():
    """An attribute that begins with an underscore and that nothing here defines is another's."""
    defined, used = {"_exit"}, {}
    for path, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                if isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
                elif not node.attr.startswith("__") and path not in _ALLOWED:
                    used.setdefault(node.attr, path)
    # The address of tf.data.experimental.service.DispatchServer, as its own __del__ has it.
    used.pop("_address", None)
    others = {name: path for name, path in used.items() if name not in defined}
    assert not others, f"These belong into tf_dlrm/(keras_)internals.py: {others}"
