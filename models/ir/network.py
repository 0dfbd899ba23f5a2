"""The networks of a pipeline as OpenVINO runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.ir.cache import Cache
from models.ir.convert import Port, convert, unpack
from models.ir.precision import compile_network
from models.pipeline import Pipeline, RunStage, Stage

INT8 = "int8"
_BLOCKS = (8, 4, 2, 1)  # items that a stage takes at once; more gain nothing on one core
SIZES: Final = (4, 1)
"""Items that a module is compiled for; a batch is computed in parts of these. More gain nothing."""


class Networks:
    """A pipeline's networks: the module compiled for each shape of item and each of a few sizes of a batch,
    the stages with a free batch dimension.

    OpenVINO takes a fifth less time and half the memory where it knows the size. A module of several shapes
    runs its items one by one: so large items gain nothing by sharing a batch.

    Args:
        pipeline: whose module and stages are compiled, the stages at once.
        precision: of the module: ``float32``, ``bfloat16`` or ``int8``: it is the pipeline's `quantized`.
        threads: of one inference.
        cache: of converted and compiled networks; None: they are made anew.
        stage_precision: ``float32`` or ``bfloat16``.
        sizes: of the parts in which a batch is computed, falling, the last 1.

    Attributes:
        stages: for `Pipeline.with_stages`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        precision: str,
        threads: int,
        cache: Cache | None = None,
        *,
        stage_precision: str = "float32",
        sizes: Sequence[int] = SIZES,
    ) -> None:
        kept = cache if pipeline.identity else None
        make = partial(_Network, pipeline.card.name, pipeline.identity, threads, cache=kept)
        quantized = pipeline.quantized if precision == INT8 else None
        if pipeline.batch:
            sizes = (pipeline.batch,)
        self._sizes = sizes if len(pipeline.shapes) == 1 else sizes[-1:]
        self._module = make(
            INT8 if quantized else "module",
            (lambda _: unpack(quantized.read_bytes())) if quantized else partial(_converted, pipeline),
            precision=precision,
            dynamic_size=pipeline.dynamic_size,
            fixed=True,
        )
        self.stages: Mapping[str, RunStage] = {
            name: _warm_stage(make(name, partial(_converted_stage, stage), precision=stage_precision), stage)
            for name, stage in pipeline.stages.items()
        }

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Runs stacked inputs of the module, each [N, ...]: its outputs, float32 where they are floats."""
        parts = list(blocks(len(batch[0]), self._sizes))
        return joined([self._module.run([items[begin:end] for items in batch]) for begin, end in parts])


_Shapes = tuple[tuple[int, ...], ...]


class _Network:
    """A network compiled for each shape of item that it is given.

    Args:
        model, identity: of the pipeline; see `Pipeline.identity`.
        threads: of one inference.
        part: which network of the model it is.
        source: gives the `openvino.Model` for such inputs, where it is not cached.
        precision: see `models.ir.precision`.
        dynamic_size: whether one conversion serves all sizes; see `Pipeline.dynamic_size`.
        fixed: it is compiled for each size of a batch as well, not for any.
        cache: see `Networks`.
    """

    def __init__(
        self,
        model: str,
        identity: str,
        threads: int,
        part: str,
        source: Callable[[Sequence[Port]], Any],
        *,
        precision: str,
        dynamic_size: bool = False,
        fixed: bool = False,
        cache: Cache | None = None,
    ) -> None:
        self._name = f"{model}-{part}"
        self._key = (identity, part)
        self._threads = threads
        self._source = source
        self._precision = precision
        self._dynamic_size = dynamic_size
        self._fixed = fixed
        self._cache = cache
        self._compiled: dict[_Shapes, Any] = {}
        self._converted: dict[Sequence[str], Any] = {}
        self._compiling = threading.Lock()
        self._requests = threading.local()

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Runs stacked inputs, each [N, ...] of the type that the network takes."""
        rows = len(batch[0]) if self._fixed else -1
        shapes = tuple([(rows, *array.shape[1:]) for array in batch])
        requests: dict[_Shapes, Any] = self._requests.__dict__.setdefault("by_shapes", {})
        request = requests.get(shapes)
        if request is None:
            compiled = self._compile(shapes, [Port.of(one) for one in batch])
            request = requests[shapes] = compiled.create_infer_request()
        # share_outputs off: the arrays stay valid after the next infer
        result = request.infer(dict(enumerate(batch)), share_inputs=True, share_outputs=False)
        return tuple([_widened(result[index]) for index in range(len(result))])

    def _compile(self, shapes: _Shapes, ports: Sequence[Port]) -> Any:
        with self._compiling:
            if shapes not in self._compiled:
                network = partial(self._shaped, shapes, ports)
                if self._cache is None:
                    made = compile_network(network(), self._precision, self._threads)
                else:
                    key = (*self._key, str(shapes))
                    made = self._cache.compiled(self._name, key, self._precision, self._threads, network)
                self._compiled[shapes] = made
            return self._compiled[shapes]

    def _shaped(self, shapes: _Shapes, ports: Sequence[Port]) -> Any:
        network = self._made(ports)
        network.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        return network

    def _made(self, ports: Sequence[Port]) -> Any:
        """Converted once for all batches, and all sizes where it is the same at any, as it takes seconds."""
        make = partial(self._source, ports)
        if self._key[1] == INT8:  # whose source is such a file itself
            return make()
        key = self._key if self._dynamic_size else (*self._key, str([port.shape for port in ports]))
        network = self._converted.get(key)
        if network is None:
            network = make() if self._cache is None else self._cache.network(self._name, key, make)
            if self._cache is None or self._dynamic_size:
                self._converted[key] = network
        return network.clone()


def _converted(pipeline: Pipeline, ports: Sequence[Port]) -> Any:
    return convert(pipeline.module, ports) if pipeline.convert is None else pipeline.convert()


def _converted_stage(stage: Stage, ports: Sequence[Port]) -> Any:
    return convert(stage.module, ports)


def _warm_stage(network: _Network, stage: Stage) -> RunStage:
    """A stage's network for any number of items.

    It computes them in blocks: for each number of items that is new to it, OpenVINO prepares the network
    anew, which takes milliseconds and about a megabyte that it keeps.
    """
    for size in _BLOCKS:
        network.run([np.zeros((size, *stage.shape), np.float32)])

    def run(items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return joined([network.run([items[begin:end]]) for begin, end in blocks(len(items), _BLOCKS)])

    return run


def blocks(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """From which item to which each block goes: as many of the largest size as fit, then smaller ones."""
    begin = 0
    for size in sizes:
        while begin + size <= count:
            yield begin, begin + size
            begin += size


def joined(parts: Sequence[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """The outputs of all parts of a batch, in their order."""
    return (
        parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    )


def _widened(output: NDArray[Any]) -> NDArray[Any]:
    return output.astype(np.float32) if output.dtype == np.float16 else output
