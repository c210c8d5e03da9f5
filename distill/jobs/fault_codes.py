"""Codes of jobs' errors as metrics count them. Clients, programs and LM hosts bring codes of their own, and a label has to be bounded."""

from __future__ import annotations

OTHER = "other"
KNOWN = frozenset(
    {
        "all_rollouts_failed", "base_model_unusable", "connection_unavailable", "counter_died", "deadline", "fine_tune_jobs_failed",
        "internal", "invalid_file", "mixed_prompt_adapters", "model_not_loaded", "no_agent", "no_rows_for_predictor", "no_rows_kept",
        "not_handed_over", "nothing_left_to_train", "out_of_memory", "poison", "program_ends_its_process", "runner_died",
        "smoke_test_failed", "work_item_incomplete",
        # of a job's program, metric and rows
        "bundle_not_found", "bundle_shadows", "bundle_too_large", "bundles_clash", "cannot_constrain", "cannot_render", "invalid_program",
        "invalid_rows", "missing_lm", "package_not_allowed", "package_not_installed", "python_not_served", "reference_differs",
        "reference_failed", "reference_not_allowed", "reference_not_found", "sandbox_unavailable", "source_changed", "time_limit",
        # of trainers
        "trainer_bad_input", "trainer_crashed", "trainer_drained", "trainer_killed", "trainer_stalled",
        # of LM hosts and their connections
        "address_not_allowed", "bad_answer", "connection_changed", "connection_removed", "connection_unauthorized", "connection_waiting",
        "model_loading", "model_not_found",
        "quota_exhausted", "rate_limited", "timeout", "unauthorized", "unavailable",
        # of storage and settings
        "blob_missing", "cannot_open", "not_found", "storage",
    }
)  # fmt: skip


def label(code: str) -> str:
    """The code where it is one of the server's own, else `other`."""
    return code if code in KNOWN else OTHER
