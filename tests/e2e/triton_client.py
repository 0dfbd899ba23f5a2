"""`python triton_client.py HTTP_ADDRESS GRPC_ADDRESS`: what tritonclient makes of the service, as JSON.

A process of its own: the messages of tritonclient have the names of ours, and a process has room for one.
Standard input: {"pictures": {model: [base64, ...]}, "pixels": {model: shape}, "forms": [model, ...]};
to the last every form of a request is sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException


def plain(result: Any, names: list[str]) -> dict[str, Any]:
    """A result's arrays as lists, with their types."""
    arrays = {name: result.as_numpy(name) for name in names}
    return {
        name: {"dtype": str(array.dtype), "shape": array.shape, "data": _list(array)}
        for name, array in arrays.items()
    }


def answered(metadata: Any) -> list[str]:
    """The outputs of a request that names none: an embedding is answered where it is asked for."""
    return [output["name"] for output in metadata["outputs"] if output["name"] != "embedding"]


def _list(array: Any) -> Any:
    if array.dtype == np.object_:
        return [_text(element) for element in array.ravel()]
    return array.tolist()


def _text(element: bytes | str) -> str:
    """A text as it is, a picture as base64, which is what it is in JSON already."""
    if isinstance(element, str):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        return base64.b64encode(element).decode()


def image(client: Any, pictures: list[bytes], **options: Any) -> Any:
    tensor = client.InferInput("image", [len(pictures), 1], "BYTES")
    elements = np.array(pictures, dtype=np.object_).reshape(-1, 1)
    tensor.set_data_from_numpy(elements, **options)
    return tensor


def pixels(client: Any, shape: list[int]) -> Any:
    values = np.random.default_rng(0).integers(0, 256, [2, *shape], np.uint8)
    tensor = client.InferInput("pixels", list(values.shape), "UINT8")
    tensor.set_data_from_numpy(values)
    return tensor


def forms_over_http(client: Any, model: str, encoded: list[str], names: list[str]) -> dict[str, Any]:
    pictures = [base64.b64decode(one) for one in encoded]
    found: dict[str, Any] = {}
    for packing in ("gzip", "deflate"):
        result = client.infer(
            model,
            [image(over_http, pictures)],
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
            priority=1,
            timeout=30_000_000,
        )
        found[packing] = plain(result, names)
    # JSON has no bytes: a picture in it is base64
    text = [one.encode() for one in encoded]
    wanted = [over_http.InferRequestedOutput(name, binary_data=False) for name in names]
    tensor = image(over_http, text, binary_data=False)
    found["json"] = plain(client.infer(model, [tensor], outputs=wanted, request_id="7"), names)
    handle = client.async_infer(model, [image(over_http, pictures)])
    found["async"] = plain(handle.get_result(), names)
    return found


def seen_over_http(address: str, wish: dict[str, Any]) -> dict[str, Any]:
    client = over_http.InferenceServerClient(address)
    seen: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(),
        "index": client.get_model_repository_index(),
        "unknown": client.is_model_ready("unknown"),
        "models": {},
    }
    for model, encoded in wish["pictures"].items():
        pictures = [base64.b64decode(one) for one in encoded]
        metadata = client.get_model_metadata(model)
        names = answered(metadata)
        found: dict[str, Any] = {
            "ready": client.is_model_ready(model, "1"),
            "metadata": metadata,
            "config": client.get_model_config(model),
            "binary": plain(client.infer(model, [image(over_http, pictures)]), names),
        }
        if model in wish["forms"]:
            found |= forms_over_http(client, model, encoded, names)
        if model in wish["pixels"]:
            tensor = pixels(over_http, wish["pixels"][model])
            found["pixels"] = plain(client.infer(model, [tensor]), names)
        if names == ["scores"]:
            best = [over_http.InferRequestedOutput("scores", class_count=3)]
            found["classes"] = plain(client.infer(model, [image(over_http, pictures)], outputs=best), names)
        found["statistics"] = client.get_inference_statistics(model)["model_stats"][0]
        seen["models"][model] = found
    seen["error"] = error(lambda: client.infer("unknown", [image(over_http, [b"x"])]))
    seen["bad"] = error(lambda: client.infer(model, [image(over_http, [*pictures, b"x"])]))
    client.close()
    return seen


def seen_over_grpc(address: str, wish: dict[str, Any]) -> dict[str, Any]:
    client = over_grpc.InferenceServerClient(address)
    seen: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(as_json=True),
        "index": client.get_model_repository_index(as_json=True)["models"],
        "models": {},
    }
    for model, encoded in wish["pictures"].items():
        pictures = [base64.b64decode(one) for one in encoded]
        metadata = client.get_model_metadata(model, as_json=True)
        names = answered(metadata)
        found: dict[str, Any] = {
            "ready": client.is_model_ready(model),
            "metadata": metadata,
            "config": client.get_model_config(model, as_json=True)["config"],
            "binary": plain(
                client.infer(
                    model,
                    [image(over_grpc, pictures)],
                    priority=1,
                    timeout=30_000_000,
                    client_timeout=30,
                    compression_algorithm="gzip",
                ),
                names,
            ),
        }
        if model in wish["pixels"]:
            tensor = pixels(over_grpc, wish["pixels"][model])
            found["pixels"] = plain(client.infer(model, [tensor]), names)
        if names == ["scores"]:
            best = [over_grpc.InferRequestedOutput("scores", class_count=3)]
            found["classes"] = plain(client.infer(model, [image(over_grpc, pictures)], outputs=best), names)
        statistics = client.get_inference_statistics(model, as_json=True)
        found["statistics"] = statistics["model_stats"][0]
        seen["models"][model] = found
    seen["error"] = error(lambda: client.infer("unknown", [image(over_grpc, [b"x"])]))
    seen["late"] = error(lambda: client.infer(model, [image(over_grpc, pictures)], timeout=1))
    client.close()
    return seen


def error(call: Any) -> list[str]:
    try:
        call()
    except InferenceServerException as exc:
        return [exc.status(), exc.message()]
    return []


async def seen_by_aio(http: str, grpc: str, wish: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {"http": {}, "grpc": {}, "stream": {}}
    async with (
        over_http_aio.InferenceServerClient(http) as first,
        over_grpc_aio.InferenceServerClient(grpc) as second,
    ):
        for model in wish["forms"]:
            pictures = [base64.b64decode(one) for one in wish["pictures"][model]]
            names = answered(await first.get_model_metadata(model))
            result = await first.infer(model, [image(over_http, pictures)])
            seen["http"][model] = plain(result, names)
            result = await second.infer(model, [image(over_grpc, pictures)])
            seen["grpc"][model] = plain(result, names)

            async def requests(
                model: str = model, pictures: list[bytes] = pictures
            ) -> Any:  # as the stream wants them
                for number, some in enumerate((pictures, [b"broken"], pictures)):
                    tensors = [image(over_grpc, some)]
                    yield {"model_name": model, "inputs": tensors, "request_id": str(number)}

            stream = second.stream_infer(requests())
            replies = [reply async for reply in stream]
            seen["stream"][model] = [
                str(problem) if problem is not None else plain(result, names) for result, problem in replies
            ]
    return seen


def main() -> None:
    http, grpc = sys.argv[1:]
    wish = json.load(sys.stdin)
    told = {"http": seen_over_http(http, wish), "grpc": seen_over_grpc(grpc, wish)}
    told["aio"] = asyncio.run(seen_by_aio(http, grpc, wish))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
