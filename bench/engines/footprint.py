"""What an engine's settings mean for memory, in terms that all engines share; nothing is started to know it."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What an engine allocates beside weights.

    The KV cache has room for `sequences` of `tokens` each, `key_bytes` and `value_bytes` a number (fractions where they
    are packed); tokens come in blocks of `block`. `latent_cache`: latent attention is kept compressed.
    `batch_tokens` are computed at once, and the logits of `logit_tokens` are held as F32.
    `gpu_layers` are on GPUs: None all of them where there is a GPU. `needs_gpu`: the setting that does not work without
    one. `gpus` share weights and cache evenly (None: all there are), each may be filled up to `gpu_fraction`.
    `process_bytes`: the program, its libraries, a GPU's context. Formats in `unpacks` (a scheme's `packing`) are held
    as 16-bit floats. `native`: quantized weights are computed with kernels of the GPU's own, which need a compute
    capability. `set_aside_bytes` are allocated for the KV cache whatever will be in it; None: what it needs.
    """

    tokens: int
    sequences: int = 1
    block: int = 1
    key_bytes: float = 2.0
    value_bytes: float = 2.0
    latent_cache: bool = True
    batch_tokens: int = 2048
    logit_tokens: int = 1
    gpu_layers: int | None = None
    needs_gpu: str = ""
    gpus: int | None = 1
    gpu_fraction: float = 1.0
    process_bytes: int = 1024 * _MIB
    unpacks: frozenset[str] = frozenset()
    native: bool = True
    set_aside_bytes: int | None = None

    def cells(self, window: int | None = None) -> int:
        """Tokens the cache of a layer has room for; with a `window` no more than that and what is computed at once."""
        tokens = self.tokens if window is None else min(self.tokens, window + self.batch_tokens)
        return -(-tokens // self.block) * self.block * self.sequences
