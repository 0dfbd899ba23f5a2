"""The networks of a pipeline as OpenVINO runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.ir.cache import Cache
from models.ir.convert import Port, convert, unpack
from models.ir.precision import compile_network
from models.pipeline import Pipeline, RunStage, Stage

INT8 = "int8"
_BLOCKS = (8, 4, 2, 1)  # items that a stage takes at once; more gain nothing on one core


class Networks:
    """A pipeline's networks, each compiled once for each shape of item, with a free batch dimension.

    A module of several shapes runs its items one by one, for which it is compiled: that takes half the memory
    and a quarter less time, and so large items gain nothing by sharing a batch.

    Args:
        pipeline: whose module and stages are compiled, the stages at once.
        precision: of the module: ``float32``, ``bfloat16`` or ``int8``: it is the pipeline's `quantized`.
        threads: of one inference.
        cache: of converted and compiled networks; None: they are made anew.
        stage_precision: ``float32`` or ``bfloat16``.

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
    ) -> None:
        kept = cache if pipeline.identity else None
        make = partial(_Network, pipeline.card.name, pipeline.identity, threads, cache=kept)
        quantized = pipeline.quantized if precision == INT8 else None
        self._one_by_one = not pipeline.batch and len(pipeline.shapes) > 1
        self._module = make(
            INT8 if quantized else "module",
            (lambda _: unpack(quantized.read_bytes())) if quantized else partial(_converted, pipeline),
            precision=precision,
            dynamic_size=pipeline.dynamic_size,
            rows=1 if self._one_by_one else pipeline.batch or -1,
        )
        self.stages: Mapping[str, RunStage] = {
            name: _warm_stage(make(name, partial(_converted_stage, stage), precision=stage_precision), stage)
            for name, stage in pipeline.stages.items()
        }

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Runs stacked inputs of the module, each [N, ...]: its outputs, float32 where they are floats."""
        if not self._one_by_one or len(batch[0]) == 1:
            return self._module.run(batch)
        rows = [
            self._module.run([items[index : index + 1] for items in batch]) for index in range(len(batch[0]))
        ]
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))


class _Network:
    """A network compiled for each shape of item that it is given.

    Args:
        model, identity: of the pipeline; see `Pipeline.identity`.
        threads: of one inference.
        part: which network of the model it is.
        source: gives the `openvino.Model` for such inputs, where it is not cached.
        precision: see `models.ir.precision`.
        dynamic_size: whether one conversion serves all sizes; see `Pipeline.dynamic_size`.
        rows: of a batch; -1: any number.
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
        rows: int = -1,
        cache: Cache | None = None,
    ) -> None:
        self._name = f"{model}-{part}"
        self._key = (identity, part)
        self._threads = threads
        self._source = source
        self._precision = precision
        self._dynamic_size = dynamic_size
        self._rows = rows
        self._cache = cache
        self._compiled: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._converted: Any = None
        self._compiling = threading.Lock()
        self._requests = threading.local()

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Runs stacked inputs, each [N, ...] of the type that the network takes."""
        shapes = tuple([array.shape[1:] for array in batch])
        requests: dict[Any, Any] = self._requests.__dict__.setdefault("by_shapes", {})
        request = requests.get(shapes)
        if request is None:
            request = requests[shapes] = self._compile([Port.of(one) for one in batch]).create_infer_request()
        # share_outputs off: the arrays stay valid after the next infer
        result = request.infer(dict(enumerate(batch)), share_inputs=True, share_outputs=False)
        return tuple([_widened(result[index]) for index in range(len(result))])

    def _compile(self, ports: Sequence[Port]) -> Any:
        shapes = tuple([port.shape for port in ports])
        with self._compiling:
            if shapes not in self._compiled:
                network = partial(self._shaped, ports)
                if self._cache is None:
                    made = compile_network(network(), self._precision, self._threads)
                else:
                    key = (*self._key, f"{self._rows} x {shapes}")
                    made = self._cache.compiled(self._name, key, self._precision, self._threads, network)
                self._compiled[shapes] = made
            return self._compiled[shapes]

    def _shaped(self, ports: Sequence[Port]) -> Any:
        network = self._made(ports)
        network.reshape({index: [self._rows, *port.shape] for index, port in enumerate(ports)})
        return network

    def _made(self, ports: Sequence[Port]) -> Any:
        """Converted; a network that is the same at any size is converted once, since that takes seconds."""
        if self._dynamic_size and self._converted is not None:
            return self._converted.clone()
        make = partial(self._source, ports)
        key = self._key if self._dynamic_size else (*self._key, str([port.shape for port in ports]))
        if self._cache is None or self._key[1] == INT8:  # whose source is such a file itself
            network = make()
        else:
            network = self._cache.network(self._name, key, make)
        if self._dynamic_size:
            self._converted = network.clone()
        return network


def _converted(pipeline: Pipeline, ports: Sequence[Port]) -> Any:
    return convert(pipeline.module, ports) if pipeline.convert is None else pipeline.convert()


def _converted_stage(stage: Stage, ports: Sequence[Port]) -> Any:
    return convert(stage.module, ports)


def _warm_stage(network: _Network, stage: Stage) -> RunStage:
    """A stage's network for any number of items.

    It computes them in blocks of powers of two: for each number of items that is new to it, OpenVINO prepares
    the network anew, which takes milliseconds and about a megabyte that it keeps.
    """
    for size in _BLOCKS:
        network.run([np.zeros((size, *stage.shape), np.float32)])

    def run(items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        done = [network.run([items[begin:end]]) for begin, end in blocks(len(items))]
        return (
            done[0]
            if len(done) == 1
            else tuple(np.concatenate(outputs) for outputs in zip(*done, strict=True))
        )

    return run


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """From which item to which each block goes: as many of the largest size as fit, then smaller ones."""
    begin = 0
    for size in _BLOCKS:
        while begin + size <= count:
            yield begin, begin + size
            begin += size


def _widened(output: NDArray[Any]) -> NDArray[Any]:
    return output.astype(np.float32) if output.dtype == np.float16 else output
