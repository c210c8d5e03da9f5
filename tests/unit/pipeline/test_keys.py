import re

from distill.pipeline.keys import Predictor, fine_tune_keys, key_of, model_id

ONE_LM = [Predictor("classify.predict", "student"), Predictor("reply", "student")]
TWO_NAMES = [Predictor("a", "small"), Predictor("b", "also_small"), Predictor("c", "big")]
DIGESTS = {"student": "v1:s", "small": "v1:x", "also_small": "v1:x", "big": "v1:y"}


class TestFineTuneKeys:
    def test_multitask_shares_one_key(self) -> None:
        (key,) = fine_tune_keys(ONE_LM, DIGESTS, multitask=True)
        assert key.id == ("v1:s", "")
        assert key.predictors == ("classify.predict", "reply")

    def test_without_multitask_each_predictor_has_its_own(self) -> None:
        keys = fine_tune_keys(ONE_LM, DIGESTS, multitask=False)
        assert [key.id for key in keys] == [("v1:s", "classify.predict"), ("v1:s", "reply")]

    def test_equal_lms_under_two_names_are_one_key(self) -> None:
        keys = fine_tune_keys(TWO_NAMES, DIGESTS, multitask=True)
        assert [key.predictors for key in keys] == [("a", "b"), ("c",)]

    def test_every_predictor_finds_its_key(self) -> None:
        owner = key_of(fine_tune_keys(TWO_NAMES, DIGESTS, multitask=False))
        assert {name: key.predictor for name, key in owner.items()} == {"a": "a", "b": "b", "c": "c"}


class TestModelId:
    def test_names_program_predictor_and_a_tail_of_its_own(self) -> None:
        (first, second) = fine_tune_keys(ONE_LM, DIGESTS, multitask=False)
        name = model_id("Support router", first, "ftjob-1")
        assert re.fullmatch(r"sh-support-router-classify-predict-[a-z2-7]{8}", name)
        assert name == model_id("Support router", first, "ftjob-1")
        assert name != model_id("Support router", first, "ftjob-2")
        assert model_id("Support router", second, "ftjob-1").startswith("sh-support-router-reply-")

    def test_a_shared_key_is_named_after_its_lm(self) -> None:
        (key,) = fine_tune_keys(ONE_LM, DIGESTS, multitask=True)
        assert model_id("p", key, "ftjob-1", suffix="Weekly!").startswith("sh-p-student-weekly-")

    def test_never_looks_like_a_reasoning_model(self) -> None:
        (key,) = fine_tune_keys([Predictor("gpt-5", "s")], {"s": "v1:s"}, multitask=False)
        assert not re.match(r"^(?:o[1345](?:-(?:mini|nano|pro))?|gpt-5)", model_id("o3-mini", key, "f"))
