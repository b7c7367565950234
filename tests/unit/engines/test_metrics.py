"""Engines' own metrics under common names: real answers of vLLM, SGLang, TGI and TensorRT-LLM, and made-up corners."""

from __future__ import annotations

import math

import pytest

from bench.engines.metric_maps import LLAMA_CPP, SGLANG, TENSORRT_LLM, TGI, VLLM
from bench.engines.metrics import MetricMap, MetricSample, Scalar, Timing, read_sample
from tests.support import test_data


def scraped(metrics: MetricMap, name: str) -> MetricSample:
    return read_sample(metrics, {"/metrics": test_data(f"metrics/{name}").read_text(encoding="utf-8")})


def read(metrics: MetricMap, *lines: str) -> MetricSample:
    return read_sample(metrics, {"/metrics": "\n".join(lines) + "\n"})


def mean(sample: MetricSample, name: Timing) -> float:
    histogram = sample.timings[name]
    assert histogram is not None
    assert histogram.mean is not None
    return histogram.mean


def test_a_real_tgi() -> None:
    sample = scraped(TGI, "tgi_scrape_datadog.txt")
    assert sample.scalars[Scalar.RUNNING] == 0
    assert sample.scalars[Scalar.WAITING] == 0
    assert sample.scalars[Scalar.PROMPT_TOKENS] == 662
    assert sample.scalars[Scalar.GENERATION_TOKENS] == 3423
    assert sample.scalars[Scalar.KV_CACHE_USE] is None
    assert sample.timings[Timing.TTFT] is None, "the prefill of a batch is no time to first token"
    assert sample.timings[Timing.ITL] is None
    assert mean(sample, Timing.E2E) == pytest.approx(541.2140316159999 / 109)
    assert mean(sample, Timing.QUEUE) == pytest.approx(295.275961956 / 109)
    # Its mean time per token is inference / all tokens: over the requests it is near the ratio of the sums.
    assert mean(sample, Timing.TPOT) == pytest.approx(245.91743839099996 / 3423, rel=0.15)
    tpot = sample.timings[Timing.TPOT]
    assert tpot is not None
    median = tpot.quantile(0.5)
    assert median is not None
    assert median.lower is not None
    assert median.upper is not None
    assert median.upper == pytest.approx(1.5 * median.lower), "TGI's bounds grow by half"


def test_a_real_sglang() -> None:
    sample = scraped(SGLANG, "sglang_docs_llama8b_1req.txt")
    assert sample.scalars[Scalar.PROMPT_TOKENS] == 7
    assert sample.scalars[Scalar.GENERATION_TOKENS] == 8
    assert sample.scalars[Scalar.KV_CACHE_USE] == 0
    assert sample.scalars[Scalar.PREFIX_CACHE_HIT_RATE] == 0
    assert sample.scalars[Scalar.PREEMPTIONS] is None, "this version did not count them"
    assert mean(sample, Timing.TTFT) == pytest.approx(0.30457592010498047)
    # Its time per output token of then is e2e / tokens, and one value a request.
    assert sample.timings[Timing.TPOT] is None
    assert sample.timings[Timing.ITL] is None


def test_a_real_old_vllm() -> None:
    sample = scraped(VLLM, "vllm_0.4_real_scrape_part.txt")
    assert sample.scalars[Scalar.RUNNING] == 0
    assert sample.scalars[Scalar.KV_CACHE_USE] == 0
    assert sample.scalars[Scalar.PREEMPTIONS] == 0
    assert sample.scalars[Scalar.PROMPT_TOKENS] == 5
    assert mean(sample, Timing.TTFT) == pytest.approx(0.31326723098754883)
    itl = sample.timings[Timing.ITL]
    assert itl is not None
    assert itl.count == 6, "seven tokens have six gaps: this name held ITL then"
    assert itl.mean == pytest.approx(0.19016313552856445 / 6)
    assert sample.timings[Timing.QUEUE] is None


def test_a_real_tensorrt_llm_answers_with_json() -> None:
    sample = scraped(TENSORRT_LLM, "trtllm_metrics_json_sample.json")
    assert sample.scalars[Scalar.RUNNING] == 1
    assert sample.scalars[Scalar.WAITING] is None
    assert sample.scalars[Scalar.KV_CACHE_USE] == pytest.approx(3 / 101256)
    assert sample.scalars[Scalar.PREFIX_CACHE_HIT_RATE] == 0.00128
    assert sample.scalars[Scalar.PROMPT_TOKENS] is None


def test_an_iteration_of_tensorrt_llm_with_its_histograms_at_the_other_route() -> None:
    iteration = '[{"inflightBatchingStats": {"numScheduledRequests": 3, "numQueuedContextRequests": 2}}]'
    text = 'trtllm_time_to_first_token_seconds_sum{m="a"} 3.0\ntrtllm_time_to_first_token_seconds_count{m="a"} 2.0\n'
    sample = read_sample(TENSORRT_LLM, {"/metrics": iteration, "/prometheus/metrics": text})
    assert (sample.scalars[Scalar.RUNNING], sample.scalars[Scalar.WAITING]) == (3, 2)
    assert mean(sample, Timing.TTFT) == 1.5
    idle = read_sample(TENSORRT_LLM, {"/metrics": "[]"})
    assert set(idle.scalars.values()) == {None}


def test_counts_are_added_up_over_engines_and_the_fullest_cache_counts() -> None:
    sample = read(
        VLLM,
        'vllm:num_requests_running{engine="0",model_name="a"} 3.0',
        'vllm:num_requests_running{engine="1",model_name="a"} 4.0',
        'vllm:kv_cache_usage_perc{engine="0"} 0.25',
        'vllm:kv_cache_usage_perc{engine="1"} 0.5',
        *(f'vllm:time_to_first_token_seconds_bucket{{engine="{n}",le="0.5"}} {n}.0' for n in (0, 1)),
        *(f'vllm:time_to_first_token_seconds_bucket{{engine="{n}",le="+Inf"}} 2.0' for n in (0, 1)),
        *(f'vllm:time_to_first_token_seconds_sum{{engine="{n}"}} 1.5' for n in (0, 1)),
        *(f'vllm:time_to_first_token_seconds_count{{engine="{n}"}} 2.0' for n in (0, 1)),
    )
    assert sample.scalars[Scalar.RUNNING] == 7
    assert sample.scalars[Scalar.KV_CACHE_USE] == 0.5
    ttft = sample.timings[Timing.TTFT]
    assert ttft is not None
    assert (ttft.count, ttft.total, ttft.buckets) == (4, 3.0, ((0.5, 1), (math.inf, 4)))


def test_of_two_names_the_newer_counts() -> None:
    sample = read(VLLM, "vllm:gpu_cache_usage_perc 0.1", "vllm:kv_cache_usage_perc 0.2")
    assert sample.scalars[Scalar.KV_CACHE_USE] == 0.2


def test_a_hit_rate_comes_from_counters() -> None:
    sample = read(VLLM, "vllm:prefix_cache_queries_total 80.0", "vllm:prefix_cache_hits_total 20.0")
    assert sample.scalars[Scalar.PREFIX_CACHE_HIT_RATE] == 0.25
    assert sample.prefix_cache == (20, 80)


def test_of_nothing_there_is_no_rate() -> None:
    unused = read(VLLM, "vllm:prefix_cache_queries_total 0.0", "vllm:prefix_cache_hits_total 0.0")
    assert unused.scalars[Scalar.PREFIX_CACHE_HIT_RATE] is None
    assert unused.prefix_cache == (0, 0)


def test_a_counter_of_hits_that_comes_with_the_first_leaves_the_queries_known() -> None:
    sample = read(SGLANG, "sglang:prompt_tokens_total 40.0")
    assert list(sample.prefix_cache or ()) == [None, 40]
    assert sample.scalars[Scalar.PREFIX_CACHE_HIT_RATE] is None
    assert read(SGLANG, "sglang:cached_tokens_total 4.0").prefix_cache is None


def test_llama_cpp_counts_processed_and_cached_tokens_apart() -> None:
    sample = read(LLAMA_CPP, "llamacpp:prompt_tokens_total 30", "llamacpp:prompt_tokens_cached_total 10")
    assert sample.prefix_cache == (10, 40)


def test_without_buckets_sums_and_counts_are_the_same() -> None:
    text = test_data("metrics/tgi_scrape_datadog.txt").read_text(encoding="utf-8")
    whole, quick = (read_sample(TGI, {"/metrics": text}, buckets=buckets) for buckets in (True, False))
    assert quick.scalars == whole.scalars
    for name in Timing:
        mine, other = quick.timings[name], whole.timings[name]
        assert (mine and (mine.total, mine.count)) == (other and (other.total, other.count))
        assert mine is None or mine.buckets == ()


@pytest.mark.parametrize(
    "text",
    ["", "vllm:num_requests_running", "<html>no metrics</html>", "vllm:num_requests_running{x} y", "\0"],
)
def test_damaged_answers_are_missing(text: str) -> None:
    sample = read_sample(VLLM, {"/metrics": text})
    assert set(sample.scalars.values()) == {None}
    assert set(sample.timings.values()) == {None}
    damaged = read_sample(TENSORRT_LLM, {"/metrics": text})
    assert set(damaged.scalars.values()) == {None}


def test_what_is_not_a_number_is_missing() -> None:
    assert read(VLLM, "vllm:num_requests_running NaN").scalars[Scalar.RUNNING] is None
