"""A GPU's arithmetic of 16 bits on a CPU, which has none of its own, to judge it by the gates.

Every result is rounded to 16 bits, as a GPU writes it to its memory, and made of 16-bit inputs by sums of
float32, as its tensor cores do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from models.inference import prepare_for_gpu
from models.pipeline import Pipeline, RunStage


class Rounded(TorchDispatchMode):
    """What torch is told within it, of tensors of 16 bits, is computed in float32 and then rounded.

    Args:
        dtype: of 16 bits.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        aliases = any(one.alias_info is not None for one in func._schema.returns)
        if aliases or func._schema.name == "aten::_to_copy" or not _any(self._dtype, (args, given)):
            return func(*args, **given)
        wide_args, wide = tree_map_only(Tensor, self._widened, (args, given))
        results = func(*wide_args, **wide)
        whole = any(one.dtype == torch.float32 for one in args if isinstance(one, Tensor))
        return results if whole else tree_map_only(Tensor, self._rounded, results)

    def _widened(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == self._dtype else tensor

    def _rounded(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.dtype == torch.float32 else tensor


def _any(dtype: torch.dtype, values: Any) -> bool:
    found = False

    def look(tensor: Tensor) -> Tensor:
        nonlocal found
        found |= tensor.dtype == dtype
        return tensor

    tree_map_only(Tensor, look, values)
    return found


class Halves:
    """A pipeline's networks as a GPU runs them; in the place of `models.ir.network.Networks`.

    Args:
        pipeline: whose networks are changed in place.
        precision: of the module: ``float32``, ``float16`` or ``bfloat16``.
        stage_precision: of the stages.
    """

    def __init__(self, pipeline: Pipeline, precision: str, stage_precision: str = "float32") -> None:
        self._module = _Half(pipeline.module, precision, pipeline.examples[0], pipeline.channels_last)
        self.stages: Mapping[str, RunStage] = {
            name: _Half(stage.module, stage_precision).run_one for name, stage in pipeline.stages.items()
        }

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """As `models.ir.network.Networks.run`."""
        return self._module.run(batch)


class _Half:
    def __init__(
        self,
        module: nn.Module,
        precision: str,
        example: Sequence[NDArray[Any]] = (),
        channels_last: bool = True,
    ) -> None:
        self._dtype: torch.dtype = getattr(torch, precision)
        self._module = module
        inputs = [torch.from_numpy(one[None]) for one in example]
        prepare_for_gpu(self._module, inputs, self._dtype, channels_last=channels_last)

    def run(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        with torch.no_grad(), Rounded(self._dtype):
            outputs = self._module(*(torch.from_numpy(one) for one in batch))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple((one.float() if one.is_floating_point() else one).numpy() for one in outputs)

    def run_one(self, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return self.run([items])
