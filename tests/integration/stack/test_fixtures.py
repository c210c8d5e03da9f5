"""The shared fixtures do what they promise."""

import psycopg
import pytest
import redis
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session


def dsn(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class TestDatabase:
    def test_is_at_the_newest_revision(self, database: str) -> None:
        with psycopg.connect(dsn(database)) as connection:
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)

    @pytest.mark.parametrize("time", ["first", "second"])
    def test_rows_of_one_test_are_gone_in_the_next(self, time: str, database: str) -> None:
        with psycopg.connect(dsn(database)) as connection:
            assert connection.execute("SELECT count(*) FROM projects").fetchone() == (0,)
            connection.execute("INSERT INTO projects (id, name) VALUES ('proj-x', 'x')")


class TestSession:
    def test_work_is_rolled_back(self, session: Session, database: str) -> None:
        session.execute(text("INSERT INTO projects (id, name) VALUES ('proj-y', 'y')"))
        session.commit()
        with psycopg.connect(dsn(database)) as connection:
            assert connection.execute("SELECT count(*) FROM projects").fetchone() == (0,)


class TestRedis:
    def test_is_empty_and_never_evicts(self, redis_url: str) -> None:
        with redis.Redis.from_url(redis_url) as client:
            assert client.dbsize() == 0
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            client.set("left", "over")

    def test_is_empty_again(self, redis_url: str) -> None:
        with redis.Redis.from_url(redis_url) as client:
            assert client.dbsize() == 0
