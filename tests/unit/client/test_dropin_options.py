"""`train_kwargs` as people write them."""

from __future__ import annotations

import warnings
from typing import Any

import dspy
import pytest

import stillhouse
from distill.spec_training import TrainOptions
from stillhouse.dropin.options import NAMES, train_options
from tests.unit.client.dropin_server import Server, desk, example

OPENAI = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 2.0}
TRANSFORMERS = {
    "num_train_epochs": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-4, "max_length": 512, "r": 8, "lora_alpha": 16,
}  # fmt: skip
PEFT = {"target_modules": {"v_proj", "q_proj"}, "lora_dropout": 0.1, "use_rslora": True, "use_dora": False}
TRL = {
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.01, "max_grad_norm": 0.5, "label_smoothing_factor": 0.2,
}  # fmt: skip
DSPY = {
    "device": None, "use_peft": False, "num_train_epochs": 5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
    "learning_rate": 1e-5, "max_seq_length": None, "packing": True, "bf16": True, "output_dir": "out",
}  # fmt: skip


class TestDialects:
    @pytest.mark.filterwarnings("ignore:train_kwargs")
    @pytest.mark.parametrize(
        ("given", "ours"),
        [
            (OPENAI, OPENAI),
            (
                TRANSFORMERS,
                {"n_epochs": 3, "batch_size": 2, "learning_rate": 1e-4, "max_seq_length": 512, "lora_r": 8, "lora_alpha": 16},
            ),
            (PEFT, {**PEFT, "target_modules": ["q_proj", "v_proj"]}),
            (
                TRL,
                {"scheduler": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.01, "max_grad_norm": 0.5, "label_smoothing": 0.2},
            ),
            (DSPY, {"n_epochs": 5, "batch_size": 8, "learning_rate": 1e-5}),
            ({}, {}),
        ],
        ids=["openai", "transformers", "peft", "trl", "dspy", "none"],
    )
    def test_each_is_understood(self, given: dict[str, Any], ours: dict[str, Any]) -> None:
        assert train_options(given) == ours

    def test_every_word_of_the_table_is_taken(self) -> None:
        for word, ours in NAMES.items():
            assert train_options({word: 1}) == {ours: 1}

    def test_every_option_of_the_server_has_a_word(self) -> None:
        assert set(NAMES.values()) == set(TrainOptions.model_fields)

    def test_words_without_meaning_are_named_in_one_warning(self) -> None:
        with pytest.warns(UserWarning, match="train_kwargs: bf16, device, output_dir, packing, use_peft have no meaning here") as told:
            train_options(DSPY)
        assert len(told) == 1
        with pytest.warns(UserWarning, match="gradient_accumulation_steps has no meaning here"):
            assert train_options({"gradient_accumulation_steps": 8, "batch_size": "auto"}) == {"batch_size": "auto"}

    def test_several_calls_warn_once(self, server: Server, client: stillhouse.Stillhouse) -> None:
        optimizer = stillhouse.BootstrapFinetune(client=client, train_kwargs={"output_dir": "out"})
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("default")
            for _ in range(2):
                with pytest.raises(stillhouse.StillhouseError, match="is failed"):
                    optimizer.compile(desk("house/tiny"), [example(0)])
        assert len([each for each in told if "output_dir" in str(each.message)]) == 1

    @pytest.mark.parametrize(
        ("word", "nearest"),
        [("n_epoch", "n_epochs"), ("learningRate", "learning_rate"), ("num_train_epoch", "num_train_epochs"), ("batchsize", "batch_size")],
    )
    def test_an_unknown_word_is_refused_with_the_nearest(self, word: str, nearest: str) -> None:
        with pytest.raises(ValueError, match=f"unknown option '{word}'; did you mean '{nearest}'"):
            train_options({"n_epochs": 1, word: 1})

    def test_an_unknown_word_like_no_other_is_refused_with_what_there_is(self) -> None:
        with pytest.raises(ValueError, match="unknown option 'zzz'; there are batch_size, early_stopping, full_finetuning, "):
            train_options({"zzz": 1})

    def test_two_words_for_one_option_are_refused(self) -> None:
        with pytest.raises(ValueError, match="'epochs' and 'n_epochs' are one option"):
            train_options({"epochs": 1, "n_epochs": 2})

    def test_nothing_is_paid_for_a_word_that_is_refused(self, server: Server, client: stillhouse.Stillhouse) -> None:
        lm = dspy.LM("house/tiny")
        refused: list[tuple[dict[Any, Any], str]] = [
            ({"n_epoch": 1}, "did you mean"),
            ({lm: {"n_epoch": 1}}, "did you mean"),
            ({lm: {"n_epochs": 1}, "n_epochs": 2}, "train_kwargs: either for all LMs or by LM; 'n_epochs' stands beside an LM"),
        ]
        for given, why in refused:
            with pytest.raises(ValueError, match=why):
                stillhouse.BootstrapFinetune(client=client, train_kwargs=given).compile(desk("house/tiny"), [example(0)])
        assert not [route for route, _ in server.sent if route.startswith("POST")]
