from distill.execute.package import program_state


class TestProgramState:
    def test_each_predictor_gets_its_own_model_and_the_template_stays(self) -> None:
        template = {"a": {"lm": {"model": "", "temperature": 0.1}}, "b.predict": {"lm": {"model": ""}}, "metadata": {}}
        made = program_state(template, {"a": "sh-1", "b.predict": "sh-2"}, {"b.predict": 99})
        assert made["a"]["lm"] == {"model": "tune/sh-1", "temperature": 0.1}
        assert made["b.predict"]["lm"] == {"model": "tune/sh-2", "max_tokens": 99}
        assert template["a"]["lm"]["model"] == ""  # type: ignore[index]

    def test_a_bare_predictor_has_a_flat_state(self) -> None:
        assert program_state({"demos": [], "lm": {"model": ""}}, {"self": "sh-1"}, {})["lm"]["model"] == "tune/sh-1"
