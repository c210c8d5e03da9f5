"""The submit check of one LM: the base model that is trained, and how far an LM may be heated."""

import pytest

from distill.catalog import connections, fine_tuned, projects
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.jobs import repository, service
from distill.settings import ConnectionSettings
from tests.integration.core.world import World, job, settings

HOUSE_MODEL = "smollm2-135m-instruct"


def submitted(world: World, **lm: object) -> str:
    """The base model of the job's student."""
    return repository.spec_of(job(world.submit(lms={"student": lm}))).lms["student"].base_model


def refusal(world: World, lms: object) -> Invalid:
    with pytest.raises(Invalid) as refused:
        world.submit(lms=lms)
    return refused.value


class TestBaseModel:
    def test_the_lms_own_model_may_be_named(self, world: World) -> None:
        assert submitted(world, base_model=HOUSE_MODEL) == HOUSE_MODEL

    def test_another_name_that_the_host_has_for_its_model(self, world: World) -> None:
        known = ConnectionSettings(base_url="http://v.test", models=["fast", "org/Base"], supports=["lora"], trainer="local")
        with unit_of_work() as s:
            connections.sync(s, settings(connections={**settings().connections, "vllm": known}))
        assert submitted(world, connection="vllm", model="fast", base_model="org/Base") == "org/Base"

    def test_a_typo_is_refused_with_the_nearest_name(self, world: World) -> None:
        refused = refusal(world, {"student": {"base_model": "smollm2-135m-instuct"}})
        assert (refused.code, refused.param) == ("unknown_base_model", "lms.student.base_model")
        assert f'did you mean "{HOUSE_MODEL}"' in refused.message

    def test_where_any_model_is_taken_it_is_the_lms_model(self, world: World) -> None:
        anything = ConnectionSettings(base_url="http://any.test", models="*", supports=["lora"], trainer="local")
        with unit_of_work() as s:
            connections.sync(s, settings(connections={**settings().connections, "any": anything}))
        assert submitted(world, connection="any", model="org/Base", base_model="org/Base") == "org/Base"
        refused = refusal(world, {"student": {"connection": "any", "model": "org/Base", "base_model": "org/Bse"}})
        assert (refused.code, refused.param) == ("unknown_base_model", "lms.student.base_model")

    def test_a_folder_is_taken_from_the_operator_alone(self, world: World) -> None:
        """A program's own would do for a model, with a chat template of its making."""
        anything = ConnectionSettings(base_url="http://any.test", models="*", supports=["lora"], trainer="local")
        listed = anything.model_copy(update={"models": ["/models/base"]})
        with unit_of_work() as s:
            connections.sync(s, settings(connections={**settings().connections, "any": anything, "listed": listed}))
        assert submitted(world, connection="listed", model="/models/base") == "/models/base"
        for lm, param in (({"model": "/tmp/home"}, "model"), ({"model": "/tmp/home", "base_model": "/tmp/home"}, "base_model")):
            refused = refusal(world, {"student": {"connection": "any", **lm}})
            assert (refused.code, refused.param) == ("unknown_base_model", f"lms.student.{param}")
            assert "where the operator lists it in `models` of any" in refused.message


class TestTemperature:
    """LM hosts refuse more than 2, so it is refused before anything is asked."""

    def test_of_an_lm(self, world: World) -> None:
        assert refusal(world, {"student": {"temperature": 2.1}}).param == "lms.student.temperature"
        assert world.submit(lms={"student": {"temperature": 2.0}})

    def test_of_the_samples(self, world: World) -> None:
        with pytest.raises(Invalid) as refused:
            world.submit(rollouts={"n": 2, "temperature": 2.1})
        assert refused.value.param == "rollouts.temperature"


def test_a_fine_tuned_model_is_its_projects_alone(world: World) -> None:
    """Also where the connection takes any name; the names of a provider's own stay."""
    anything = ConnectionSettings(base_url="http://any.test", models="*", supports=["lora"], trainer="local")
    job_id, ours, theirs = world.submit(), "ft:org/Base::abcd1234", "ft:org/Base::wxyz6789"
    with unit_of_work() as s:
        connections.sync(s, settings(connections={**settings().connections, "any": anything}))
        host = connections.find(s, "any")
        assert host is not None
        for name, project_id in ((ours, world.project_id), (theirs, projects.ensure(s, "other").id)):
            key = service.NewFineTuneJob(f"v1:{name}", "", ("student",), ("self",), host.id, "org/Base", "local")
            [child] = service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [key])
            fine_tuned.create(
                s, model_id=name, project_id=project_id, job_id=job_id, fine_tune_job_id=child.id, connection_id=host.id,
                program_name="router", predictors=["self"], base_model="org/Base", base_model_digest=None, files={}, settings={},
                upstream_model=f"{name}-1",
            )  # fmt: skip
    for name in (theirs, f"{theirs}-1", f"{ours}-1"):
        refused = refusal(world, {"student": {"connection": "any", "model": name}})
        assert (refused.code, refused.param) == ("unknown_model", "lms.student.model")
    for lm in (
        {"model": ours},
        {"model": f"openai/{ours}"},
        {"connection": "any", "model": ours},
        {"connection": "any", "model": f"any/{ours}"},
    ):
        assert submitted(world, **lm) == "org/Base"
    refused = refusal(world, {"student": {"model": ours, "base_model": "org/Other"}})
    assert refused.message == f"lms.student.base_model: {ours} was trained on org/Base, and so is what starts from it"
    assert submitted(world, connection="any", model="ft:org/Base::other") == "ft:org/Base::other"
