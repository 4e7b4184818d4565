"""Would EC2 launch what the settings say, and would it boot? Asked with reading calls and dry runs only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .... import boot
from ....config import PoolSettings, Settings
from ....edition import Edition, edition_of, key_of
from ....errors import BackendError, SettingsError
from ....finding import Finding, failed, ok, unknown
from ....parent import Parent
from ....release.facts import own_facts
from ....release.inspection import fits
from ..clients import Clients, Place, Refused
from ..cookbook import Cookbook
from ..instances import tags_of
from ..recipe import Recipe, rungs
from ..refusals import Refusal
from ..request import run_instances_request
from . import bundle, machine, network, rights
from .asker import Asker, not_told
from .subject import Reader, Subject, described_image

__all__ = ("Checkup",)

#: Seconds for one answer of AWS, and how often it is asked for: somebody sits and waits.
PATIENCE, ATTEMPTS = 8.0, 2
#: Dry runs that EC2's bucket for launches takes at once, and seconds between those after.
BURST, PACE = 4, 0.5
#: In what the requests of two pools differ though they ask for the same; the user's own tags count all the same.
OF_THE_POOL = frozenset({"UserData", "TagSpecifications"})
#: A dry run makes nothing, so its token is used up by nothing either.
TOKEN = "flame-doctor"  # noqa: S105  (a client token is no secret)


class Checkup:
    """Examines pools one step after the other; what one step learns the next need not ask.

    `letters` are what each pool's runners would get; `ports` the TCP ports they connect to, by number, with a name;
    `services` those of AWS they use, such as "s3".
    """

    def __init__(
        self,
        settings: Settings,
        *,
        letters: Mapping[str, Parent],
        ports: Mapping[int, str],
        services: Iterable[str],
        environ: Mapping[str, str],
        pause: Callable[[float], None],
    ) -> None:
        self._settings, self._letters, self._environ, self._pause = settings, letters, environ, pause
        self._ports, self._services = {443: "AWS", **ports}, tuple(services)
        self._clients = Clients(launch_timeout=PATIENCE, read_timeout=PATIENCE, attempts=ATTEMPTS)
        self._cookbook = Cookbook(self._clients, environ=environ, clock=time.monotonic)
        self._askers: dict[Place, Asker] = {}
        self._subjects: dict[str, Subject] = {}
        self._dry_runs: dict[str, Refusal | Finding] = {}

    def steps(self) -> Iterator[tuple[str, Callable[[PoolSettings], Iterator[Finding]]]]:
        """Yield what to do for every pool, in order, each with its name."""
        yield "credentials", self._place
        yield "image and types", self._of(_machine)
        yield "network", self._of(self._network)
        yield "bundle", self._of(_bundle)
        yield "instance profile", self._of(_profile)
        yield "launch", self._of(self._launch)

    def close(self) -> None:
        """Close every connection."""
        self._clients.close()

    def _of(self, check: Callable[[Subject], Iterator[Finding]]) -> Callable[[PoolSettings], Iterator[Finding]]:
        """Return the check for a pool by its subject; without a region there is none, and nobody to ask."""

        def of(pool: PoolSettings) -> Iterator[Finding]:
            subject = self._subjects.get(pool.name)
            return iter(()) if subject is None else check(subject)

        return of

    def _place(self, pool: PoolSettings) -> Iterator[Finding]:
        try:
            place = self._cookbook.place(pool.ec2)
        except BackendError as exc:
            remedy = "give option 'region', or set AWS_DEFAULT_REGION (boto3 does not read AWS_REGION)"
            yield failed("region", f"{exc}: nothing of EC2 can be asked", remedy)
            return
        asker = self._askers.setdefault(place, Asker(self._clients, place))
        told = rights.region(place.region, bool(pool.ec2.region), self._environ, self._clients.region())
        sts = self._clients.other("sts", Place(region=place.region))
        yield rights.caller(asker.ask("sts:GetCallerIdentity", sts.get_caller_identity), told)
        reader = Reader(asker, self._environ)
        made = reader.read(pool.ec2)
        yield from reader.findings
        letter = self._letters[pool.name]
        self._subjects[pool.name] = Subject(pool=pool, letter=letter, asker=asker, recipe=made, whole=reader.is_whole)

    def _network(self, subject: Subject) -> Iterator[Finding]:
        found, asker, vpcs = _subnets(subject), subject.asker, set[str]()
        if isinstance(found, Finding):
            yield found
        else:
            vpcs = {str(subnet.get("VpcId")) for subnet in found}
            yield from network.subnets(found, subject.subnets, subject.pool.max)
            yield from _routes(subject, found, _needs(subject, self._services))
        if not subject.groups:
            yield unknown("security groups", "none is named by its id", "set 'security_group_id'")
            return
        groups = asker.described(
            "ec2:DescribeSecurityGroups", "describe_security_groups", "SecurityGroups", {"group-id": subject.groups}
        )
        if isinstance(groups, Refusal):
            yield not_told("security groups", groups)
        else:
            yield from network.groups(groups, subject.groups, vpcs, self._ports)

    def _launch(self, subject: Subject) -> Iterator[Finding]:
        made = self._recipe(subject)
        if isinstance(made, Finding):
            yield made
            return
        try:
            user_data = boot.user_data(boot.document(subject.letter, subject.pool.ec2), made.user_data)
        except SettingsError as exc:
            yield failed("user data", str(exc), "make 'env' smaller")
            return
        yield ok("user data", f"{len(user_data)} of {boot.MAX_USER_DATA} bytes")
        every, answers = list(rungs(made)), []
        ec2 = subject.pool.ec2
        release = Edition(url=str(ec2.s3_bundle_url)).tag
        tags = tags_of(subject.letter, token=TOKEN, now=time.time(), extra=ec2.tags, release=release, hello=ec2.hello)
        for rung in rights.sample(every):
            request = run_instances_request(made, rung, count=1, token=TOKEN, tags=tags, user_data=user_data)
            answer = self._tried(subject, request)
            if isinstance(answer, Finding):
                yield answer
                return
            answers.append((rung, answer))
        yield from rights.launches(answers, len(every))

    def _recipe(self, subject: Subject) -> Recipe | Finding:
        """Return what a launch is made of; where AWS would not tell, other checks have said so."""
        mend = "mend what is told above"
        if not subject.whole or subject.asker.is_silent("ec2"):
            return unknown("launch", "no request can be made", mend)
        try:
            return self._cookbook.recipe(subject.pool)
        except Refused as exc:
            return unknown("launch", f"no request can be made: {exc.refusal.action} was refused", mend)
        except BackendError as exc:
            return failed("launch", f"no request can be made: {exc}", "change the options it names, or the template")

    def _tried(self, subject: Subject, request: Mapping[str, Any]) -> Refusal | Finding:
        """Return what EC2 says to a launch; what differs only by what a runner reads is asked once."""
        telling = {name: value for name, value in request.items() if name not in OF_THE_POOL}
        key = repr((subject.asker.place, telling, subject.pool.ec2.tags))
        if key not in self._dry_runs:
            self._pause(PACE if len(self._dry_runs) >= BURST else 0)
            self._dry_runs[key] = _dry_run(subject.asker, request)
        return self._dry_runs[key]


def _dry_run(asker: Asker, request: Mapping[str, Any]) -> Refusal | Finding:
    client: Any = asker.clients.launching(asker.place)
    answer = asker.ask("ec2:RunInstances", client.run_instances, **request, DryRun=True)
    if isinstance(answer, Refusal):
        return answer
    ids = [str(instance.get("InstanceId")) for instance in answer.get("Instances", ())]
    told = f"what answers as EC2 launches on a dry run: {', '.join(ids)}"
    return failed("launch", told, "end them, and check option 'ec2_service_endpoint'")


def _machine(subject: Subject) -> Iterator[Finding]:
    image = described_image(subject)
    yield image if isinstance(image, Finding) else machine.image(image)
    wanted = list(dict.fromkeys(subject.recipe.known_types))
    if not wanted:
        return
    kinds = subject.asker.described(
        "ec2:DescribeInstanceTypes", "describe_instance_types", "InstanceTypes", {"instance-type": wanted}
    )
    if isinstance(kinds, Refusal):
        yield not_told("instance types", kinds)
        return
    yield machine.types(kinds, wanted, [market for market in subject.recipe.markets if market])
    if kinds and not isinstance(image, Finding):
        yield machine.architecture(image, kinds)
    yield from _zones(subject, [str(kind["InstanceType"]) for kind in kinds])


def _zones(subject: Subject, kinds: list[str]) -> Iterator[Finding]:
    subnets = _subnets(subject)
    if isinstance(subnets, Finding) or not subnets or not kinds:  # told by other checks
        return
    offers = subject.asker.described(
        "ec2:DescribeInstanceTypeOfferings", "describe_instance_type_offerings", "InstanceTypeOfferings",
        {"instance-type": kinds}, LocationType="availability-zone",
    )  # fmt: skip
    zones = {str(subnet["SubnetId"]): str(subnet["AvailabilityZone"]) for subnet in subnets}
    yield not_told("zones", offers) if isinstance(offers, Refusal) else machine.offered(offers, kinds, zones)


def _subnets(subject: Subject) -> list[dict[str, Any]] | Finding:
    if not subject.subnets:
        told = "none is named by its id: EC2 takes one of the default VPC, if there is one"
        return unknown("subnets", told, "set 'subnet_id'")
    found = subject.asker.described(
        "ec2:DescribeSubnets", "describe_subnets", "Subnets", {"subnet-id": subject.subnets}
    )
    return not_told("subnets", found) if isinstance(found, Refusal) else found


def _needs(subject: Subject, services: Iterable[str]) -> list[str]:
    """Return the services of AWS that a runner uses, by their names in endpoints."""
    kinds = {kind for value in subject.pool.ec2.env.values() if isinstance(value, dict) for kind in value}
    of_env = {"from_ssm": "ssm", "from_secretsmanager": "secretsmanager"}
    return list(dict.fromkeys(["s3", *services, *(of_env[kind] for kind in sorted(kinds))]))


def _routes(subject: Subject, subnets: list[dict[str, Any]], needs: list[str]) -> Iterator[Finding]:
    vpcs = {"vpc-id": {str(subnet.get("VpcId")) for subnet in subnets}}
    if not subnets:
        return
    tables = subject.asker.described("ec2:DescribeRouteTables", "describe_route_tables", "RouteTables", vpcs)
    endpoints = subject.asker.described("ec2:DescribeVpcEndpoints", "describe_vpc_endpoints", "VpcEndpoints", vpcs)
    if isinstance(tables, Refusal):
        yield not_told("route to S3", tables)
    elif isinstance(endpoints, Refusal):
        yield not_told("route to S3", endpoints)
    else:
        ways = [network.way(subnet, tables, endpoints, subject.public) for subnet in subnets]
        yield from network.routes(ways, needs, subject.asker.place.region)


def _s3(subject: Subject) -> Any:
    options = subject.pool.ec2
    place = Place(region=subject.asker.place.region, endpoint=options.s3_service_endpoint)
    return subject.asker.clients.other("s3", place)


def _bundle(subject: Subject) -> Iterator[Finding]:
    url, asker, client = str(subject.pool.ec2.s3_bundle_url), subject.asker, _s3(subject)
    name, _, key = url.removeprefix("s3://").partition("/")
    found = bundle.bucket(asker.ask("s3:ListBucket", client.head_bucket, Bucket=name), name, asker.place.region)
    if found is not None:
        yield found
        if found.check == "bundle":
            return
    if url.endswith("/"):
        yield bundle.prefix(asker.ask("s3:ListBucket", client.list_objects_v2, Bucket=name, Prefix=key, MaxKeys=1), url)
        manifest = asker.ask("s3:GetObject", client.head_object, Bucket=name, Key=key_of(key), ChecksumMode="ENABLED")
        yield from _made_for(subject, manifest)
    else:
        head = asker.ask("s3:GetObject", client.head_object, Bucket=name, Key=key, ChecksumMode="ENABLED")
        yield bundle.file(head, url, subject.pool.ec2.s3_bundle_sha256)
        yield from _made_for(subject, head)


def _made_for(subject: Subject, head: Mapping[str, Any] | Refusal) -> Iterator[Finding]:
    """Tell of what the bundle is made, where that was said when it was pushed."""
    facts = {} if isinstance(head, Refusal) else edition_of("", head).facts
    image = described_image(subject)
    if "platform" in facts:
        yield from fits(facts, None if isinstance(image, Finding) else image.get("Architecture"))
    if facts and (found := bundle.own(own_facts(), facts)):
        yield found


def _profile(subject: Subject) -> Iterator[Finding]:
    name, asker = subject.profile, subject.asker
    if name is None:
        yield rights.profile(None, "")
        return
    iam = asker.clients.other("iam", Place(region=asker.place.region))
    answer = asker.ask("iam:GetInstanceProfile", iam.get_instance_profile, InstanceProfileName=name)
    yield rights.profile(answer, name)
    roles = [] if isinstance(answer, Refusal) else rights.roles(answer)
    yield bundle.role(roles, str(subject.pool.ec2.s3_bundle_url))
