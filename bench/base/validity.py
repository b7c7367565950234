"""Why a number may not be believed: a closed list, each reason with what to do about it.

A metric carries the values of these reasons; an empty list means valid. Invalid numbers are shown greyed, never ranked.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A validity reason; `advice` says what the user can do."""

    advice: str

    def __new__(cls, value: str, advice: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.advice = advice
        return member

    TOO_FEW = ("too_few", "Ask for more requests or items: there are too few for this figure or its interval.")
    CLIENT_SLIP = ("client_slip", "Requests left later than scheduled: free the client's core or add load workers.")
    CLIENT_DELAY = ("client_delay", "The client read late: free its core, add load workers, or lower the concurrency.")
    COALESCED_READS = ("coalesced_reads", "Several events came in one read: per-event gaps are lost; add load workers.")
    MULTI_TOKEN_EVENTS = (
        "multi_token_events",
        "Events carried several tokens: read inter_chunk_gap and tpot, single tokens cannot be told apart.",
    )
    CLOCK_STEP = ("clock_step", "The wall clock was stepped during the run: stop time synchronisation and run again.")
    UNDER_DELIVERED = ("under_delivered", "Less load was delivered than asked: add load workers or lower the rate.")
    ERRORS = ("errors", "Some requests failed: look at the error kinds and the engine's log before trusting this.")
    BACKLOG_GROWING = ("backlog_growing", "The asked rate is above capacity, there is no steady state: lower the rate.")
    NO_USAGE = ("no_usage", "The endpoint reports no usage, so tokens are unknown: enable usage or name a tokenizer.")
    TOKEN_MISMATCH = ("token_mismatch", "Counted tokens differ from the server's counter: see the raw requests.")
    USAGE_MISMATCH = (
        "usage_mismatch",
        "The endpoint's usage disagrees with the tokens in its answers: mend it before trusting token counts.",
    )
    SHORT_OUTPUT = ("short_output", "The model ended before the asked length: use ignore_eos or another prompt.")
    PREFIX_CACHED = ("prefix_cached", "Prompts hit the prefix cache: TTFT is flattered; use unique prompts.")
    SCORING_BUILD_DIFFERS = (
        "scoring_build_differs",
        "Quality was scored by another build than the one that serves: use one toolchain for both where one can.",
    )
    NOT_SCORED_BY_SERVER = (
        "not_scored_by_server",
        "The engine gives no prompt log-probabilities: the same artefact was scored beside it.",
    )
    BUSY_MACHINE = ("busy_machine", "The machine was loaded by others when this ran: repeat it on a quiet one.")
    NOT_QUIESCENT = (
        "not_quiescent",
        "Requests ran on the server when its metrics were read: its means are of others too. Use a server of its own.",
    )
    OTHERS_ON_GPU = (
        "others_on_gpu",
        "Processes of others were on the GPU when this ran: repeat it when they are gone, or hide that GPU.",
    )
    NO_BASELINE = ("no_baseline", "There is no baseline to compare with: give the task a baseline scheme.")
    NON_FINITE = (
        "non_finite",
        "The model gave logits that are not finite: the artefact or the scoring build is broken.",
    )
    CALIBRATION_OVERLAP = (
        "calibration_overlap",
        "The variant was calibrated on parts of this evaluation text: calibrate or evaluate with another one.",
    )
    UNPACKED_WEIGHTS = (
        "unpacked_weights",
        "Weights were unpacked, because this processor has no kernel for them: measure speed and memory elsewhere.",
    )
    TOKENIZERS_DIFFER = (
        "tokenizers_differ",
        "Variant and baseline cut the text into other tokens: give both the same tokenizer, then score again.",
    )
    TOKENS_NOT_TOLD = (
        "tokens_not_told",
        "The server does not tell how likely some tokens are: ask another engine, or raise task.top where it can.",
    )
    MIXED_VALUES = ("mixed_values", "Values that should be one differ between parts of the run: see the manifest.")


def reasons(*found: Reason | None) -> list[str]:
    """The values of the reasons that apply, each once, in the order given."""
    return list(dict.fromkeys(reason.value for reason in found if reason is not None))
