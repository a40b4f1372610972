"""Asks TensorFlow Serving for predictions over gRPC; needs `pip install 'tf-dlrm[serving]'`.

python -m serving.grpc_client --data_dir=data/criteo_kaggle --batch_size=3
python -m serving.grpc_client --data_dir=data/criteo_kaggle --signature=serve_examples
python -m serving.grpc_client --signature=rank --inputs_file=candidates.jsonl --label=stable
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from serving.client_options import ClientOptions, Inputs, score
from tf_dlrm import entry_point
from tf_dlrm.errors import UserError, first_line
from tf_dlrm.options import define_flags, option, options_from_flags


@dataclasses.dataclass(frozen=True)
class GrpcOptions(ClientOptions):
    """The flags of the client; see `ClientOptions`."""

    server: str = option("localhost:8500", "HOST:PORT of the server; or any other gRPC target.")


class Connection:
    """A connection to a server, which many requests and threads may share.

    ```python
    with Connection(options) as connection:
        probabilities = connection.ask({"dense": dense, "C1": ids})
    ```

    Args:
        options: The flags.

    Raises:
        UserError: If the server can't be reached, or has no such model or signature.
    """

    def __init__(self, options: GrpcOptions) -> None:
        # Here, so that wrong flags are told without waiting for TensorFlow.
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._options = options
        # Where a name stands for several servers they are asked in turn, not only the first.
        policy = [("grpc.lb_policy_name", "round_robin")]
        self._channel = grpc.insecure_channel(options.server, policy)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        try:
            self._types = self._input_types()
        except BaseException:
            self._channel.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def ask(self, inputs: Inputs) -> list[float]:
        """Returns the probabilities of the rows of one request.

        Raises:
            UserError: If the server does not answer, or not with probabilities.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._name_model(request.model_spec)
        request.model_spec.signature_name = self._options.signature
        for name, value in inputs.items():
            if name not in self._types:
                raise UserError(
                    f"--signature={self._options.signature} has no input {name!r}; its inputs are "
                    f"{', '.join(sorted(self._types))}."
                )
            try:
                tensor = tf.make_tensor_proto(value, self._types[name])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"Input {name!r} is of the wrong type: {first_line(error)}."
                ) from error
            request.inputs[name].CopyFrom(tensor)
        with self._sentences():
            response = self._stub.Predict(request, timeout=self._options.timeout_seconds)
        if "probability" not in response.outputs:
            raise UserError(f"--model={self._options.model} gives no output named 'probability'.")
        probabilities: list[float] = tf.make_ndarray(response.outputs["probability"]).tolist()
        return probabilities

    def _input_types(self) -> dict[str, int]:
        """Returns the type of each input of the signature, as the server describes it."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name_model(request.model_spec)
        with self._sentences():
            response = self._stub.GetModelMetadata(request, timeout=self._options.timeout_seconds)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        wanted = self._options.signature
        if wanted not in signatures.signature_def:
            raise UserError(
                f"--model={self._options.model} has no --signature={wanted}; it has "
                f"{', '.join(sorted(signatures.signature_def))}."
            )
        inputs = signatures.signature_def[wanted].inputs
        return {name: info.dtype for name, info in inputs.items()}

    def _name_model(self, spec: Any) -> None:
        spec.name = self._options.model
        if self._options.version:
            spec.version.value = self._options.version
        if self._options.label:
            spec.version_label = self._options.label

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns gRPC's errors into sentences."""
        import grpc

        server, seconds = self._options.server, self._options.timeout_seconds
        try:
            yield
        except grpc.RpcError as error:
            details = first_line(ValueError(error.details() or "no reason given"))
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                message = f"did not answer within --timeout_seconds={seconds}"
            elif error.code() == grpc.StatusCode.UNAVAILABLE:
                message = f"is overloaded or can't be reached: {details}"
            else:
                message = f"refused the request ({error.code().name}): {details}"
            raise UserError(f"--server={server} {message}.") from error


def main() -> dict[str, Any]:
    """Checks the flags, then asks for the predictions that they want, and returns them."""
    options = options_from_flags(GrpcOptions)
    options.validate()
    with Connection(options) as connection:
        return score(options, connection.ask)


if __name__ == "__main__":
    define_flags(GrpcOptions)
    entry_point.run(main)
