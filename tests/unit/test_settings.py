"""How an app's configuration reaches us, in each of the forms Celery knows."""

from __future__ import annotations

import re
import types
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.settings import is_chosen, settings_of

POOLS = {"video": {"queues": "video"}}


def module(**values: Any) -> types.ModuleType:
    made = types.ModuleType("configuration")
    vars(made).update(values)
    return made


def plain() -> Celery:
    app = Celery("proj", broker="redis://broker.internal/0", set_as_current=False)
    app.conf.flame_pools = POOLS
    return app


def from_module() -> Celery:
    app = Celery("proj", set_as_current=False)
    app.config_from_object(module(flame_pools=POOLS, broker_url="redis://broker.internal/0"))
    return app


def from_namespace() -> Celery:
    app = Celery("proj", set_as_current=False)
    app.config_from_object(
        module(CELERY_FLAME_POOLS=POOLS, CELERY_BROKER_URL="redis://broker.internal/0"), namespace="CELERY"
    )
    return app


@pytest.mark.parametrize("make", [plain, from_module, from_namespace])
def test_settings_reach_us_in_every_form(make: Any) -> None:
    settings = settings_of(make())
    assert (settings.owner, settings.pools[0].name) == ("proj@broker.internal/0", "video")


def test_an_upper_case_name_that_celery_does_not_read_is_named_with_the_right_one() -> None:
    app = Celery("proj", set_as_current=False)
    app.config_from_object(module(FLAME_POOLS=POOLS))
    with pytest.raises(
        SettingsError, match="'FLAME_POOLS' is not read by Celery as it is written; write 'flame_pools'"
    ):
        settings_of(app)


def test_a_name_outside_the_namespace_is_named_with_the_right_one() -> None:
    app = from_namespace()
    app.config_from_object(module(CELERY_FLAME_POOLS=POOLS, FLAME_INTERVAL=2), namespace="CELERY")
    with pytest.raises(SettingsError, match="write 'CELERY_FLAME_INTERVAL'"):
        settings_of(app)


@pytest.mark.parametrize(
    ("name", "words"),
    [("loglevl", "did you mean 'loglevel'"), ("queues", "the pool sets it"), ("autoscale", "the pool sets it")],
)
def test_a_worker_option_that_no_runner_takes_is_named(name: str, words: str) -> None:
    app = plain()
    app.conf.flame_pools = {"video": {"queues": "video", "worker_options": {name: "x"}}}
    with pytest.raises(SettingsError, match=f"pool 'video': option 'worker_options' has '{name}'.*{words}"):
        settings_of(app)


def test_a_worker_pool_that_celery_does_not_have_is_named() -> None:
    app = plain()
    app.conf.flame_pools = {"video": {"queues": "video", "worker_options": {"pool": "nonsense"}}}
    with pytest.raises(SettingsError, match=r"names the worker pool 'nonsense'; there are .*gevent"):
        settings_of(app)


@pytest.mark.parametrize("options", ["loglevel", None, ["loglevel"]])
def test_worker_options_that_are_no_dict_are_named(options: Any) -> None:
    app = plain()
    app.conf.flame_pools = {"video": {"queues": "video", "worker_options": options}}
    with pytest.raises(SettingsError, match="option 'worker_options' must be a dict"):
        settings_of(app)


def test_a_worker_option_there_is_reaches_the_letter() -> None:
    app = plain()
    app.conf.flame_pools = {"video": {"queues": "video", "worker_options": {"loglevel": "DEBUG"}}}
    assert settings_of(app).pools[0].worker_options == {"loglevel": "DEBUG"}


def test_a_default_that_the_user_wrote_down_is_chosen() -> None:
    app = plain()
    assert not is_chosen(app, "worker_prefetch_multiplier")
    app.conf.worker_prefetch_multiplier = 4
    assert is_chosen(app, "worker_prefetch_multiplier")


EC2 = {
    "app": "proj", "s3_bundle_url": "s3://releases/proj/1.tar.gz", "image_id": "ami-11111111",
    "subnet_id": "subnet-11111111", "security_group_id": "sg-11111111",
}  # fmt: skip


def board(broker: str, backend: str = "ec2", ec2: Any = None, **flame: Any) -> str:
    app = Celery("proj", broker=broker, set_as_current=False)
    pools = {"video": {"queues": "video", **(EC2 | (ec2 or {}) if backend == "ec2" else {})}}
    values = {"owner": "shop@eu/1", "pools": pools, "backend": backend, **flame}
    app.conf.update({f"flame_{name}": value for name, value in values.items()})
    return settings_of(app).board


@pytest.mark.parametrize("broker", ["redis://h.internal/0", "amqp://h.internal//", "memory://"])
def test_a_broker_that_carries_words_has_no_board(broker: str) -> None:
    assert board(broker, "local") == ""


@pytest.mark.parametrize("broker", ["sqs://", "sqla+postgresql://h.internal/db"])
def test_where_the_broker_carries_no_words_the_board_is_beside_the_lease(broker: str) -> None:
    assert board(broker) == "s3://releases/flame/lease/shop%40eu/1.board"
    assert board(broker, lease="redis://h/0", ec2={"region": "eu-west-1"}).endswith("1.board?region=eu-west-1")
    here = board(broker, lease="s3://leases/a%b?c", ec2={"s3_service_endpoint": "http://h:1/"})
    assert here == "s3://leases/a%25b%3Fc.board?endpoint=http%3A%2F%2Fh%3A1%2F"
    assert re.fullmatch(r"file:///\S+/celery-flame-\d+/shop%40eu-1\.board", board(broker, "local"))
