"""An exported network with its normalisation before it, for Torch and for OpenVINO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.exported.input import Input
from models.exported.network import Network, flatten
from models.exported.options import InputOptions
from models.ir.convert import forgo_telemetry


class ExportedModule(nn.Module):
    """A network with its normalisation before it: uint8 Tensor[N, H, W, C], RGB -> its outputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, given: Input, options: InputOptions) -> None:
        super().__init__()
        self._source, self._input, self._options = network, given, options
        self._network: nn.Module | None = None
        self.register_buffer("mean", torch.tensor(options.mean) * options.scale, persistent=False)
        self.register_buffer("std", torch.tensor(options.std) * options.scale, persistent=False)

    @property
    def network(self) -> nn.Module:
        """Made when Torch is to run it, which it is not on a CPU with OpenVINO."""
        if self._network is None:
            # not as a child: an exported graph cannot bear the other layout in memory that children get
            self.__dict__["_network"] = self._source.module()
        assert self._network is not None  # noqa: S101
        return self._network

    def to(self, *args: Any, **kwargs: Any) -> ExportedModule:
        """As every module. A layout in memory is not followed: the graph's views are of the usual one."""
        kwargs.pop("memory_format", None)
        if args or kwargs:
            super().to(*args, **kwargs)
            self.network.to(*args, **kwargs)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 Tensor[N, H, W, C], RGB or grey -> the outputs, flattened into one tuple."""
        inputs = images
        if self._options.colour == "bgr":
            inputs = inputs.flip(3)
        if self._input.dtype != "uint8":
            inputs = ((inputs.float() - self.mean) / self.std).to(getattr(torch, self._input.dtype))
        if self._input.layout == "nchw":
            inputs = inputs.permute(0, 3, 1, 2).contiguous()
        return flatten(self.network(inputs))

    def openvino(self) -> Any:
        """The same as an `openvino.Model`: uint8 [N, H, W, C] -> the outputs.

        Raises:
            WeightsError: OpenVINO cannot convert the network.
        """
        forgo_telemetry()
        from openvino import Layout, Type
        from openvino.preprocess import PrePostProcessor

        given, options = self._input, self._options
        model = self._source.openvino(given.batch, given.item, given.dtype)
        model.reshape({0: [given.batch or -1, *given.item]})
        steps = PrePostProcessor(model)
        port = steps.input(0)
        port.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
        port.model().set_layout(Layout(given.layout.upper()))
        if options.colour == "bgr":
            port.preprocess().reverse_channels()
        if given.dtype != "uint8":
            channels = given.channels
            # float32 also for a network of halves: the port's own type follows by itself
            port.preprocess().convert_element_type(Type.f32).mean(self.mean.expand(channels).tolist()).scale(
                self.std.expand(channels).tolist()
            )
        return steps.build()
