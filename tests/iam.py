"""Would IAM allow this call? What AWS's documentation says of the actions that the package needs, and of no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.box.cloud import PARTITION, ROLE, Cloud
from tests.box.faults import Call

OPERATORS = frozenset({"StringEquals", "StringLike"})
#: API calls that need a right of another name. None: everybody may.
RIGHTS = {
    "s3:HeadObject": "s3:GetObject",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "sts:GetCallerIdentity": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One thing that AWS asks IAM when a call comes in. `resource` is None where the call does not tell it here."""

    action: str
    resource: str | None
    context: Mapping[str, str] = field(default_factory=dict)


def allows(document: Mapping[str, Any], ask: Ask) -> bool:
    """Tell whether a policy without Deny allows it."""
    return any(_allows(statement, ask) for statement in document["Statement"])


def _allows(statement: Mapping[str, Any], ask: Ask) -> bool:
    assert statement["Effect"] == "Allow"
    assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
    return (
        ask.action in _listed(statement["Action"])
        and (ask.resource is None or any(_like(pattern, ask.resource) for pattern in _listed(statement["Resource"])))
        and all(_met(*operator, ask.context) for operator in statement.get("Condition", {}).items())
    )


def _met(operator: str, keys: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    assert operator in OPERATORS
    same = _like if operator == "StringLike" else str.__eq__
    return all(key in context and any(same(value, context[key]) for value in _listed(keys[key])) for key in keys)


def _like(pattern: str, text: str) -> bool:
    parts = re.split(r"(\$\{[*?$]\}|[*?])", pattern)
    wild = {"*": ".*", "?": "."}
    return bool(re.fullmatch("".join(wild.get(part) or re.escape(_plain(part)) for part in parts), text))


def _plain(part: str) -> str:
    return part[2] if part.startswith("${") else part


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def asks(call: Call, cloud: Cloud) -> Iterator[Ask]:
    """Yield what AWS asks IAM for this call; all of it must be allowed."""
    action = f"{call.service}:{call.action}"
    right = RIGHTS.get(action, action)
    if right == "s3:GetObject" and "versionId" in call.params:
        right = "s3:GetObjectVersion"
    if right is None:
        return
    if right == "ec2:RunInstances":
        yield from _of_a_launch(call, cloud)
    elif right in {"ec2:TerminateInstances", "ec2:GetConsoleOutput"}:
        yield from _of_instances(right, call, cloud)
    elif call.service == "s3":
        yield _of_s3(right, call)
    else:
        yield Ask(action=right, resource=_of_others(call, cloud))


def _arn(cloud: Cloud, service: str, rest: str, *, account: str | None = None) -> str:
    return f"arn:{PARTITION}:{service}:{cloud.region}:{cloud.account if account is None else account}:{rest}"


def _of_a_launch(call: Call, cloud: Cloud) -> Iterator[Ask]:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-runinstances"""
    for resource in _found_there(call.params, cloud):
        yield Ask(action="ec2:RunInstances", resource=resource)
    tagged = dict(_tagged(call.params))
    spot = ["spot-instances-request"] if "spot-instances-request" in tagged else []  # asked for only where it is tagged
    for kind in ["instance", "volume", "network-interface", *spot]:
        context = {f"aws:RequestTag/{key}": value for key, value in tagged.get(kind, {}).items()}
        made = _arn(cloud, "ec2", f"{kind}/new")
        yield Ask(action="ec2:RunInstances", resource=made, context=context)
        if kind in tagged:
            yield Ask(action="ec2:CreateTags", resource=made, context={**context, "ec2:CreateAction": "RunInstances"})
    if any(name.startswith("IamInstanceProfile.") for name in call.params):
        role = f"arn:{PARTITION}:iam::{cloud.account}:role/{ROLE}"
        yield Ask(action="iam:PassRole", resource=role, context={"iam:PassedToService": "ec2.amazonaws.com"})


def _found_there(params: Mapping[str, str], cloud: Cloud) -> Iterator[str]:
    yield _arn(cloud, "ec2", f"image/{params.get('ImageId', cloud.image_id)}", account="")
    named = {"SubnetId": "subnet", "SecurityGroupId": "security-group", "KeyName": "key-pair"}
    named |= {"LaunchTemplate.LaunchTemplateId": "launch-template"}
    for name, value in params.items():
        kind = named.get(re.sub(r"(^NetworkInterface\.\d+\.)|(\.\d+$)", "", name))
        if kind:
            yield _arn(cloud, "ec2", f"{kind}/{value}")


def _tagged(params: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    for name, kind in params.items():
        if found := re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", name):
            keys = [key for key in params if re.fullmatch(rf"{found[1]}\.Tag\.\d+\.Key", key)]
            yield kind, {params[key]: params[key.removesuffix("Key") + "Value"] for key in keys}


def _of_instances(action: str, call: Call, cloud: Cloud) -> Iterator[Ask]:
    for name, instance_id in call.params.items():
        if name.startswith("InstanceId"):
            tags = {f"aws:ResourceTag/{tag['key']}": tag["value"] for tag in cloud.ec2.instance(instance_id).get_tags()}
            yield Ask(action=action, resource=_arn(cloud, "ec2", f"instance/{instance_id}"), context=tags)


def _of_s3(right: str, call: Call) -> Ask:
    bucket, key = call.params["Bucket"], call.params.get("Key")
    context = {"s3:prefix": call.params["prefix"]} if "prefix" in call.params else {}
    resource = f"arn:{PARTITION}:s3:::{bucket}" + (f"/{key}" if key else "")
    told = key is not None or right == "s3:ListBucket"  # which objects it deletes stands in the body
    return Ask(action=right, resource=resource if told else None, context=context)


def _of_others(call: Call, cloud: Cloud) -> str | None:
    if call.action.startswith(("BatchGet", "Describe")):
        return "*"
    named = {
        "GetParameter": ("Name", lambda name: _arn(cloud, "ssm", f"parameter/{name.lstrip('/')}")),
        "GetSecretValue": ("SecretId", lambda name: _arn(cloud, "secretsmanager", f"secret:{name}-AbCdEf")),
        "GetInstanceProfile": (
            "InstanceProfileName",
            lambda name: f"arn:{PARTITION}:iam::{cloud.account}:instance-profile/{name}",
        ),
    }
    parameter, arn = named.get(call.action, (None, None))
    return arn(call.params[parameter]) if arn and parameter else None
