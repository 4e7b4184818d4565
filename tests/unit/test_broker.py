"""What is told of trouble with a broker."""

from __future__ import annotations

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_flame_ec2.broker import cause


@pytest.mark.parametrize("said", ["s3cr%2Ft", "s3cr/t", "amqp://guest:s3cr%2Ft@h:1//", "auth guest s3cr/t failed"])
def test_a_reason_holds_no_password_however_the_transport_writes_it(said: str) -> None:
    connection = Connection("amqp://guest:s3cr%2Ft@h:1//;amqp://guest:0ther@i:1//")
    wrapped = OperationalError("retries exceeded")
    wrapped.__cause__ = ConnectionError(f"{said}; then 0ther")
    for exc in (ConnectionError(f"{said}; then 0ther"), wrapped):
        told = cause(exc, connection)
        assert told.startswith("ConnectionError: ")
        assert told.endswith("; then **")
        assert "s3cr" not in told
