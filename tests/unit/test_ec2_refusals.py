from __future__ import annotations

import ssl
from typing import Any

import pytest
import urllib3
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from celery_flame_ec2.backends.ec2.refusals import MEANINGS, Meaning, Refusal, ending, refusal

ACTION = "ec2:RunInstances"


def client_error(code: str, message: str = "", status: int = 400) -> ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "RunInstances")  # type: ignore[arg-type]


def read(code: str, message: str = "", status: int = 400) -> Refusal:
    return refusal(client_error(code, message, status), ACTION)


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [
        ("InsufficientInstanceCapacity", 500, Meaning.CAPACITY),
        ("Unsupported", 400, Meaning.CAPACITY),
        ("SpotMaxPriceTooLow", 400, Meaning.CAPACITY),
        ("InsufficientFreeAddressesInSubnet", 400, Meaning.SUBNET),
        ("VcpuLimitExceeded", 400, Meaning.QUOTA),
        ("MaxSpotInstanceCountExceeded", 400, Meaning.QUOTA),
        ("RequestLimitExceeded", 503, Meaning.THROTTLED),
        ("InternalError", 500, Meaning.UNCLEAR),
        ("Unavailable", 503, Meaning.UNCLEAR),
        ("500", 500, Meaning.UNCLEAR),
        ("", 502, Meaning.UNCLEAR),
        ("SomethingNew", 500, Meaning.UNCLEAR),
        ("SomethingNew", 400, Meaning.FATAL),
        ("AuthFailure", 401, Meaning.CREDENTIALS),
        ("RequestExpired", 400, Meaning.CREDENTIALS),
        ("IdempotentParameterMismatch", 400, Meaning.TOKEN),
        ("IdempotentInstanceTerminated", 400, Meaning.SPENT),
        ("InvalidInstanceID.NotFound", 400, Meaning.GONE),
        ("UnauthorizedOperation", 403, Meaning.FATAL),
        ("InvalidAMIID.NotFound", 400, Meaning.FATAL),
        ("UnsupportedOperation", 400, Meaning.FATAL),
        ("403", 403, Meaning.FATAL),
    ],
)
def test_a_code_has_one_meaning(code: str, status: int, meaning: Meaning) -> None:
    assert read(code, status=status).meaning is meaning


def test_no_code_has_two_meanings() -> None:
    codes = [code for group, _ in MEANINGS for code in group]
    assert len(codes) == len(set(codes))


def proxy_error(within: Exception) -> ProxyConnectionError:
    return ProxyConnectionError(proxy_url="http://127.0.0.1:9", error=urllib3.exceptions.ProxyError("no", within))


def tls_error(within: Exception) -> SSLError:
    return SSLError(endpoint_url="https://127.0.0.1:9", error=urllib3.exceptions.SSLError(within))


NOBODY: Any = None


@pytest.mark.parametrize(
    "exc",
    [
        ReadTimeoutError(endpoint_url="http://127.0.0.1:9"),
        ConnectionClosedError(endpoint_url="http://127.0.0.1:9"),
        IncompleteReadError(actual_bytes=1, expected_bytes=2),
        HTTPClientError(error=OSError("broken")),
        ResponseParserError("invalid XML received"),
        proxy_error(ConnectionResetError("reset")),
        tls_error(ssl.SSLEOFError("EOF occurred in violation of protocol")),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_a_lost_connection_is_unclear_and_not_a_refusal(exc: Exception) -> None:
    answer = refusal(exc, ACTION)
    assert answer.meaning is Meaning.UNCLEAR
    assert "no answer" in str(answer)


@pytest.mark.parametrize(
    "exc",
    [
        ConnectTimeoutError(endpoint_url="http://127.0.0.1:9"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
        proxy_error(urllib3.exceptions.NewConnectionError(NOBODY, "refused")),
        proxy_error(urllib3.exceptions.ConnectTimeoutError("timed out")),
        tls_error(ssl.SSLCertVerificationError("self-signed certificate")),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_where_there_was_no_connection_nothing_was_sent(exc: Exception) -> None:
    answer = refusal(exc, ACTION)
    assert answer.meaning is Meaning.UNREACHABLE
    assert "no connection" in str(answer)


@pytest.mark.parametrize(
    ("code", "meaning", "words"),
    [
        ("Server.InsufficientInstanceCapacity", Meaning.CAPACITY, "give more 'instance_type'"),
        ("Server.SpotInstanceTermination", Meaning.CAPACITY, "give more 'instance_type'"),
        ("Client.VolumeLimitExceeded", Meaning.QUOTA, "ask AWS for a higher quota"),
        ("Client.InternalError", Meaning.FATAL, "often the key of an encrypted volume: check the KMS key's policy"),
        ("Client.InvalidSnapshot.NotFound", Meaning.FATAL, "option 'image_id'"),
        ("Server.InternalError", Meaning.UNCLEAR, "another try"),
        ("Client.SomethingNew", Meaning.FATAL, "see what EC2 says"),
        ("Server.SomethingNew", Meaning.UNCLEAR, "another try"),
    ],
)
def test_why_an_instance_is_gone_has_a_meaning_and_a_remedy(code: str, meaning: Meaning, words: str) -> None:
    why = ending(code, "what EC2 says")
    assert why is not None
    assert why.meaning is meaning
    assert str(why).startswith(f"{code}: what EC2 says; ")
    assert words in str(why)


@pytest.mark.parametrize("code", ["Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown", ""])
def test_a_normal_end_means_nothing(code: str) -> None:
    assert ending(code, "Instance initiated shutdown") is None


def test_missing_credentials_are_named_with_the_remedy() -> None:
    words = str(refusal(NoCredentialsError(), ACTION))
    assert words.startswith("ec2:RunInstances: no AWS credentials")
    assert "AWS_ACCESS_KEY_ID" in words
    assert "instance profile" in words


def test_wrong_keys_are_named_with_the_remedy() -> None:
    words = str(read("AuthFailure", "AWS was not able to validate the provided access credentials", 401))
    assert "AuthFailure" in words
    assert "AWS_ACCESS_KEY_ID" in words


def test_a_missing_permission_names_the_action_and_drops_what_only_aws_can_read() -> None:
    message = "You are not authorized.\nEncoded authorization failure message: " + "Xy" * 500
    words = str(read("UnauthorizedOperation", message, 403))
    assert words == (
        "ec2:RunInstances: UnauthorizedOperation: You are not authorized; "
        "allow ec2:RunInstances in the IAM policy of whoever launches"
    )


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        ("403", 403, "allow ec2:RunInstances in the IAM policy of whoever asks, and see that it is there"),
        ("NoSuchBucket", 404, "check the bucket's name"),
        ("NotImplemented", 501, "this S3 lacks something that is needed, such as conditional writes"),
    ],
)
def test_what_s3_refuses_is_told_with_its_own_remedy(code: str, status: int, remedy: str) -> None:
    assert remedy in str(read(code, "no", status))


def test_a_refused_parameter_is_told_without_its_value() -> None:
    words = str(refusal(ParamValidationError(report="Invalid type for parameter UserData, value: hunter2"), ACTION))
    assert "ParamValidationError" in words
    assert "hunter2" not in words


def test_an_unknown_profile_is_told_as_the_sdk_tells_it() -> None:
    answer = refusal(ProfileNotFound(profile="prod"), ACTION)
    assert answer.meaning is Meaning.FATAL
    assert "prod" in str(answer)


@pytest.mark.parametrize("code", ["InvalidAMIID.NotFound", "InvalidSubnetID.NotFound", "InvalidGroup.NotFound"])
def test_a_refused_option_is_named(code: str) -> None:
    assert "check option '" in str(read(code, "it does not exist"))


@pytest.mark.parametrize("meaning", Meaning)
def test_every_meaning_has_a_remedy(meaning: Meaning) -> None:
    assert Refusal(meaning=meaning, action=ACTION, code="X", message="").remedy


def test_what_aws_says_becomes_one_line_of_bounded_length() -> None:
    words = str(read("InvalidParameterValue", "first\nsecond " * 200))
    assert "\n" not in words
    assert len(words) < 600
