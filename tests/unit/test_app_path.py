from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from celery import Celery

from celery_flame_ec2.app_path import import_path


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    def make(name: str, **attributes: object) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(attributes)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def test_an_app_is_found_by_the_module_and_the_attribute_that_hold_it(module):
    app = Celery("shop", set_as_current=False)
    module("shop_web.worker", background=app)
    assert import_path(app) == "shop_web.worker:background"


def test_the_module_the_app_is_named_after_wins(module):
    app = Celery("zoo.deep.inside", set_as_current=False)
    module("aviary", app=app)
    module("zoo.deep.inside", celery=app)
    assert import_path(app) == "zoo.deep.inside:celery"


def test_an_attribute_that_is_called_app_and_a_short_path_win_over_others(module):
    app = Celery("proj", set_as_current=False)
    module("aproj", current=app)
    module("proj.tasks.video", app=app)
    module("proj.app", app=app)
    module("proj.tasks", app=app)
    assert import_path(app) == "proj.app:app"


def test_an_app_no_module_holds_has_no_path():
    assert import_path(Celery("nobody", set_as_current=False)) is None


def test_references_of_celery_itself_do_not_count(module):
    app = Celery("default", set_as_current=False)
    module("celery.somewhere", app=app)
    assert import_path(app) is None


def test_a_module_run_with_dash_m_is_named_as_it_is_imported(module):
    app = Celery("proj", set_as_current=False)
    module("__main__", app=app, __spec__=importlib.util.spec_from_loader("proj.app", loader=None))
    assert import_path(app) == "proj.app:app"


def test_a_script_cannot_be_imported_by_another_process(module):
    app = Celery("proj", set_as_current=False)
    module("__main__", app=app, __spec__=None)
    assert import_path(app) is None


def test_entries_of_sys_modules_that_are_no_modules_do_no_harm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "not_there", None)
    assert import_path(Celery("nobody", set_as_current=False)) is None
