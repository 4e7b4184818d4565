"""Does a Django project burst: its settings, its database, its transactions, its release?"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import ROOT, Deployment

from .conftest import serve


class Shop(Deployment):
    """The example, on a database and a broker of its own."""

    def __init__(self, directory: Path, broker: str) -> None:
        super().__init__(directory, broker, app="shop")
        self.project = shutil.copytree(ROOT / "examples" / "django", directory / "shop")

    @property
    def environ(self) -> dict[str, str]:
        return {
            **super().environ,
            "PYTHONPATH": f"{self.project}{os.pathsep}{ROOT}",
            "CELERY_BROKER_URL": self.conf["broker_url"],
            "SHOP_DATABASE": str(self.directory / "shop.sqlite3"),
        }

    def manage(self, *words: str) -> str:
        """Run `python manage.py WORDS`."""
        return subprocess.run(
            [sys.executable, "manage.py", *words], cwd=self.project, env={**os.environ, **self.environ},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def packed_by(self) -> list[str]:
        """Return who packed each order, empty for one that waits."""
        with contextlib.closing(sqlite3.connect(self.directory / "shop.sqlite3", timeout=60)) as database:
            return [name for (name,) in database.execute("SELECT packed_by FROM orders_order")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    for redis in serve(RedisServer):
        with Shop(tmp_path_factory.mktemp("django"), redis.url) as made:
            made.manage("migrate", "-v0")
            yield made


def test_the_settings_are_read_in_the_namespace(shop: Shop) -> None:
    assert shop.run("flame", "plan").stdout.startswith("orders: launch 0\n")
    wrong = shop.project / "shop" / "wrong.py"
    wrong.write_text('from .settings import *\n\nCELERY_FLAME_POOLS = {"orders": {"queues": ["celery"], "maxx": 3}}\n')
    told = shop.run("flame", "plan", DJANGO_SETTINGS_MODULE="shop.wrong")
    assert (told.returncode, "did you mean 'max'?" in told.stderr) == (1, True), told.stderr


def test_what_is_rolled_back_is_never_packed(shop: Shop) -> None:
    sent = (
        "from django.db import transaction\n"
        "from orders.models import Order\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        Order.place()\n"
        "        raise ValueError\n"
        "except ValueError:\n"
        "    print(Order.objects.count())\n"
    )
    depth = "from shop import celery_app as app; print(app.connection().default_channel.client.llen('celery'))"
    assert shop.manage("shell", "-v0", "-c", sent).split() == ["0"]
    assert shop.manage("shell", "-v0", "-c", depth).split() == ["0"]


def test_orders_are_packed_by_runners_too_each_once_it_is_committed(shop: Shop) -> None:
    shop.worker("--autoscale=1,1")
    shop.manage("shell", "-v0", "-c", "from orders.models import Order; [Order.place() for _ in range(60)]")
    wait_until(lambda: "" not in shop.packed_by(), what="60 packed orders")
    packed = shop.packed_by()
    assert len(packed) == 60
    assert any(name.startswith("local-") for name in packed), set(packed)
