"""A SavedModel in a session of TensorFlow's C API, as a server in C++ has it.

Python is on the way of no request: a call costs a few microseconds, and the tensors that go in are
made once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 9}


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Session:
    """One signature of a SavedModel."""

    def __init__(self, saved_model: str, signature: str, threads: int, between: int = 1) -> None:
        """Loads it.

        Args:
            saved_model: Its folder.
            signature: The signature's name.
            threads: Threads within an operation.
            between: Threads that start operations.
        """
        from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

        self._api = api = _library()
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=between
        )
        config.use_per_session_threads = True
        text = config.SerializeToString()
        status = api.TF_NewStatus()
        options = api.TF_NewSessionOptions()
        api.TF_SetConfig(options, text, len(text), status)
        self._check(status)
        graph = api.TF_NewGraph()
        found = api.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = api.TF_LoadSessionFromSavedModel(
            options, None, saved_model.encode(), tags, 1, graph, found, status
        )
        self._check(status)
        # The first fields of a TF_Buffer: where it begins, and its length.
        begin = ctypes.cast(found, ctypes.POINTER(ctypes.c_void_p))[0]
        length = ctypes.cast(found, ctypes.POINTER(ctypes.c_size_t))[1]
        meta = meta_graph_pb2.MetaGraphDef.FromString(ctypes.string_at(begin, length))
        self.signature = meta.signature_def[signature]
        self._graph = graph
        self._names = list(self.signature.inputs)
        places = [self._place(self.signature.inputs[name].name) for name in self._names]
        self._inputs = (_Output * len(places))(*places)
        (result,) = self.signature.outputs.values()
        self._output = (_Output * 1)(self._place(result.name))

    def request(self, values: Mapping[str, np.ndarray]) -> Any:
        """Returns tensors for `run`, by the signature's names."""
        return (ctypes.c_void_p * len(self._names))(
            *(self._tensor(values[name]) for name in self._names)
        )

    def free(self, request: Any) -> None:
        """Gives the memory of a request back."""
        for tensor in request:
            self._api.TF_DeleteTensor(ctypes.c_void_p(tensor))

    def run(self, request: Any) -> np.ndarray:
        """Returns the signature's float32 output [batch]; several threads may call it at once."""
        api = self._api
        status = api.TF_NewStatus()
        result = (ctypes.c_void_p * 1)()
        api.TF_SessionRun(
            *(self._session, None, self._inputs, request, len(self._names)),
            *(self._output, result, 1, None, 0, None, status),
        )
        self._check(status)
        api.TF_DeleteStatus(status)
        tensor = ctypes.c_void_p(result[0])
        size = api.TF_TensorByteSize(tensor)
        values: np.ndarray = np.frombuffer(
            ctypes.string_at(api.TF_TensorData(tensor), size), np.float32
        )
        api.TF_DeleteTensor(tensor)
        return values

    def _tensor(self, value: np.ndarray) -> int:
        value = np.ascontiguousarray(value)
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        kind = _DTYPES[value.dtype]
        tensor: int = self._api.TF_AllocateTensor(kind, shape, value.ndim, value.nbytes)
        data = self._api.TF_TensorData(ctypes.c_void_p(tensor))
        ctypes.memmove(data, value.ctypes.data, value.nbytes)
        return tensor

    def _place(self, name: str) -> _Output:
        operation, index = name.split(":")
        return _Output(
            self._api.TF_GraphOperationByName(self._graph, operation.encode()), int(index)
        )

    def _check(self, status: Any) -> None:
        if self._api.TF_GetCode(status):
            raise RuntimeError(self._api.TF_Message(status).decode())


def _library() -> Any:
    """Returns TensorFlow's C API."""
    import tensorflow as tf

    folder = Path(tf.sysconfig.get_lib())
    api = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=os.RTLD_GLOBAL)
    pointer = ctypes.c_void_p
    kinds = {
        "TF_NewStatus": (pointer, []),
        "TF_NewSessionOptions": (pointer, []),
        "TF_NewGraph": (pointer, []),
        "TF_NewBuffer": (pointer, []),
        "TF_DeleteStatus": (None, [pointer]),
        "TF_GetCode": (ctypes.c_int, [pointer]),
        "TF_Message": (ctypes.c_char_p, [pointer]),
        "TF_SetConfig": (None, [pointer, ctypes.c_char_p, ctypes.c_size_t, pointer]),
        "TF_LoadSessionFromSavedModel": (
            pointer,
            [pointer, pointer, ctypes.c_char_p, pointer, ctypes.c_int, pointer, pointer, pointer],
        ),
        "TF_GraphOperationByName": (pointer, [pointer, ctypes.c_char_p]),
        "TF_AllocateTensor": (pointer, [ctypes.c_int, pointer, ctypes.c_int, ctypes.c_size_t]),
        "TF_TensorData": (pointer, [pointer]),
        "TF_TensorByteSize": (ctypes.c_size_t, [pointer]),
        "TF_DeleteTensor": (None, [pointer]),
        "TF_SessionRun": (
            None,
            [pointer, pointer, pointer, pointer, ctypes.c_int, pointer, pointer, ctypes.c_int]
            + [pointer, ctypes.c_int, pointer, pointer],
        ),
    }
    for name, (result, arguments) in kinds.items():
        function = getattr(api, name)
        function.restype, function.argtypes = result, arguments
    return api
