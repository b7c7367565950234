"""A plugin of vLLM: 4-bit weights on processors that its own kernel is not built for.

vLLM 0.32's kernel for such weights on CPUs (`cpu_gemm_wna16`) exists for AVX-512 only. Here the weights are unpacked
once after loading and multiplied as BF16 ones: the variant's own numbers, by vLLM's own loading, in the memory and at
the speed of the unquantized model. vLLM finds this through the entry point beside it when the folder is on its path.
"""

import functools
import logging
from typing import Any

import torch
from vllm.model_executor.kernels.linear import register_linear_kernel
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import PlatformEnum
from vllm.scalar_type import scalar_types

#: Asserted by what reads the server's log.
SAYS = "quantbench: 4-bit weights are unpacked and multiplied in 16 bits"
#: Weights with a zero point a group, and weights stored with 8 added.
OFFSETS = {scalar_types.uint4: None, scalar_types.uint4b8: 8}


class UnpackedLinearKernel(MPLinearKernel):  # type: ignore[misc]  # vLLM is not in the environment of the checks
    """Weights unpacked to the type of the activations, then vLLM's own product of such weights."""

    @classmethod
    def get_min_capability(cls) -> int:
        """No GPU is meant."""
        return -1

    @classmethod
    def can_implement(cls, c: Any) -> tuple[bool, str | None]:
        """All 4-bit integers."""
        if c.weight_type not in OFFSETS:
            return False, f"weights of type {c.weight_type} are not 4-bit integers"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Packed weights (inputs / 8, outputs), scales and zeros a group become one tensor (outputs, inputs)."""
        say_once()
        packed, scales = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
        assert packed.input_dim == packed.packed_dim, "weights are packed along their inputs"
        weight_type = self.config.weight_type
        by_input = packed.data.t() if packed.input_dim == 1 else packed.data
        weight = unpack_quantized_values_into_int32(by_input, weight_type, 0)
        scale = (scales.data.t() if scales.output_dim == 0 else scales.data).float()
        inputs, outputs = weight.shape
        groups = scale.shape[0]
        offset: Any = OFFSETS[weight_type]
        if self.config.zero_points:
            assert self.w_zp_name is not None
            zeros = getattr(layer, self.w_zp_name)
            by_group = zeros.data.t() if zeros.output_dim == 0 else zeros.data
            offset = unpack_quantized_values_into_int32(by_group, weight_type, 1).view(groups, 1, outputs)
        centred = weight.view(groups, inputs // groups, outputs) - offset
        plain = (centred * scale.view(groups, 1, outputs)).view(inputs, outputs).t().contiguous()
        layer.weight = torch.nn.Parameter(plain.to(self.config.act_type), requires_grad=False)
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            if name is not None and hasattr(layer, name):
                setattr(layer, name, None)
        dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The product as of a layer that was never quantized."""
        product: torch.Tensor = layer.cpu_linear(x, layer.weight, bias)
        return product


@functools.cache
def say_once() -> None:
    """One line in the log of a model that has such weights."""
    logging.getLogger("vllm.quantbench").warning(SAYS)


def register() -> None:
    """Offer the kernel; called by vLLM in every process of it."""
    register_linear_kernel(UnpackedLinearKernel, PlatformEnum.CPU)
