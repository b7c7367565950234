"""vLLM as a scorer: the logits of the engine that serves, in a worker of its toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.progress import Progress
from bench.engines.gpu import computes_on_gpu
from bench.engines.logit_scoring import LogitScorer
from bench.engines.scoring import ScoredOn
from bench.engines.vllm_reference import PLUGIN, lacks_kernel, reference_environment
from bench.toolchains.cpu import cpu_features_key

if TYPE_CHECKING:
    from bench.engines.vllm import VllmConfig
    from bench.toolchains.toolchain import Toolchain

#: Settings of the engine that change its numbers, or that it needs to hold the model → arguments of `vllm.LLM`.
_OPTIONS = {
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "memory_fraction": "gpu_memory_utilization",
    "attention_backend": "attention_backend",
    "dtype": "dtype",
    "kv_cache_dtype": "kv_cache_dtype",
    "block_size": "block_size",
    "quantization": "quantization",
    "seed": "seed",
}


class VllmScorer(LogitScorer):
    """Scores Hugging Face folders with the kernels and number types that `config` has the server use.

    The model is not compiled for it. A baseline is scored in a process before the variant's.
    """

    engine: ClassVar[str] = "vllm"
    format: ClassVar[str] = "hf"
    worker: ClassVar[Path] = Path(__file__).parent / "workers" / "vllm_scorer.py"

    def __init__(self, toolchain: Toolchain, config: VllmConfig, load_methods: Mapping[str, str]) -> None:
        options = {ours: getattr(config, name) for name, ours in _OPTIONS.items() if getattr(config, name) is not None}
        unpacks = lacks_kernel() and not computes_on_gpu(config)
        # The worker's Python does not read PYTHONPATH.
        settings: dict[str, Any] = {"options": options, "path": [str(PLUGIN)] if unpacks else []}
        super().__init__(toolchain, settings, ScoredOn.SAME_ARTEFACT_ELSEWHERE)
        self._words = load_methods
        self.load_methods = frozenset(load_methods)
        parts = (config.tensor_parallel_size or 1) * (config.pipeline_parallel_size or 1)
        self.environment = {
            "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
            **({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if parts == 1 else {}),
            **({} if config.threads is None else {"OMP_NUM_THREADS": str(config.threads)}),
            **({} if config.threads is None else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}),
            **(reference_environment() if unpacks else {}),
            **config.env,
        }
        self._own_environment = dict(config.env)

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        """vLLM chooses its kernels by the processor's instruction sets."""
        return {
            "options": self._settings["options"],
            "environment": self._toolchain.prefix.name,
            "unpacked": bool(self._settings["path"]),
            "env": self._own_environment,
            "cpu": cpu_features_key(),
        }

    def _run(self, request: dict[str, Any], work_dir: Path, progress: Progress) -> dict[str, Any]:
        """A baseline first, its logits in a file that is gone afterwards."""
        for name in ("load_method", "variant_load_method", "baseline_load_method"):
            if request.get(name):
                request[name] = self._words[request[name]]
        if request["task"] != "score":
            return super()._run(request, work_dir, progress)
        if request["baseline"] is None:
            return super()._run({**request, "spooled": None}, work_dir, progress)
        logits = work_dir / "baseline.npy"
        (work_dir / "baseline").mkdir(parents=True, exist_ok=True)
        try:
            super()._run({**request, "task": "spool", "logits": str(logits)}, work_dir / "baseline", progress)
            return super()._run({**request, "spooled": str(logits)}, work_dir, progress)
        finally:
            logits.unlink(missing_ok=True)
