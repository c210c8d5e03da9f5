"""What the server refuses is named as it was given to the drop-in."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

import stillhouse
from tests.unit.client.dropin_server import Server, desk, example


class TestRefusedRequests:
    def test_a_refused_train_option_is_named_as_it_was_given(self, server: Server, client: stillhouse.Stillhouse) -> None:
        message = "train_options.n_epochs: input should be a valid integer"
        error = {"message": message, "code": "invalid_value", "param": "train_options.n_epochs"}
        server.refuses = {"POST compile_jobs": httpx.Response(422, json={"error": error})}
        optimizer = stillhouse.BootstrapFinetune(client=client, train_kwargs={"num_train_epochs": "three"})
        with pytest.raises(ValueError, match=r"^train_kwargs: num_train_epochs: input should be a valid integer"):
            optimizer.compile(desk("house/tiny"), [example(0)])

    @pytest.mark.parametrize("by_lm", [False, True])
    def test_a_refused_product_of_two_options_names_both(self, server: Server, client: stillhouse.Stillhouse, by_lm: bool) -> None:
        place = "lms.student.train_options.batch_size" if by_lm else "train_options.batch_size"
        error = {"message": f"{place}: input should be greater than 0", "code": "invalid_value", "param": place}
        server.refuses = {"POST compile_jobs": httpx.Response(422, json={"error": error})}
        given: Any = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": -1}
        student = desk("house/tiny")
        optimizer = stillhouse.BootstrapFinetune(client=client, train_kwargs={student.classify.lm: given} if by_lm else given)
        with pytest.raises(ValueError, match=r"^train_kwargs: per_device_train_batch_size times gradient_accumulation_steps: input should"):
            optimizer.compile(student, [example(0)])

    @pytest.mark.parametrize(
        ("refusal", "wanted"),
        [
            ("teacher[0].program: teacher and student need inputs of the same names", "teacher: teacher and student need inputs"),
            ("program: predictor classify is shown an image", "student: predictor classify is shown an image"),
            ("demos: program.predictors[0].demos[1]: incomplete", "exclude_demos: student.predictors[0].demos[1]: incomplete"),
            ("prompt_adapter.type: expected chat", "adapter.type: expected chat"),
        ],
    )
    def test_a_refused_argument_is_named_as_in_the_call(
        self, server: Server, client: stillhouse.Stillhouse, refusal: str, wanted: str
    ) -> None:
        error = {"message": refusal, "code": "invalid_value", "param": refusal.partition(": ")[0]}
        server.refuses = {"POST estimate": httpx.Response(422, json={"error": error})}
        with pytest.raises(ValueError, match=f"^{re.escape(wanted)}"):
            stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(0)], teacher=desk("openai/big"))
