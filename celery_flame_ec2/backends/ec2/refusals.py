"""What does it mean when AWS says no? Pure: an SDK error in, a meaning and a sentence out."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any


class Meaning(enum.Enum):
    """What a refusal asks of the caller."""

    CAPACITY = "this type is not to be had here now: try the next one"
    SUBNET = "this subnet is full: try the next one"
    QUOTA = "the account's limit is reached: another market or family may have room"
    THROTTLED = "too many calls: nothing was done, come back later"
    UNREACHABLE = "there was no connection: nothing was sent"
    UNCLEAR = "no answer, or none that tells: it may have been done"
    CREDENTIALS = "the caller is not known to AWS"
    TOKEN = "something else has this token"  # noqa: S105  (a client token is no secret)
    SPENT = "what this token launched is gone: another may be used"
    GONE = "there is no such instance"
    FATAL = "it will be refused again until someone changes something"


CAPACITY = frozenset({
    "InsufficientCapacity", "InsufficientCapacityOnHost", "InsufficientCapacityOnOutpost", "InsufficientHostCapacity",
    "InsufficientInstanceCapacity", "InsufficientReservedInstanceCapacity", "InsufficientReservedInstancesCapacity",
    "InsufficientVolumeCapacity", "IncompatibleHostRequirements", "ReservationCapacityExceeded", "SpotMaxPriceTooLow",
    "UnavailableHostRequirements", "UnfulfillableCapacity", "Unsupported", "VolumeTypeNotAvailableInZone",
})  # fmt: skip
SUBNET = frozenset({"InsufficientFreeAddressesInSubnet"})
QUOTA = frozenset({
    "AddressLimitExceeded", "InstanceLimitExceeded", "MaxFleetCountExceeded", "MaxIOPSLimitExceeded",
    "MaxSpotFleetRequestCountExceeded", "MaxSpotInstanceCountExceeded", "NetworkInterfaceLimitExceeded",
    "PrivateIpAddressLimitExceeded", "RequestResourceCountExceeded", "ResourceCountExceeded", "ResourceLimitExceeded",
    "VcpuLimitExceeded", "VolumeLimitExceeded",
})  # fmt: skip
THROTTLED = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete", "RequestLimitExceeded", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
UNCLEAR = frozenset({
    "ConcurrentTagAccess", "InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException",
    "ServiceUnavailable", "Unavailable",
})  # fmt: skip
CREDENTIALS = frozenset({
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSecurity.RequestHasExpired", "InvalidSignatureException",
    "MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
})  # fmt: skip
TOKEN = frozenset({"IdempotentParameterMismatch", "InvalidClientToken"})
SPENT = frozenset({"IdempotentInstanceTerminated"})
GONE = frozenset({"InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound"})
#: What is in none of these is FATAL: an answer with a code we do not know is still an answer.
MEANINGS = (
    (CAPACITY, Meaning.CAPACITY), (SUBNET, Meaning.SUBNET), (QUOTA, Meaning.QUOTA), (THROTTLED, Meaning.THROTTLED),
    (UNCLEAR, Meaning.UNCLEAR), (CREDENTIALS, Meaning.CREDENTIALS), (TOKEN, Meaning.TOKEN), (SPENT, Meaning.SPENT),
    (GONE, Meaning.GONE),
)  # fmt: skip
#: All codes that mean something of their own.
CODES = frozenset[str]().union(*(codes for codes, _ in MEANINGS))
#: Refusals after which the next type, subnet or market may still be granted.
NEXT_RUNG = frozenset({Meaning.CAPACITY, Meaning.SUBNET, Meaning.QUOTA, Meaning.SPENT})
#: Answers that say nothing of a request that was sent before and not answered: EC2 did not look whether it knows it.
UNTOLD = frozenset({Meaning.UNCLEAR, Meaning.UNREACHABLE, Meaning.THROTTLED, Meaning.CREDENTIALS})

#: Refusals that pass by themselves: another try may not meet them.
PASSING = frozenset({Meaning.UNCLEAR, Meaning.UNREACHABLE, Meaning.THROTTLED})

#: What the codes begin with that say that a right is missing; S3 says no more than 403 to a HEAD.
FORBIDDEN = ("UnauthorizedOperation", "AccessDenied", "HTTP 403")
#: SDK errors that were raised before anything was sent, for want of credentials.
NO_CREDENTIALS = frozenset({
    "CredentialRetrievalError", "NoAuthTokenError", "NoCredentialsError", "PartialCredentialsError",
    "SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
})  # fmt: skip
#: SDK errors of a connection that never was: botocore raises them for what urllib3 calls NewConnectionError (refused,
#: no route, no such name) and ConnectTimeoutError, both before a byte is sent.
NO_CONNECTION = frozenset({"ConnectTimeoutError", "EndpointConnectionError"})
#: SDK errors that may mean that, or a connection lost later; the error within tells. To urllib3 1.26 a proxy that
#: refuses a connection is like one that breaks it off, and a failed handshake of TLS is like a record that was cut.
EITHER = frozenset({"ProxyConnectionError", "SSLError"})
NEVER_CONNECTED = frozenset({
    "ConnectTimeoutError", "NameResolutionError", "NewConnectionError", "SSLCertVerificationError",
})  # fmt: skip
#: SDK errors, and the bases of such, after which the request may have arrived. A read times out in a handshake too, and
#: what cannot be parsed may be the answer to a request that was carried out.
NO_ANSWER = frozenset({
    "ConnectionError", "HTTPClientError", "IncompleteReadError", "ProxyConnectionError", "ResponseParserError",
    "SSLError",
})  # fmt: skip
#: Why an instance is gone, where nothing went wrong.
NORMAL_ENDS = frozenset({"Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown"})
#: Why else, where the code means something else than in an answer.
OTHER_ENDS = {
    "Client.InternalError": Meaning.FATAL,
    "Server.SpotInstanceShutdown": Meaning.CAPACITY,
    "Server.SpotInstanceTermination": Meaning.CAPACITY,
}
#: What to do about it, by the start of the code.
REMEDIES = (
    ("Client.InternalError", "often the key of an encrypted volume: check the KMS key's policy"),
    ("Client.InvalidSnapshot", "check the image in option 'image_id': its snapshot is gone or not shared"),
    ("AuthFailure.ServiceLinkedRole", "create the service-linked role AWSServiceRoleForEC2Spot once"),
    ("UnauthorizedOperation", "allow {action} in the IAM policy of whoever launches"),
    ("AccessDenied", "allow {action} in the IAM policy of whoever launches"),
    ("HTTP 403", "allow {action} in the IAM policy of whoever asks, and see that it is there: S3 says this of both"),
    ("NoSuchBucket", "check the bucket's name, in option 's3_bundle_url' or where it was given"),
    ("NotImplemented", "this S3 lacks something that is needed, such as conditional writes: take another"),
    ("OptInRequired", "enable the service or region in this AWS account"),
    ("PendingVerification", "wait for AWS to verify this account"),
    ("InvalidAMIID", "check option 'image_id' and the region"),
    ("InvalidSubnet", "check option 'subnet_id' and the region"),
    ("InvalidGroup", "check option 'security_group_id' and the subnet's VPC"),
    ("InvalidSecurityGroupID", "check option 'security_group_id' and the subnet's VPC"),
    ("InvalidKeyPair", "check option 'key_name' and the region"),
    ("InvalidLaunchTemplate", "check options 'launch_template_id' and 'launch_template_version'"),
    ("InvalidInstanceType", "check option 'instance_type' and the region"),
    ("InvalidUserData", "make option 'env' smaller: user data holds 16384 bytes"),
    ("InvalidBlockDeviceMapping", "check option 'root_volume'"),
    ("InvalidIamInstanceProfile", "check option 'iam_instance_profile'"),
    ("NoSuchEntity", "check option 'iam_instance_profile'"),
    ("UnsupportedOperation", "check that the image's architecture fits the instance type"),
    ("VPCIdNotSpecified", "give option 'subnet_id'"),
    ("DefaultVpcDoesNotExist", "give option 'subnet_id'"),
    ("TagLimitExceeded", "give fewer 'tags'"),
    ("ParameterNotFound", "check the parameter's name in option 'image_id' and the region"),
    ("ParameterVersion", "check the parameter's version or label in option 'image_id'"),
)
BY_MEANING = {
    Meaning.CAPACITY: "give more 'instance_type', 'subnet_id' or 'market' to choose from",
    Meaning.SUBNET: "give more subnets in 'subnet_id'",
    Meaning.QUOTA: "ask AWS for a higher quota, or lower the pool's 'max'",
    Meaning.THROTTLED: "another try may go well",
    Meaning.UNREACHABLE: "check this machine's network and names, then try again",
    Meaning.UNCLEAR: "another try may go well",
    Meaning.CREDENTIALS: "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile), and this machine's clock",
    Meaning.TOKEN: "it is tried again with another",
    Meaning.SPENT: "it is tried again with another",
    Meaning.GONE: "it has ended",
    Meaning.FATAL: "see what EC2 says and change the pool's options",
}  # fmt: skip
#: What metrics and signals call it.
KINDS = {
    Meaning.CAPACITY: "capacity",
    Meaning.SUBNET: "subnet",
    Meaning.QUOTA: "quota",
    Meaning.THROTTLED: "throttled",
    Meaning.UNREACHABLE: "unreachable",
    Meaning.UNCLEAR: "unanswered",
    Meaning.CREDENTIALS: "credentials",
    Meaning.FATAL: "refused",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One no of AWS to one `action` (such as "ec2:RunInstances"). `code` is empty where AWS said nothing."""

    meaning: Meaning
    action: str
    code: str
    message: str

    def __str__(self) -> str:
        said = ": ".join(part for part in (self.action, self.code, self.message) if part)
        return f"{said}; {self.remedy}"

    @property
    def forbidden(self) -> bool:
        """Return whether an IAM policy does not allow the action."""
        return self.code.startswith(FORBIDDEN)

    @property
    def remedy(self) -> str:
        """Return what to do about it, in words."""
        if self.meaning is Meaning.CREDENTIALS and not self.code:
            return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine an instance profile"
        for start, remedy in REMEDIES:
            if self.code.startswith(start):
                return remedy.format(action=self.action)
        return BY_MEANING[self.meaning]


def refusal(exc: Exception, action: str) -> Refusal:
    """Read an error that botocore raised for `action`."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):
        return _answered(response, action)
    name = type(exc).__name__
    if name in NO_CREDENTIALS:
        message = f"no AWS credentials ({_line(str(exc))})"
        return Refusal(meaning=Meaning.CREDENTIALS, action=action, code="", message=message)
    if name in NO_CONNECTION or (name in EITHER and type(_within(exc)).__name__ in NEVER_CONNECTED):
        return Refusal(
            meaning=Meaning.UNREACHABLE, action=action, code="", message=f"no connection ({_line(str(exc))})"
        )
    if NO_ANSWER & {base.__name__ for base in type(exc).__mro__}:
        return Refusal(meaning=Meaning.UNCLEAR, action=action, code="", message=f"no answer ({_line(str(exc))})")
    # Not the text of a ParamValidationError: it repeats values, and those may be secret.
    message = name if name == "ParamValidationError" else f"{name}: {_line(str(exc))}"
    return Refusal(meaning=Meaning.FATAL, action=action, code="", message=message)


def ending(code: str, message: str) -> Refusal | None:
    """Read the StateReason of an instance that is gone, such as "Server.InsufficientInstanceCapacity".

    None where it ended as it should: by itself, or because someone told it to.
    """
    if not code or code in NORMAL_ENDS:
        return None
    side, _, plain = code.partition(".")
    meaning = OTHER_ENDS.get(code) or meaning_of(plain, 500 if side == "Server" else 400)
    return Refusal(meaning=meaning, action="", code=code, message=_line(message))


def kind_of(meaning: Meaning | None) -> str:
    """Return which of FAILURE_KINDS a launch is that was refused with this meaning."""
    return KINDS.get(meaning, "other") if meaning is not None else "other"


def meaning_of(code: str, status: int) -> Meaning:
    """Return what an error code asks of us. A capacity error is an HTTP 500 too, so a known code goes first."""
    for codes, meaning in MEANINGS:
        if code in codes:
            return meaning
    return Meaning.UNCLEAR if status >= 500 else Meaning.FATAL


def known(code: str) -> bool:
    """Tell whether there is a meaning or a remedy for an error code, and not only what holds for any."""
    return code in CODES or any(code.startswith(start) for start, _ in REMEDIES)


def _answered(response: dict[str, Any], action: str) -> Refusal:
    error = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.get("Code", ""))
    return Refusal(
        meaning=meaning_of(code, status),
        action=action,
        code=f"HTTP {status}" if code.isdecimal() or not code else code,  # an answer without a body that tells
        message=_line(str(error.get("Message", ""))),
    )


def _within(exc: Exception) -> Any:
    """Return what a library below the SDK ran into: botocore keeps urllib3's error, and that the socket's or TLS's."""
    error = getattr(exc, "kwargs", {}).get("error")
    return getattr(error, "original_error", None) or next(iter(getattr(error, "args", ())), None)


def _line(text: str) -> str:
    # The encoded part of a denied authorization is hundreds of characters that only AWS can read.
    text = re.sub(r"\s*Encoded authorization failure message:.*", "", text, flags=re.DOTALL)
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= 400 else text[:397] + "..."
