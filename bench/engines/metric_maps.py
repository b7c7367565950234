"""Which of an engine's own metrics is which common name; one map for each family of servers.

vLLM: v1/metrics/loggers.py. llama.cpp: tools/server/server-task.cpp. SGLang: observability/metrics_collector.py.
TGI: docs/source/reference/metrics.md. TensorRT-LLM: metrics/collector.py and the iteration statistics of trtllm-serve.
"""

from __future__ import annotations

from bench.engines.metrics import Format, MetricMap, Over, Ratio, Scalar, Source, Timing, Value

VLLM = MetricMap(
    scalars={
        Scalar.RUNNING: (Value(("vllm:num_requests_running",)),),
        Scalar.WAITING: (Value(("vllm:num_requests_waiting",)),),
        # One value an engine of a data-parallel server: the fullest one preempts first.
        Scalar.KV_CACHE_USE: (Value(("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), Over.MAX),),
        Scalar.PREFIX_CACHE_HIT_RATE: (
            Ratio(
                Value(("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits")),
                (Value(("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries")),),
            ),
        ),
        Scalar.PREEMPTIONS: (Value(("vllm:num_preemptions",)),),
        Scalar.PROMPT_TOKENS: (Value(("vllm:prompt_tokens",)),),
        Scalar.GENERATION_TOKENS: (Value(("vllm:generation_tokens",)),),
    },
    timings={
        Timing.TTFT: ("vllm:time_to_first_token_seconds",),
        # Older versions have the second name; it too holds one value a step.
        Timing.ITL: ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        Timing.TPOT: ("vllm:request_time_per_output_token_seconds",),
        Timing.E2E: ("vllm:e2e_request_latency_seconds",),
        Timing.QUEUE: ("vllm:request_queue_time_seconds",),
        Timing.PREFILL: ("vllm:request_prefill_time_seconds",),
    },
    notes={
        Timing.ITL: "one value an output step, however many tokens are in it",
        Timing.TPOT: "a request of one token counts with 0",
    },
)

LLAMA_CPP = MetricMap(
    scalars={
        Scalar.RUNNING: (Value(("llamacpp:requests_processing",)),),
        Scalar.WAITING: (Value(("llamacpp:requests_deferred",)),),
        Scalar.KV_CACHE_USE: (Value(("llamacpp:kv_cache_usage_ratio",)),),
        # Its prompt_tokens are those it processed, without the cached ones.
        Scalar.PREFIX_CACHE_HIT_RATE: (
            Ratio(
                Value(("llamacpp:prompt_tokens_cached",)),
                (Value(("llamacpp:prompt_tokens",)), Value(("llamacpp:prompt_tokens_cached",))),
            ),
        ),
        Scalar.PROMPT_TOKENS: (Value(("llamacpp:prompt_tokens",)),),
        Scalar.GENERATION_TOKENS: (Value(("llamacpp:tokens_predicted",)),),
    },
    timings={},
    missing={
        Scalar.PREEMPTIONS: "llama-server does not preempt: every slot has its own context",
        **dict.fromkeys(Timing, "llama-server has no histograms"),
    },
    notes={
        Scalar.KV_CACHE_USE: "older servers only",
        Scalar.PROMPT_TOKENS: "without those from the cache",
    },
)

SGLANG = MetricMap(
    scalars={
        Scalar.RUNNING: (Value(("sglang:num_running_reqs",)),),
        Scalar.WAITING: (Value(("sglang:num_queue_reqs",)),),
        Scalar.KV_CACHE_USE: (Value(("sglang:token_usage",), Over.MAX),),
        Scalar.PREFIX_CACHE_HIT_RATE: (
            Ratio(Value(("sglang:cached_tokens",)), (Value(("sglang:prompt_tokens",)),)),
            Value(("sglang:cache_hit_rate",), Over.MAX),
        ),
        Scalar.PREEMPTIONS: (Value(("sglang:num_retracted_requests",)),),
        Scalar.PROMPT_TOKENS: (Value(("sglang:prompt_tokens",)),),
        Scalar.GENERATION_TOKENS: (Value(("sglang:generation_tokens",)),),
    },
    timings={
        Timing.TTFT: ("sglang:time_to_first_token_seconds",),
        Timing.ITL: ("sglang:inter_token_latency_seconds",),
        Timing.TPOT: ("sglang:request_time_per_output_token_seconds",),
        Timing.E2E: ("sglang:e2e_request_latency_seconds",),
        Timing.QUEUE: ("sglang:queue_time_seconds",),
    },
    missing={
        Timing.PREFILL: "one of many stages of per_stage_req_latency_seconds, whose names change between versions",
    },
    notes={
        Scalar.PREEMPTIONS: "SGLang calls them retractions; older versions do not count them",
        Scalar.PREFIX_CACHE_HIT_RATE: "before cached_tokens was counted: of the last prefill batch only",
        Timing.TPOT: "the older time_per_output_token_seconds is e2e / tokens, with the first token in it: not read",
    },
)

TGI = MetricMap(
    scalars={
        Scalar.RUNNING: (Value(("tgi_batch_current_size",)),),
        Scalar.WAITING: (Value(("tgi_queue_size",)),),
        Scalar.PROMPT_TOKENS: (Value(("tgi_request_input_length_sum",)),),
        Scalar.GENERATION_TOKENS: (Value(("tgi_request_generated_tokens_sum",)),),
    },
    timings={
        Timing.TPOT: ("tgi_request_mean_time_per_token_duration",),
        Timing.E2E: ("tgi_request_duration",),
        Timing.QUEUE: ("tgi_request_queue_duration",),
    },
    missing={
        Scalar.KV_CACHE_USE: "only the tokens of the current batch are told, not of how many",
        Scalar.PREFIX_CACHE_HIT_RATE: "not told",
        Scalar.PREEMPTIONS: "TGI does not preempt: a batch has room for all its tokens",
        Timing.TTFT: "the duration of a prefill batch is told, which has no queueing in it",
        Timing.ITL: "only each request's mean is told: see tpot",
        Timing.PREFILL: "one value a batch is told, not one a request",
    },
    notes={Timing.TPOT: "inference time / all tokens: prefill is in it"},
)

_BLOCKS = "kvCacheStats.{}NumBlocks"

TENSORRT_LLM = MetricMap(
    sources=(Source(path="/metrics", format=Format.JSON), Source(path="/prometheus/metrics")),
    scalars={
        Scalar.RUNNING: (Value(("numActiveRequests", "inflightBatchingStats.numScheduledRequests")),),
        Scalar.WAITING: (
            Value(("numQueuedRequests",)),
            Value(("inflightBatchingStats.numQueuedContextRequests",)),
        ),
        Scalar.KV_CACHE_USE: (Ratio(Value((_BLOCKS.format("used"),)), (Value((_BLOCKS.format("max"),)),)),),
        Scalar.PREFIX_CACHE_HIT_RATE: (Value(("kvCacheStats.cacheHitRate",)),),
    },
    timings={
        Timing.TTFT: ("trtllm_time_to_first_token_seconds",),
        Timing.TPOT: ("trtllm_time_per_output_token_seconds",),
        Timing.E2E: ("trtllm_e2e_request_latency_seconds",),
        Timing.QUEUE: ("trtllm_request_queue_time_seconds",),
    },
    missing={
        Scalar.PREEMPTIONS: "only the requests paused at the moment are told, no total",
        Scalar.PROMPT_TOKENS: "told for one iteration, no total",
        Scalar.GENERATION_TOKENS: "told for one iteration, no total",
        Timing.ITL: "only each request's mean is told: see tpot",
        Timing.PREFILL: "not told",
    },
    notes={
        Scalar.RUNNING: "the PyTorch backend tells iterations only with enable_iter_perf_stats",
        Scalar.PREFIX_CACHE_HIT_RATE: "of blocks, since the server's start",
        Timing.TTFT: "histograms need return_perf_metrics",
    },
)
