"""Asks TensorFlow Serving for predictions over REST, with Python's standard library.

python -m serving.rest_client --data_dir=data/criteo_kaggle --batch_size=3
python -m serving.rest_client --signature=rank --inputs_file=candidates.jsonl --label=stable
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from serving.client_options import ClientOptions, Inputs, score
from tf_dlrm import entry_point
from tf_dlrm.errors import UserError, first_line
from tf_dlrm.options import define_flags, option, options_from_flags


@dataclasses.dataclass(frozen=True)
class RestOptions(ClientOptions):
    """The flags of the client; see `ClientOptions`."""

    server: str = option("localhost:8501", "HOST:PORT of the server; or its URL, if it has TLS.")


def ask(options: RestOptions, inputs: Inputs) -> list[float]:
    """Returns the probabilities of the rows of one request.

    Raises:
        UserError: If the server does not answer, or not with probabilities.
    """
    url = options.server if "://" in options.server else f"http://{options.server}"
    url += f"/v1/models/{quote(options.model, safe='')}"
    if options.version:
        url += f"/versions/{options.version}"
    if options.label:
        url += f"/labels/{quote(options.label, safe='')}"
    # By columns ("inputs") and not by rows ("instances"): the tensors of ragged columns, and of the
    # signature rank, have different numbers of rows.
    body = {"signature_name": options.signature, "inputs": inputs}
    content = _post(f"{url}:predict", body, options)
    try:
        # TensorFlow Serving gives the only output without its name.
        return [float(value) for value in json.loads(content)["outputs"]]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{url} answered with something else than probabilities.") from error


def _post(url: str, body: dict[str, Any], options: RestOptions) -> bytes:
    data = json.dumps(body, default=_plain).encode()
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=options.timeout_seconds) as response:
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} refused the request ({error.code}): {_reason(error)}.") from error
    except TimeoutError as error:
        raise _too_slow(url, options) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _too_slow(url, options) from error
        raise UserError(f"--server={options.server} can't be reached: {error.reason}.") from error
    # An OverflowError is one of the port.
    except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
        raise UserError(
            f"--server={options.server} does not speak HTTP, or the connection broke: {error!r}."
        ) from error


def _too_slow(url: str, options: RestOptions) -> UserError:
    return UserError(f"{url} did not answer within --timeout_seconds={options.timeout_seconds}.")


def _reason(error: urllib.error.HTTPError) -> str:
    """Returns what TensorFlow Serving says of an error, or what HTTP says."""
    try:
        return first_line(ValueError(str(json.loads(error.read())["error"])))
    except (OSError, ValueError, LookupError, TypeError):
        return str(error.reason)


def _plain(value: Any) -> Any:
    """Returns bytes and arrays as JSON has them."""
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value.tolist()


def main() -> dict[str, Any]:
    """Checks the flags, then asks for the predictions that they want, and returns them."""
    options = options_from_flags(RestOptions)
    options.validate()
    return score(options, functools.partial(ask, options))


if __name__ == "__main__":
    define_flags(RestOptions)
    entry_point.run(main)
