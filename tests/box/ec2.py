"""What does EC2 do that moto's does not?"""

from __future__ import annotations

import base64
import contextlib
import copy
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import botocore.session
from botocore.serialize import create_serializer
from moto.core.exceptions import ServiceException
from moto.ec2.exceptions import InvalidInstanceTypeError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.utils import filter_dict_attribute_mapping
from werkzeug.test import run_wsgi_app

from tests.box.conditions import Conditions, Offer
from tests.box.faults import Call
from tests.box.history import History
from tests.box.wire import WSGI, Answer, Refusal, put_form

USER_DATA_LIMIT = 16384  #: bytes before base64
CONSOLE_LIMIT = 65536  #: bytes; EC2 keeps the last 64 KB
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

BY_GUEST = "guest powered off"
TERMINATED = "terminated by API"
STOPPED = "stopped by API"
TAKEN = "spot interruption"
REASONS = {
    BY_GUEST: ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown"),
    TERMINATED: ("Client.UserInitiatedShutdown", "User initiated shutdown"),
    STOPPED: ("Client.UserInitiatedShutdown", "User initiated shutdown"),
    TAKEN: ("Server.SpotInstanceTermination", "Spot instance termination"),
}
OTHER_REASON = ("Server.InternalError", "Internal error on launch")
REASONED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})  #: states that say why
GONE = frozenset({"shutting-down", "terminated"})
#: Calls that know no more of instances than a listing does.
KNOWING = frozenset({"DescribeInstances", "GetConsoleOutput", "StopInstances", "TerminateInstances"})


class Machines(Protocol):
    """What instances run on."""

    def boot(self, instance_id: str) -> None:
        """Begin to boot it; soon it is marked running."""

    def end(self, instance_id: str, cause: str) -> None:
        """Begin to cut its power; soon it is marked terminated, or stopped."""

    def console(self, instance_id: str) -> str:
        """Return what it wrote so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A RunInstances that was answered under a client token."""

    params: Mapping[str, str]
    instance_ids: tuple[str, ...]
    answer: Answer


class Ec2:
    """moto's EC2, one call at a time; with client tokens, whole templates, MaxCount, slow states and consoles.

    What it is short of, slow with and strict about is in `conditions`. A launch that is to fail does so with the first
    call after its time.
    """

    def __init__(self, moto: WSGI, backend: Callable[[str], Any], history: History) -> None:
        self._moto, self._backend, self._history = moto, backend, history
        self.machines: Machines | None = None
        self.conditions = Conditions(time.monotonic)
        self.lock = threading.RLock()
        self._launches: dict[tuple[str, str], Launch] = {}
        self._regions: dict[str, str] = {}
        self._before_end: dict[str, InstanceState] = {}
        # moto answers 500 to a filter it does not know
        filter_dict_attribute_mapping.update({"client-token": "client_token", "instance-lifecycle": "lifecycle"})

    def __call__(self, call: Call, environ: dict[str, Any]) -> Answer:
        actions = {
            "RunInstances": self._run_instances,
            "TerminateInstances": self._end_instances,
            "StopInstances": self._end_instances,
            "StartInstances": self._start_instances,
            "GetConsoleOutput": self._console_output,
        }
        with self.lock:
            try:
                self._fail_what_is_due()
                self._admit(call)
                with self._as_known(call):
                    return actions.get(call.action, self._as_moto_does)(call, environ)
            except ServiceException as exc:
                raise Refusal(exc.code, str(exc.message)) from exc

    def instance(self, instance_id: str) -> Any:
        """Return moto's own object."""
        return self._backend(self._regions[instance_id]).get_instance(instance_id)

    def instances(self) -> list[Any]:
        """Return moto's own objects, in the order of launch."""
        return [self.instance(instance_id) for instance_id in self._regions]

    def mark(self, instance_id: str, state: str, cause: str, reason: tuple[str, str] | None = None) -> None:
        """Bring an instance into a state, with this reason or the one EC2 gives for that cause."""
        with self.lock:
            instance = self.instance(instance_id)
            before = InstanceState(instance.state, CODES[instance.state])
            if state in GONE and instance.state not in GONE:
                instance.terminate()
            if state in REASONED:
                code, message = reason or REASONS.get(cause, OTHER_REASON)
                instance.state_reason = StateReason(f"{code}: {message}", code)
            instance._state = InstanceState(state, CODES[state])
            if state == "terminated":
                self._before_end.setdefault(instance_id, before)
                self.conditions.ended(instance_id)
        self._history.add(instance_id, state, cause)

    # what it is short of, slow with and strict about

    def _admit(self, call: Call) -> None:
        ids = sum(name.startswith("InstanceId.") for name in call.params)
        wanted = int(call.params.get("MaxCount", ids)) if call.action == "RunInstances" else ids
        self.conditions.admit(call.action, resources=wanted, filtered=bool(call.params))

    def _fail_what_is_due(self) -> None:
        for instance_id, failure in self.conditions.due().items():
            self.mark(instance_id, "terminated", f"failed: {failure.code}", (failure.code, failure.message))

    @contextlib.contextmanager
    def _as_known(self, call: Call) -> Iterator[None]:
        """Let a call see what listings know: not yet what was just launched, and still what just ended."""
        if call.action not in KNOWING:
            yield
            return
        backend = self._backend(call.region)
        whole = backend.reservations
        backend.reservations = self._known(whole)
        try:
            with self._late_news(call):
                yield
        finally:
            backend.reservations = whole

    def _known(self, reservations: Mapping[str, Any]) -> OrderedDict[str, Any]:
        found = OrderedDict[str, Any]()
        for name, reservation in reservations.items():
            shown = copy.copy(reservation)
            shown.instances = [one for one in reservation.instances if self.conditions.lists(one.id)]
            if shown.instances:
                found[name] = shown
        return found

    @contextlib.contextmanager
    def _late_news(self, call: Call) -> Iterator[None]:
        """Show what ended as it was before, where a listing does not know of the end."""
        ids = self._before_end if call.action == "DescribeInstances" else {}
        late = [self.instance(one) for one in ids if self.conditions.lists(one) and not self.conditions.lists_end(one)]
        now = [(one, one._state, one.state_reason) for one in late]
        for one in late:
            one._state, one.state_reason = self._before_end[one.id], StateReason()
        try:
            yield
        finally:
            for one, state, reason in now:
                one._state, one.state_reason = state, reason

    def _as_moto_does(self, call: Call, environ: dict[str, Any], params: Mapping[str, str] | None = None) -> Answer:
        if params is not None:
            environ = put_form(environ, {"Action": call.action, "Version": "2016-11-15", **params})
        body, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
        return Answer(status=status, body=b"".join(body), headers=list(headers))

    # launch

    def _run_instances(self, call: Call, environ: dict[str, Any]) -> Answer:
        backend = self._backend(call.region)
        whole = _with_template(backend, call.params)
        _check(whole)
        token = whole.get("ClientToken", "")
        key = (token, _zone(backend, whole))
        if token and key in self._launches:
            return self._again(self._launches[key], call)
        _find(backend, whole)
        offer = _offer(backend, whole)
        answer = self._as_moto_does(call, environ, {**whole, "MinCount": str(self._grant(offer, whole))})
        if b"NoSuchEntity" in answer.body:  # IAM's word, which moto passes on
            raise Refusal("InvalidParameterValue", "Invalid IAM Instance Profile name")
        if answer.good:
            ids = tuple(re.findall(r"<instanceId>(i-[0-9a-f]+)</instanceId>", answer.body.decode()))
            self._launches[key] = Launch(params=dict(call.params), instance_ids=ids, answer=answer)
            self._begin(backend, ids, whole, offer)
        return answer

    def _grant(self, offer: Offer, params: Mapping[str, str]) -> int:
        least, most = int(params["MinCount"]), int(params["MaxCount"])
        # capacity and quotas do not show in a dry run
        return least if params.get("DryRun") == "true" else self.conditions.grant(offer, least=least, most=most)

    def _again(self, launch: Launch, call: Call) -> Answer:
        if launch.params != dict(call.params):
            raise Refusal("IdempotentParameterMismatch", "The client token was used with other parameters before")
        if all(self.instance(one).state in GONE for one in launch.instance_ids):
            raise Refusal("IdempotentInstanceTerminated", "The instance launched with this client token is terminated")
        return launch.answer

    def _begin(self, backend: Any, ids: tuple[str, ...], params: Mapping[str, str], offer: Offer) -> None:
        for instance_id in ids:
            self._regions[instance_id] = backend.region_name
            self._associate_profile(backend, instance_id, params)
            self.mark(instance_id, "pending", "launched")
        self.conditions.launched(ids, offer)
        for instance_id in ids:
            if self.conditions.dooms(instance_id):
                continue
            if self.machines is None:
                self.mark(instance_id, "running", "booted")
            else:
                self.machines.boot(instance_id)

    def _associate_profile(self, backend: Any, instance_id: str, params: Mapping[str, str]) -> None:
        """Give every instance the profile that moto gives to the first."""
        name, arn = params.get("IamInstanceProfile.Name"), params.get("IamInstanceProfile.Arn")
        if (name or arn) and instance_id not in backend.iam_instance_profile_associations:
            backend.associate_iam_instance_profile(instance_id, name, arn)

    # end

    def _end_instances(self, call: Call, environ: dict[str, Any]) -> Answer:
        ids = [value for name, value in call.params.items() if name.startswith("InstanceId.")]
        before = {one: self.instance(one).instance_state for one in ids if one in self._regions}
        states = {one: (state.name, state.code) for one, state in before.items()}
        answer = self._as_moto_does(call, environ)
        if answer.good:
            for instance_id, state in states.items():
                self._end(instance_id, state, call.action)
        return answer

    def _end(self, instance_id: str, before: tuple[str, int], action: str) -> None:
        terminate = action == "TerminateInstances"
        if before[0] in GONE:
            self.instance(instance_id)._state = InstanceState(*before)
            return
        cause = TERMINATED if terminate else STOPPED
        if terminate and self.machines is None:
            self._before_end[instance_id] = InstanceState(*before)
        self.mark(instance_id, "shutting-down" if terminate else "stopping", cause)
        if self.machines is None or before[0] == "stopped":
            self.mark(instance_id, "terminated" if terminate else "stopped", cause)
        else:
            self.machines.end(instance_id, cause)

    def _start_instances(self, call: Call, environ: dict[str, Any]) -> Answer:
        raise Refusal("UnsupportedOperation", "Nothing here can start a stopped instance: its disk is gone")

    # console

    def _console_output(self, call: Call, environ: dict[str, Any]) -> Answer:
        answer = self._as_moto_does(call, environ)
        if not answer.good or self.machines is None:
            return answer
        text = self.machines.console(call.params["InstanceId"]).encode()[-CONSOLE_LIMIT:]
        output = base64.b64encode(text).decode()
        body = re.sub(r"<output>.*</output>", f"<output>{output}</output>", answer.body.decode(), flags=re.DOTALL)
        return Answer(status=answer.status, body=body.encode(), headers=answer.headers)


def _with_template(backend: Any, params: Mapping[str, str]) -> dict[str, str]:
    """Return the request with what its launch template adds: a top-level parameter of the call replaces it whole."""
    template = {name.partition(".")[2]: value for name, value in params.items() if name.startswith("LaunchTemplate.")}
    if not template:
        return dict(params)
    if template.get("LaunchTemplateId", "") not in {"", *backend.launch_templates}:
        raise Refusal("InvalidLaunchTemplateId.NotFound", "The specified launch template does not exist")
    data = backend._get_template_from_args(template).data
    given = {name.partition(".")[0] for name in params}
    added = {name: value for name, value in _on_the_wire(data) if name.partition(".")[0] not in given}
    return {**params, **added}


def _on_the_wire(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    operation: Any = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    # tags of a template and of a call add up, and moto does that; moto keeps user data in a type of its own
    known = {k: v for k, v in data.items() if k in operation.input_shape.members and k != "TagSpecifications"}
    if "UserData" in known:
        known["UserData"] = str(known["UserData"])
    body = create_serializer("ec2", False).serialize_to_request(known, operation)["body"]
    return ((name, str(value)) for name, value in body.items() if name not in {"Action", "Version"})


def _check(params: Mapping[str, str]) -> None:
    least, most = int(params.get("MinCount", 0)), int(params.get("MaxCount", 0))
    if not 1 <= least <= most:
        raise Refusal("InvalidParameterValue", f"MinCount {least}, MaxCount {most}: not 1 <= MinCount <= MaxCount")
    if "ImageId" not in params:
        raise Refusal("MissingParameter", "The request must contain the parameter ImageId")
    if len(base64.b64decode(params.get("UserData", ""))) > USER_DATA_LIMIT:
        raise Refusal("InvalidUserData.Malformed", f"User data is limited to {USER_DATA_LIMIT} bytes")
    tops = {name.partition(".")[0] for name in params}
    if "NetworkInterface" in tops and tops & {"SubnetId", "SecurityGroupId", "SecurityGroup"}:
        raise Refusal(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level subnet ID may not be specified on the same request",
        )


def _find(backend: Any, params: Mapping[str, str]) -> None:
    """Refuse a request that names what is not there, as a dry run does too."""
    backend.describe_images(ami_ids=[params["ImageId"]])
    if params.get("InstanceType", "m1.small") not in INSTANCE_TYPES:
        raise InvalidInstanceTypeError(params["InstanceType"])
    if subnet := _subnet(params):
        backend.describe_subnets(subnet_ids=[subnet])
    groups = [value for name, value in params.items() if re.search(r"(^|\.)SecurityGroupId\.\d+$", name)]
    if groups:
        backend.describe_security_groups(group_ids=groups)


def _offer(backend: Any, params: Mapping[str, str]) -> Offer:
    spot = params.get("InstanceMarketOptions.MarketType") == "spot"
    return Offer(
        market="spot" if spot else "on-demand",
        instance_type=params.get("InstanceType", "m1.small"),
        zone=_zone(backend, params),
        subnet_id=_subnet(params),
    )


def _subnet(params: Mapping[str, str]) -> str:
    return params.get("SubnetId") or params.get("NetworkInterface.1.SubnetId") or ""


def _zone(backend: Any, params: Mapping[str, str]) -> str:
    """Return the zone a client token holds for; empty where it holds for the region."""
    if zone := params.get("Placement.AvailabilityZone"):
        return zone
    subnet_id = _subnet(params)
    subnets = backend.describe_subnets() if subnet_id else []
    return next((str(subnet.availability_zone) for subnet in subnets if subnet.id == subnet_id), "")
