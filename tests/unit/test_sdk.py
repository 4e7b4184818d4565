"""What is known and read of AWS, beside what the SDK itself knows and reads."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3.session
import botocore.session
import pytest
from botocore import xform_name
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ParamValidationError
from botocore.utils import parse_timestamp

from celery_flame_ec2.backends.ec2.instances import runner_of
from celery_flame_ec2.backends.ec2.recipe import offer_taken
from celery_flame_ec2.sdk import MEMBERS, OPERATIONS, SERVICES, LeanFiles, lean_session, read_time

PACKAGE = Path(__file__).parents[2] / "celery_flame_ec2"

ANSWER = b"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId><reservationSet>
<item><reservationId>r-1</reservationId><instancesSet><item><instanceId>i-1</instanceId><imageId>ami-1</imageId>
<instanceState><code>32</code><name>shutting-down</name></instanceState><instanceType>c7i.large</instanceType>
<launchTime>2025-11-22T18:00:01.000Z</launchTime><placement><availabilityZone>eu-central-1a</availabilityZone></placement>
<subnetId>subnet-1</subnetId><stateReason><code>Server.SpotInstanceTermination</code><message>gone</message></stateReason>
<instanceLifecycle>spot</instanceLifecycle><clientToken>t</clientToken><tagSet>
<item><key>flame:pool</key><value>video</value></item><item><key>flame:deadline</key><value>1763838000</value></item>
<item><key>flame:launch</key><value>t</value></item></tagSet>
<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId></item></networkInterfaceSet></item>
</instancesSet></item></reservationSet></DescribeInstancesResponse>"""


class Raw:
    """A body that was read from a socket."""

    def stream(self, **_: Any) -> list[bytes]:
        return [ANSWER]


def described(core: botocore.session.Session) -> dict[str, Any]:
    """Return the one instance of the answer, as a client of this session reads it."""
    session = boto3.session.Session("testing", "testing", region_name="eu-central-1", botocore_session=core)
    make: Any = session.client
    client = make("ec2", endpoint_url="http://127.0.0.1:9")
    client.meta.events.register(
        "before-send.ec2.DescribeInstances", lambda request, **_: AWSResponse(request.url, 200, {}, Raw())
    )
    (reservation,) = client.describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    return dict(instance)


def test_nothing_that_is_read_of_an_instance_is_left_out() -> None:
    lean, full = described(lean_session()), described(botocore.session.get_session())
    assert lean == {name: full[name] for name in MEMBERS}
    assert full.keys() - lean.keys() == {"ImageId", "ClientToken", "NetworkInterfaces"}
    assert runner_of(lean, 0.0) == runner_of(full, 0.0)
    assert offer_taken(None, lean) == offer_taken(None, full)


@pytest.mark.parametrize(
    "value",
    ["2025-11-22T18:00:01.000Z", "2025-11-22T18:00:01Z", "Sat, 22 Nov 2025 18:00:01 GMT", 1763834401, 1763834401.0],
)
def test_every_way_in_which_aws_writes_a_time_is_read_as_the_sdk_reads_it(value: Any) -> None:
    assert read_time(value) == parse_timestamp(value) == datetime(2025, 11, 22, 18, 0, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("service", OPERATIONS)
def test_every_operation_the_code_asks_for_is_kept_and_no_other(service: str) -> None:
    known = botocore.session.get_session().get_service_model(service).operation_names
    said = set(words())
    asked = {name for name in known if xform_name(name) in said}
    assert set(OPERATIONS[service]) == asked | ({"CreateSession"} if service == "s3" else set())


def words() -> Iterator[str]:
    """Yield every attribute and every text in our code."""
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("service", OPERATIONS)
def test_what_is_asked_is_made_of_the_same_parts(service: str) -> None:
    lean, full = (session.get_service_model(service) for session in (lean_session(), botocore.session.get_session()))
    assert lean.operation_names == sorted(OPERATIONS[service])
    assert lean.metadata == full.metadata
    for name in OPERATIONS[service]:
        ours, theirs = lean.operation_model(name), full.operation_model(name)
        assert ours.http == theirs.http
        assert [shape(each) for each in ours.error_shapes] == [shape(each) for each in theirs.error_shapes]
        assert shape(ours.input_shape) == shape(theirs.input_shape)
        if "Instance" not in reached(theirs.output_shape):
            assert shape(ours.output_shape) == shape(theirs.output_shape)


def shape(one: Any) -> Any:
    """Return all that a shape is made of."""
    return one and (one.name, one.type_name, one.serialization, one.metadata, [*map(shape, parts(one))])


def parts(one: Any) -> Iterator[Any]:
    """Yield the shapes in a shape: the members of a structure, the member of a list, or key and value of a map."""
    yield from getattr(one, "members", {}).values()
    yield from (getattr(one, name) for name in ("member", "key", "value") if hasattr(one, name))


def reached(one: Any) -> set[str]:
    """Return the names of a shape and of all in it."""
    return {one.name}.union(*map(reached, parts(one))) if one else set()


def test_a_request_is_still_refused_where_the_sdk_would_refuse_it() -> None:
    client = lean_session().create_client("s3", region_name="eu-central-1")
    with pytest.raises(ParamValidationError, match='Unknown parameter in input: "IfNonMatch"'):
        client.put_object(Bucket="bucket", Key="key", IfNonMatch="*")


def test_a_file_of_the_users_own_is_read_in_the_same_way(tmp_path: Path) -> None:
    model = {"operations": {"GetObject": {"documentation": "prose"}, "GetObjectAcl": {}}, "shapes": {"Acl": {}}}
    place = tmp_path / "s3" / "2006-03-01"
    place.mkdir(parents=True)
    (place / "service-2.json").write_text(json.dumps(model))
    assert LeanFiles().load_file(str(place / "service-2")) == {
        "operations": {"GetObject": {"documentation": ""}},
        "shapes": {},
    }
    assert LeanFiles().load_file(str(place / "waiters-2")) is None


def test_endpoints_are_those_the_sdk_knows() -> None:
    lean, full = (
        session.get_component("endpoint_resolver") for session in (lean_session(), botocore.session.get_session())
    )
    regions = [
        region for each in full.get_available_partitions() for region in full.get_available_endpoints("ec2", each)
    ]
    assert len(regions) > 20
    for service in SERVICES:
        for region in (*regions, "us-east-1", "xx-new-9"):
            assert lean.construct_endpoint(service, region) == full.construct_endpoint(service, region)


def test_other_services_are_left_as_they_are() -> None:
    model = lean_session().get_service_model("ssm")
    assert "Value" in model.shape_for("Parameter").members
