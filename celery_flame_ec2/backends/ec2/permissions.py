"""What must IAM allow parent, doctor, runner and whoever deploys? Pure: where they act in, policies out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from ...config import Ec2Options, PoolSettings
from .instances import OWNER
from .lookups import RESOLVE
from .request import SPOT_REQUEST, TAGGED

PARENT, DOCTOR, RUNNER, DEPLOYER = "parent", "doctor", "runner", "deployer"
#: What stands for a role that nobody named: a policy that allows nothing rather than too much.
NO_ROLE = "RUNNER-ROLE"
ANY = "*"
#: Characters that a managed policy may have; white space does not count.
#: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
MOST = 6144


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """Where one pool's parent and runners act.

    `region`, `account` and `role` (a name, with its path, or an ARN) are `ANY` or `NO_ROLE` where nobody knows them.
    `lease` is the s3:// URL of the parents' lease, and `board` that of the runners' board; empty where it is elsewhere,
    or there is none.
    """

    pool: PoolSettings
    owner: str
    region: str = ANY
    partition: str = "aws"
    account: str = ANY
    role: str = NO_ROLE
    lease: str = ""
    board: str = ""

    @property
    def ec2(self) -> Ec2Options:
        """Return what the pool's instances are made of."""
        return self.pool.ec2

    def arn(self, service: str, resource: str, *, account: str | None = None) -> str:
        """Return the ARN of something in this region; `account` is empty for what belongs to none."""
        owner = self.account if account is None else account
        return f"arn:{self.partition}:{service}:{self.region}:{owner}:{resource}"

    def all_of(self, kinds: Iterable[str]) -> list[str]:
        """Return EC2's resources of these types."""
        return [self.arn("ec2", f"{kind}/*") for kind in kinds]

    def object(self, bucket: str, key: str = "") -> str:
        """Return the ARN of a bucket or of what is in it."""
        return f"arn:{self.partition}:s3:::{bucket}" + (f"/{key}" if key else "")

    def iam(self, kind: str, name: str) -> str:
        """Return the ARN of a role or an instance profile that is given by ARN or by name."""
        return name if name.startswith("arn:") else f"arn:{self.partition}:iam::{self.account}:{kind}/{name}"


Resources = Callable[[Ground], Iterable[str]]
Condition = Mapping[str, Mapping[str, Any]]


def _always(_: Ground) -> Condition:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Permission:
    """One action that the code needs.

    `on` gives a pool's resources, none where the pool does not need it; `under` the conditions. Permissions of one
    `sid` agree in both, for they become one statement. `calls` are the API calls it allows, as CloudTrail names them:
    none where AWS asks for it on behalf of another call.
    """

    who: str
    sid: str
    action: str
    why: str
    on: Resources
    under: Callable[[Ground], Condition] = _always
    calls: tuple[str, ...] = field(default=())


def policy(grounds: Iterable[Ground], *who: str) -> dict[str, Any]:
    """Return the IAM policy document for these of PARENT, DOCTOR, RUNNER and DEPLOYER on all these grounds."""
    grounds, found = list(grounds), dict[tuple[str, str], _Statement]()
    for permission in TABLE:
        for ground in grounds if permission.who in who else ():
            if resources := list(permission.on(ground)):
                under = permission.under(ground)
                key = (permission.sid, json.dumps(under, sort_keys=True))
                statement = found.setdefault(key, _Statement(sid=permission.sid, under=under))
                statement.actions.add(permission.action)
                statement.resources.update(resources)
    return {"Version": "2012-10-17", "Statement": list(_numbered(found.values()))}


def size(document: Mapping[str, Any]) -> int:
    """Return the characters of a policy as IAM counts them."""
    return len(re.sub(r"\s", "", json.dumps(document)))


def unknowns(grounds: Iterable[Ground]) -> list[str]:
    """Return a sentence for each thing that the policies leave open, or that no policy can say."""
    grounds = list(grounds)
    return list(dict.fromkeys(sentence for ground in grounds for sentence in _unknowns(ground)))


def _unknowns(ground: Ground) -> Iterator[str]:
    where = f"pool {ground.pool.name!r}"
    if ground.account == ANY:
        yield "the account is not known, so '*' stands for it; give --account"
    if ground.region == ANY:
        yield f"{where}: nothing names a region, so '*' stands for it; give option 'region', or set AWS_DEFAULT_REGION"
    if ground.role == NO_ROLE and _role(ground):
        yield f"the role in the runners' instance profile is not known, so {NO_ROLE} stands for it; give --role"
    if template := ground.ec2.launch_template_id:
        yield (
            f"{where}: what only launch template {template} names (image, subnet, groups, key pair) may be any here; "
            "an image it names as resolve:ssm:, a placement group or a capacity reservation need a statement of yours"
        )
    if "spot" in ground.ec2.market:
        yield (
            "spot needs the service-linked role AWSServiceRoleForEC2Spot once in an account: "
            "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statement:
    sid: str
    under: Condition
    actions: set[str] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)


def _numbered(statements: Iterable[_Statement]) -> Iterator[dict[str, Any]]:
    """Write each out; a Sid may be in a policy once."""
    seen: list[str] = []
    for statement in statements:
        seen.append(statement.sid)
        times = seen.count(statement.sid)
        yield {
            "Sid": statement.sid if times == 1 else f"{statement.sid}{times}",
            "Effect": "Allow",
            "Action": _one_or_all(statement.actions),
            "Resource": _one_or_all(statement.resources),
            **({"Condition": dict(statement.under)} if statement.under else {}),
        }


def _one_or_all(texts: Iterable[str]) -> str | list[str]:
    first, *others = sorted(texts)
    return [first, *others] if others else first


def _literal(text: str) -> str:
    """Write a name so that IAM takes no character of it for a wildcard or a variable."""
    return re.sub(r"[*?$]", lambda found: f"${{{found[0]}}}", text)


# what the parent's rights are on


def _anything(_: Ground) -> Iterable[str]:
    return [ANY]


def _only_if(needed: Callable[[Ground], object]) -> Resources:
    return lambda ground: [ANY] if needed(ground) else []


def _what_it_runs_on(ground: Ground) -> Iterator[str]:
    """Give what a launch finds there: what the settings name, else any that template or metadata may name."""
    ec2 = ground.ec2
    image = ec2.image_id if ec2.image_id and not ec2.image_id.startswith(RESOLVE) else ANY
    yield ground.arn("ec2", f"image/{image}", account="")
    yield ground.arn("ec2", "snapshot/*", account="")
    yield from (ground.arn("ec2", f"subnet/{name}") for name in ec2.subnet_id or [ANY])
    yield from (ground.arn("ec2", f"security-group/{name}") for name in ec2.security_group_id or [ANY])
    if ec2.key_name or ec2.launch_template_id:
        yield ground.arn("ec2", f"key-pair/{_literal(ec2.key_name) if ec2.key_name else ANY}")
    if ec2.launch_template_id:
        yield ground.arn("ec2", f"launch-template/{ec2.launch_template_id}")


def _what_it_creates(ground: Ground) -> Iterable[str]:
    return ground.all_of((*TAGGED, SPOT_REQUEST) if "spot" in ground.ec2.market else TAGGED)


def _instances(ground: Ground) -> Iterable[str]:
    return ground.all_of(["instance"])


def _role(ground: Ground) -> Iterable[str]:
    ec2 = ground.ec2
    passes_one = ec2.iam_instance_profile or ec2.launch_template_id or ec2.auto_configure
    return [ground.iam("role", ground.role)] if passes_one else []


def _image_parameter(ground: Ground) -> Iterable[str]:
    image = ground.ec2.image_id or ""
    return [_parameter(ground, image.removeprefix(RESOLVE))] if image.startswith(RESOLVE) else []


def _parameter(ground: Ground, name: str) -> str:
    """Return the ARN of an SSM parameter that is given by name or ARN; a version or label after it goes."""
    if name.startswith("arn:"):
        return _literal(":".join(name.split(":")[:6]))
    path = name.partition(":")[0].lstrip("/")
    account = "" if path.startswith("aws/") else None  # AWS's own belong to nobody
    return ground.arn("ssm", f"parameter/{_literal(path)}", account=account)


def _lease(ground: Ground) -> Iterable[str]:
    bucket, _, key = ground.lease.removeprefix("s3://").partition("/")
    beside = ("", ".notes", ".overrides")
    return [ground.object(bucket, f"{_literal(key)}{end}") for end in beside] if ground.lease else []


def _board(ground: Ground) -> tuple[str, str]:
    """Return bucket and key of the board."""
    parts = urlsplit(ground.board)
    return parts.netloc, unquote(parts.path.lstrip("/"))


def _words(ground: Ground) -> Iterable[str]:
    bucket, key = _board(ground)
    return [ground.object(bucket, f"{_literal(key)}/words/*")] if bucket else []


def _orders(ground: Ground) -> Iterable[str]:
    bucket, key = _board(ground)
    return [ground.object(bucket, f"{_literal(key)}/orders")] if bucket else []


def _bucket_of_board(ground: Ground) -> Iterable[str]:
    bucket, _ = _board(ground)
    return [ground.object(bucket)] if bucket else []


def _profile(ground: Ground) -> Iterable[str]:
    profile = ground.ec2.iam_instance_profile
    return [ground.iam("instance-profile", profile or ANY)] if _role(ground) else []


# what the runner's rights are on


def _bundle(ground: Ground) -> Iterable[str]:
    """Give the bundle and its like beside it, so that the next release needs no other policy."""
    bucket, key = _bundle_place(ground)
    suffix = re.search(r"(\.tar)?\.\w+$", key)
    return [ground.object(bucket, f"{_literal(_shelf(key))}*{suffix[0] if suffix else ''}")] if bucket else []


def _releases(ground: Ground) -> Iterable[str]:
    """Give all that stands beside the bundle, packed or not."""
    bucket, key = _bundle_place(ground)
    return [ground.object(bucket, f"{_literal(_shelf(key))}*")] if bucket else []


def _bucket(ground: Ground) -> Iterable[str]:
    bucket, _ = _bundle_place(ground)
    return [ground.object(bucket)] if bucket else []


def _bucket_of_prefix(ground: Ground) -> Iterable[str]:
    return _bucket(ground) if _bundle_place(ground)[1].endswith("/") else []


def _bundle_place(ground: Ground) -> tuple[str, str]:
    bucket, _, key = (ground.ec2.s3_bundle_url or "").removeprefix("s3://").partition("/")
    return bucket, key


def _shelf(key: str) -> str:
    """Return the prefix under which the releases stand side by side; one alone in its bucket has but its own."""
    above, slash, _ = key.removesuffix("/").rpartition("/")
    return above + slash or (key if key.endswith("/") else "")


def _references(ground: Ground, kind: str) -> list[str]:
    return sorted({value[kind] for value in ground.ec2.env.values() if isinstance(value, Mapping) and kind in value})


def _parameters(ground: Ground) -> Iterable[str]:
    return [_parameter(ground, name) for name in _references(ground, "from_ssm")]


def _secrets(ground: Ground) -> Iterable[str]:
    names = {reference.partition("#")[0] for reference in _references(ground, "from_secretsmanager")}
    return [_secret(ground, name) for name in sorted(names)]


def _many_secrets(ground: Ground) -> Iterable[str]:
    """Give what asking for many at once is a right on: IAM knows no resource for it."""
    return [ANY] if len(list(_secrets(ground))) > 1 else []


def _secret(ground: Ground, name: str) -> str:
    """Return the ARN of a secret: AWS puts a hyphen and six characters behind its name."""
    arn = name if name.startswith("arn:") else ground.arn("secretsmanager", f"secret:{name}")
    whole = name.startswith("arn:") and re.search(r"-\w{6}$", name)
    return arn if whole else f"{arn}-??????"


def _keys(ground: Ground) -> Iterable[str]:
    return [ground.arn("kms", "key/*")] if [*_parameters(ground), *_secrets(ground)] else []


# under which conditions


def _tagged_in_the_request(ground: Ground) -> Condition:
    return {"StringEquals": {f"aws:RequestTag/{OWNER}": ground.owner}}


def _tagged_by_the_launch(ground: Ground) -> Condition:
    return {"StringEquals": {f"aws:RequestTag/{OWNER}": ground.owner, "ec2:CreateAction": "RunInstances"}}


def _tagged(ground: Ground) -> Condition:
    return {"StringEquals": {f"aws:ResourceTag/{OWNER}": ground.owner}}


def _to_instances(ground: Ground) -> Condition:
    services = ["ec2.amazonaws.com", *["ec2.amazonaws.com.cn"] * (ground.partition == "aws-cn")]
    return {"StringEquals": {"iam:PassedToService": _one_or_all(services)}}


def _under_the_prefix(ground: Ground) -> Condition:
    return {"StringLike": {"s3:prefix": f"{_literal(_shelf(_bundle_place(ground)[1]))}*"}}


def _under_the_words(ground: Ground) -> Condition:
    return {"StringLike": {"s3:prefix": f"{_literal(_board(ground)[1])}/words/*"}}


def _through_its_service(ground: Ground) -> Condition:
    domain = "amazonaws.com.cn" if ground.partition == "aws-cn" else "amazonaws.com"
    named = [("ssm", _parameters(ground)), ("secretsmanager", _secrets(ground))]
    services = [f"{service}.{ground.region}.{domain}" for service, used in named if used]
    return {"StringLike": {"kms:ViaService": _one_or_all(services)}}


def _may(
    who: str, sid: str, *rights: tuple[str, str], on: Resources, under: Callable[[Ground], Condition] = _always
) -> Iterator[Permission]:
    """Yield a permission for each action and its reason, where an action is named as the one call it allows."""
    for action, why in rights:
        _, _, call = action.partition(":")
        yield Permission(who=who, sid=sid, action=action, why=why, on=on, under=under, calls=(call,))


#: Every right that the code needs, in the order of the policies.
TABLE = (
    *_may(PARENT, "RunOn", ("ec2:RunInstances", "launches runners on what is there"), on=_what_it_runs_on),
    *_may(
        PARENT, "RunCreates",
        ("ec2:RunInstances", "launches runners, each thing tagged as this deployment's in the launch itself"),
        on=_what_it_creates, under=_tagged_in_the_request,
    ),
    Permission(
        who=PARENT, sid="TagAtLaunch", action="ec2:CreateTags",
        why="a launch that tags asks for this too; nothing is ever tagged later",
        on=_what_it_creates, under=_tagged_by_the_launch,
    ),
    *_may(
        PARENT, "OwnInstances",
        ("ec2:TerminateInstances", "ends runners that will not end themselves"),
        ("ec2:GetConsoleOutput", "says what a runner printed last that failed to boot"),
        on=_instances, under=_tagged,
    ),
    *_may(
        PARENT, "See",
        ("ec2:DescribeInstances", "lists the runners that are there"),
        ("ec2:DescribeImages", "learns the name of an image's root disk, to encrypt it"),
        ("ec2:DescribeSubnets", "learns the zones of the subnets, to remember where a type was not to be had"),
        on=_anything,
    ),
    *_may(
        PARENT, "See", ("ec2:DescribeInstanceTypes", "learns a type's vCPUs where a pool has no 'max_concurrency'"),
        on=_only_if(lambda ground: ground.pool.max_concurrency is None),
    ),
    *_may(
        PARENT, "See",
        ("ec2:DescribeLaunchTemplateVersions", "learns what the launch template says, to respect it"),
        on=_only_if(lambda ground: ground.ec2.launch_template_id),
    ),
    Permission(
        who=PARENT, sid="PassRunnerRole", action="iam:PassRole",
        why="a launch with an instance profile asks for this", on=_role, under=_to_instances,
    ),
    Permission(
        who=PARENT, sid="SeeBundle", action="s3:GetObject", calls=("HeadObject",),
        why="pins the bundle as it is when the parent starts", on=_bundle,
    ),
    Permission(
        who=PARENT, sid="SeeBundle", action="s3:GetObjectVersion", calls=("HeadObject",),
        why="looks whether that version is still there, where the bucket keeps versions", on=_bundle,
    ),
    *_may(
        PARENT, "ReadImageName", ("ssm:GetParameter", "resolves an image that is given as resolve:ssm:"),
        on=_image_parameter,
    ),
    *_may(
        PARENT, "Lease",
        ("s3:GetObject", "looks which parent holds the lease"),
        ("s3:PutObject", "takes and keeps the lease"),
        ("s3:DeleteObject", "gives the lease up"),
        on=_lease,
    ),
    Permission(
        who=PARENT, sid="ListWords", action="s3:ListBucket", calls=("ListObjectsV2",),
        why="reads what runners say where the broker carries no words", on=_bucket_of_board, under=_under_the_words,
    ),
    Permission(
        who=PARENT, sid="ClearWords", action="s3:DeleteObject", calls=("DeleteObjects",),
        why="takes down words of runners that are gone", on=_words,
    ),
    *_may(
        PARENT, "GiveOrders",
        ("s3:GetObject", "looks who is cordoned where the broker carries no orders"),
        ("s3:PutObject", "cordons, and takes it back"),
        on=_orders,
    ),
    *_may(
        DOCTOR, "DoctorSees",
        ("ec2:DescribeImages", "checks that the image is there, and its architecture"),
        ("ec2:DescribeInstanceTypeOfferings", "checks that the types are there in the subnets' zones"),
        ("ec2:DescribeInstanceTypes", "checks that the types are there, and fit the image"),
        ("ec2:DescribeRouteTables", "checks that the subnets have a way to S3"),
        ("ec2:DescribeSecurityGroups", "checks that the groups are there, in the subnets' network"),
        ("ec2:DescribeSubnets", "checks that the subnets are there, with free addresses"),
        ("ec2:DescribeVpcEndpoints", "checks that the subnets have a way to S3"),
        on=_anything,
    ),
    *_may(
        DOCTOR, "DoctorSeesProfile", ("iam:GetInstanceProfile", "checks that the profile is there, and has a role"),
        on=_profile,
    ),
    Permission(
        who=DOCTOR, sid="DoctorSeesBundle", action="s3:GetObject", calls=("HeadObject",),
        why="checks that the bundle is there", on=_bundle,
    ),
    Permission(
        who=DOCTOR, sid="DoctorSeesBucket", action="s3:ListBucket", calls=("HeadBucket", "ListObjectsV2"),
        why="checks where the bucket is, and tells a missing bundle from a forbidden one", on=_bucket,
    ),
    *_may(RUNNER, "FetchBundle", ("s3:GetObject", "fetches the release"), on=_bundle),
    Permission(
        who=RUNNER, sid="FetchBundle", action="s3:GetObjectVersion", calls=("GetObject",),
        why="fetches the version that its parent pinned, where the bucket keeps versions", on=_bundle,
    ),
    Permission(
        who=RUNNER, sid="ListBundle", action="s3:ListBucket", calls=("ListObjectsV2",),
        why="lists a release that is a prefix", on=_bucket_of_prefix, under=_under_the_prefix,
    ),
    *_may(
        RUNNER, "PinWords",
        ("s3:PutObject", "says how it is where the broker carries no words"),
        ("s3:DeleteObject", "takes its former word down"),
        on=_words,
    ),
    *_may(RUNNER, "ReadOrders", ("s3:GetObject", "looks whether it is cordoned"), on=_orders),
    *_may(RUNNER, "ReadParameters", ("ssm:GetParameters", 'resolves {"from_ssm": name} in env'), on=_parameters),
    *_may(
        RUNNER, "ReadSecrets", ("secretsmanager:GetSecretValue", 'resolves {"from_secretsmanager": name} in env'),
        on=_secrets,
    ),
    *_may(
        RUNNER, "BatchSecrets",
        ("secretsmanager:BatchGetSecretValue", "resolves several secrets by one call; gives none it may not read"),
        on=_many_secrets,
    ),
    *_may(DEPLOYER, "PushAndPrune", ("s3:PutObject", "pushes a release where there is none"), on=_releases),
    Permission(
        who=DEPLOYER, sid="PushAndPrune", action="s3:GetObject", calls=("HeadObject", "GetObject"),
        why="looks what is there already, and checks it", on=_releases,
    ),
    Permission(
        who=DEPLOYER, sid="PushAndPrune", action="s3:DeleteObject", calls=("DeleteObjects",),
        why="deletes releases that nobody uses", on=_releases,
    ),
    Permission(
        who=DEPLOYER, sid="ListReleases", action="s3:ListBucket", calls=("ListObjectsV2",),
        why="lists the releases, and tells a missing one from a forbidden one", on=_bucket,
    ),
    *_may(
        DEPLOYER, "SeeUse",
        ("ec2:DescribeInstances", "learns which releases runners run"),
        ("ec2:DescribeImages", "learns what an image is for, to compare a release with"),
        on=_anything,
    ),
    *_may(DEPLOYER, "ReadNotes", ("s3:GetObject", "reads what parents pinned"), on=_lease),
    Permission(
        who=RUNNER, sid="DecryptThem", action="kms:Decrypt",
        why="reading what a key of yours encrypts asks for this", on=_keys, under=_through_its_service,
    ),
)  # fmt: skip
