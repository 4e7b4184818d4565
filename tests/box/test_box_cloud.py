"""Does our AWS answer as AWS does where moto alone would not? Needs no root."""

from __future__ import annotations

import base64
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from tests.box.cloud import ROLE, Cloud
from tests.box.conditions import Failure, Limit, Offer
from tests.box.metadata import Credentials

ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"})


def run(cloud: Cloud, **request: Any) -> list[str]:
    wanted = {"ImageId": cloud.image_id, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1, **request}
    launched = cloud.client("ec2", config=ONCE).run_instances(**wanted)
    return [instance["InstanceId"] for instance in launched["Instances"]]


def refused(cloud: Cloud, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        run(cloud, **request)
    return str(caught.value.response["Error"]["Code"])


def listed(cloud: Cloud, **request: Any) -> list[dict[str, Any]]:
    answer = cloud.client("ec2").describe_instances(**request)
    return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]


def test_without_machines_an_instance_runs_on_its_own_and_terminates(cloud: Cloud) -> None:
    (instance_id,) = run(cloud)
    assert listed(cloud)[0]["State"]["Name"] == "running"
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert listed(cloud)[0]["State"]["Name"] == "terminated"
    assert [event.state for event in cloud.history.events] == ["pending", "running", "shutting-down", "terminated"]
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert len(cloud.history.events) == 4


def test_as_many_as_max_count_are_launched_and_all_have_the_profile(cloud: Cloud) -> None:
    assert len(run(cloud, MinCount=1, MaxCount=3, IamInstanceProfile={"Name": ROLE})) == 3
    assert {one["IamInstanceProfile"]["Arn"] for one in listed(cloud)} == {cloud.instance_profile_arn}
    assert cloud.history.peak == 3


def test_the_peak_is_the_most_there_ever_was_at_once(cloud: Cloud) -> None:
    cloud.client("ec2").terminate_instances(InstanceIds=run(cloud, MaxCount=2))
    run(cloud)
    assert cloud.history.peak == 2
    assert cloud.history.alive == 1


def test_the_same_token_and_request_give_the_same_instances(cloud: Cloud) -> None:
    first = run(cloud, MaxCount=2, ClientToken="one", UserData="x")
    assert run(cloud, MaxCount=2, ClientToken="one", UserData="x") == first
    assert len(listed(cloud)) == 2
    assert len(listed(cloud, Filters=[{"Name": "client-token", "Values": ["one"]}])) == 2
    assert listed(cloud, Filters=[{"Name": "client-token", "Values": ["other"]}]) == []


def test_the_same_token_with_another_request_is_refused(cloud: Cloud) -> None:
    run(cloud, ClientToken="one", UserData="x")
    assert refused(cloud, ClientToken="one", UserData="y") == "IdempotentParameterMismatch"
    assert len(listed(cloud)) == 1


def test_the_same_token_after_the_end_of_the_instance_is_refused(cloud: Cloud) -> None:
    ids = run(cloud, ClientToken="one")
    cloud.client("ec2").terminate_instances(InstanceIds=ids)
    assert refused(cloud, ClientToken="one") == "IdempotentInstanceTerminated"


def test_a_token_holds_for_one_zone(cloud: Cloud) -> None:
    first = run(cloud, ClientToken="one", SubnetId=cloud.subnet_ids[0])
    second = run(cloud, ClientToken="one", SubnetId=cloud.subnet_ids[1])
    assert first != second


def test_a_refused_request_does_not_use_its_token_up(cloud: Cloud) -> None:
    cloud.fail("RunInstances", code="InsufficientInstanceCapacity", status=500)
    assert refused(cloud, ClientToken="one") == "InsufficientInstanceCapacity"
    assert len(run(cloud, ClientToken="one", MaxCount=2)) == 2


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"MinCount": 0, "MaxCount": 1}, "InvalidParameterValue"),
        ({"ImageId": "ami-12345678"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "t9.nano"}, "InvalidInstanceType.NotFound"),
        ({"SubnetId": "subnet-12345678"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-12345678"]}, "InvalidGroup.NotFound"),
        ({"UserData": "x" * 16385}, "InvalidUserData.Malformed"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"LaunchTemplate": {"LaunchTemplateId": "lt-0123456789abcdef0"}}, "InvalidLaunchTemplateId.NotFound"),
        ({"DryRun": True}, "DryRunOperation"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_request_launches_nothing(cloud: Cloud, request_: dict[str, Any], code: str) -> None:
    assert refused(cloud, **request_) == code
    assert listed(cloud) == []


def test_a_launch_template_fills_in_what_the_call_leaves_out(cloud: Cloud) -> None:
    cloud.client("ec2").create_launch_template(
        LaunchTemplateName="runner",
        LaunchTemplateData={
            "ImageId": cloud.image_id,
            "InstanceType": "c7i.xlarge",
            "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": base64.b64encode(b"theirs").decode(),
            "IamInstanceProfile": {"Name": ROLE},
            "NetworkInterfaces": [
                {"DeviceIndex": 0, "SubnetId": cloud.subnet_ids[1], "Groups": list(cloud.security_group_ids)}
            ],
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
        },
    )
    ec2 = cloud.client("ec2")
    launched = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "runner"}, MinCount=1, MaxCount=1, InstanceType="t3.nano"
    )["Instances"][0]
    instance = cloud.ec2.instance(launched["InstanceId"])
    assert instance.instance_initiated_shutdown_behavior == "terminate"
    assert base64.b64decode(str(instance.user_data)) == b"theirs"
    assert launched["InstanceType"] == "t3.nano"
    assert launched["SubnetId"] == cloud.subnet_ids[1]
    assert listed(cloud)[0]["IamInstanceProfile"]["Arn"] == cloud.instance_profile_arn
    assert {"Key": "from", "Value": "template"} in launched["Tags"]


def test_a_subnet_beside_the_templates_network_interfaces_is_refused(cloud: Cloud) -> None:
    cloud.client("ec2").create_launch_template(
        LaunchTemplateName="wired",
        LaunchTemplateData={"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": cloud.subnet_id}]},
    )
    template = {"LaunchTemplateName": "wired"}
    assert refused(cloud, LaunchTemplate=template, SubnetId=cloud.subnet_id) == "InvalidParameterCombination"


def test_a_fault_strikes_only_where_and_as_often_as_it_was_told(cloud: Cloud) -> None:
    cloud.fail(
        "RunInstances", code="InsufficientInstanceCapacity", status=500, times=2, where={"InstanceType": "c7i.xlarge"}
    )
    assert run(cloud)
    assert refused(cloud, InstanceType="c7i.xlarge") == "InsufficientInstanceCapacity"
    assert refused(cloud, InstanceType="c7i.xlarge") == "InsufficientInstanceCapacity"
    assert run(cloud, InstanceType="c7i.xlarge")


def test_faults_end_when_healed(cloud: Cloud) -> None:
    cloud.fail("RunInstances", code="RequestLimitExceeded", status=503, times=None)
    assert refused(cloud) == "RequestLimitExceeded"
    cloud.heal()
    assert run(cloud)


def test_an_answer_is_lost_after_the_deed(cloud: Cloud) -> None:
    cloud.lose_answer("RunInstances")
    with pytest.raises(ConnectionClosedError):
        run(cloud, ClientToken="one")
    assert len(listed(cloud)) == 1
    assert run(cloud, ClientToken="one") == [listed(cloud)[0]["InstanceId"]]


def test_a_delayed_call_does_not_hold_up_others_nor_the_end(cloud: Cloud) -> None:
    cloud.delay("RunInstances", 3600.0)
    impatient = cloud.client("ec2", config=Config(read_timeout=0.2, retries={"total_max_attempts": 1}))
    with pytest.raises(ReadTimeoutError):
        impatient.run_instances(ImageId=cloud.image_id, MinCount=1, MaxCount=1)
    assert listed(cloud) == []


def test_every_call_is_on_record(cloud: Cloud) -> None:
    before = time.time()
    cloud.fail("RunInstances", code="RequestLimitExceeded", status=503)
    refused(cloud, ClientToken="one")
    (call,) = cloud.called("RunInstances")
    assert call.params["ClientToken"] == "one"
    assert before <= call.time <= time.time()


def test_wrong_keys_are_refused_everywhere(cloud: Cloud) -> None:
    def code(service: str, operation: str, key: str, secret: str) -> str:
        cloud.credentials = Credentials(access_key_id=key, secret_access_key=secret, token="")
        client = cloud.client(service, config=ONCE)
        with pytest.raises(ClientError) as caught:
            getattr(client, operation)()
        return str(caught.value.response["Error"]["Code"])

    assert code("ec2", "describe_instances", "nobody", "testing") == "AuthFailure"
    assert code("ec2", "describe_instances", "testing", "wrong") == "AuthFailure"
    assert code("s3", "list_buckets", "nobody", "testing") == "InvalidAccessKeyId"
    assert code("s3", "list_buckets", "testing", "wrong") == "SignatureDoesNotMatch"
    assert code("sqs", "list_queues", "testing", "wrong") == "InvalidSignatureException"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cloud.endpoint}/{cloud.bucket}/key", timeout=5)
    assert caught.value.code == 403


def test_an_upload_comes_back_byte_for_byte(cloud: Cloud, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB: sent in parts
    (tmp_path / "bundle.tar.gz").write_bytes(content)
    url = cloud.upload(tmp_path / "bundle.tar.gz", "a b/ü+1.tar.gz")
    assert url == f"s3://{cloud.bucket}/a b/ü+1.tar.gz"
    s3 = cloud.client("s3")
    assert s3.get_object(Bucket=cloud.bucket, Key="a b/ü+1.tar.gz")["Body"].read() == content


def test_a_fault_strikes_an_object_too(cloud: Cloud) -> None:
    cloud.fail("GetObject", code="SlowDown", status=503, where={"Key": "x"})
    with pytest.raises(ClientError) as caught:
        cloud.client("s3", config=ONCE).get_object(Bucket=cloud.bucket, Key="x")
    assert caught.value.response["Error"]["Code"] == "SlowDown"


def test_two_clouds_know_nothing_of_each_other(cloud: Cloud) -> None:
    run(cloud)
    with Cloud() as other:
        assert listed(other) == []
        run(other)
    assert len(listed(cloud)) == 1


def test_queues_and_parameters_work_as_in_moto(cloud: Cloud) -> None:
    url = cloud.client("sqs").create_queue(QueueName="q")["QueueUrl"]
    cloud.client("sqs").send_message(QueueUrl=url, MessageBody="hello")
    assert cloud.called("SendMessage")[0].service == "sqs"
    cloud.client("ssm").put_parameter(Name="/secret", Value="s", Type="SecureString")
    assert cloud.client("ssm").get_parameter(Name="/secret", WithDecryption=True)["Parameter"]["Value"] == "s"


# what EC2 is short of, slow with and strict about


def reason(cloud: Cloud, instance_id: str) -> tuple[str, str]:
    """Return an instance's state and the code of its reason, as a listing tells them."""
    (found,) = listed(cloud, InstanceIds=[instance_id])
    return found["State"]["Name"], found.get("StateReason", {}).get("Code", "")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"ImageId": "ami-12345678"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "t9.nano"}, "InvalidInstanceType.NotFound"),
        ({"SubnetId": "subnet-12345678"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-12345678"]}, "InvalidGroup.NotFound"),
        ({"UserData": "x" * 16385}, "InvalidUserData.Malformed"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-12345678"}]}, "InvalidSubnetID.NotFound"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-12345678"]}]}, "InvalidGroup.NotFound"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_dry_run_tells_a_bad_request_before_it_says_yes(cloud: Cloud, request_: dict[str, Any], code: str) -> None:
    assert refused(cloud, **request_, DryRun=True) == code
    assert cloud.history.events == []


def test_a_dry_run_launches_nothing_uses_nothing_up_and_sees_no_shortage(cloud: Cloud) -> None:
    cloud.conditions.quotas[("on-demand", "t3")] = 1
    for _ in range(2):
        assert refused(cloud, DryRun=True, ClientToken="one") == "DryRunOperation"
    cloud.conditions.quotas[("on-demand", "t3")] = 0
    assert refused(cloud, DryRun=True) == "DryRunOperation"
    assert refused(cloud) == "VcpuLimitExceeded"
    assert cloud.history.events == []
    cloud.conditions.quotas.clear()
    assert len(run(cloud, ClientToken="one")) == 1


def test_a_launch_gets_what_is_left_and_then_nothing_by_market_type_and_zone(cloud: Cloud) -> None:
    first, second = cloud.subnet_ids
    zone = cloud.client("ec2").describe_subnets(SubnetIds=[first])["Subnets"][0]["AvailabilityZone"]
    cloud.conditions.room[("spot", "t3.nano", zone)] = 2
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert len(run(cloud, MaxCount=5, SubnetId=first, **spot)) == 2
    assert refused(cloud, SubnetId=first, **spot) == "InsufficientInstanceCapacity"
    assert len(run(cloud, MaxCount=3, SubnetId=second, **spot)) == 3
    assert len(run(cloud, MaxCount=3, SubnetId=first)) == 3
    assert len(run(cloud, MaxCount=3, SubnetId=first, InstanceType="t3.micro", **spot)) == 3


def test_a_launch_that_needs_more_than_is_left_gets_nothing(cloud: Cloud) -> None:
    cloud.conditions.quotas[("on-demand", "t3")] = 2
    assert refused(cloud, MinCount=3, MaxCount=3) == "VcpuLimitExceeded"
    assert listed(cloud) == []


def test_a_capacity_error_is_a_server_error_as_in_ec2(cloud: Cloud) -> None:
    cloud.conditions.room[("on-demand", "t3.nano", "")] = 0
    with pytest.raises(ClientError) as caught:
        run(cloud)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


@pytest.mark.parametrize(
    ("market", "code"), [("spot", "MaxSpotInstanceCountExceeded"), ("on-demand", "VcpuLimitExceeded")]
)
def test_a_quota_holds_for_a_market_and_a_family_until_an_instance_ends(cloud: Cloud, market: str, code: str) -> None:
    cloud.conditions.quotas[(market, "t3")] = 2
    asked = {"InstanceMarketOptions": {"MarketType": market}}
    ids = run(cloud, MaxCount=3, **asked)
    assert len(ids) == 2
    assert refused(cloud, InstanceType="t3.micro", **asked) == code
    assert run(cloud, InstanceType="c5.large", **asked)
    cloud.client("ec2").terminate_instances(InstanceIds=ids[:1])
    assert run(cloud, InstanceType="t3.micro", **asked)


def test_a_subnet_runs_out_of_addresses_and_gets_them_back(cloud: Cloud) -> None:
    first, second = cloud.subnet_ids
    cloud.conditions.addresses[first] = 1
    ids = run(cloud, MaxCount=2, SubnetId=first)
    assert len(ids) == 1
    assert refused(cloud, SubnetId=first) == "InsufficientFreeAddressesInSubnet"
    assert run(cloud, NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": second}])
    assert (
        refused(cloud, NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": first}]) == "InsufficientFreeAddressesInSubnet"
    )
    cloud.client("ec2").terminate_instances(InstanceIds=ids)
    assert run(cloud, SubnetId=first)


def test_calls_beyond_the_bucket_are_refused_and_do_nothing(cloud: Cloud) -> None:
    cloud.conditions.requests = {"RunInstances": Limit(burst=2, refill=0)}
    assert run(cloud)
    assert run(cloud)
    assert refused(cloud) == "RequestLimitExceeded"
    assert len(listed(cloud)) == 2
    cloud.conditions.requests = {"RunInstances": Limit(burst=2, refill=1e6)}
    assert run(cloud)


def test_a_launch_counts_by_what_it_asks_for(cloud: Cloud) -> None:
    cloud.conditions.resources = {
        "RunInstances": Limit(burst=5, refill=0),
        "TerminateInstances": Limit(burst=3, refill=0),
    }
    ids = run(cloud, MaxCount=4)
    assert refused(cloud, MaxCount=2) == "RequestLimitExceeded"
    ids += run(cloud, MaxCount=1)
    impatient = cloud.client("ec2", config=ONCE)
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        impatient.terminate_instances(InstanceIds=ids)
    impatient.terminate_instances(InstanceIds=ids[:3])


def test_a_listing_with_a_filter_has_the_larger_bucket(cloud: Cloud) -> None:
    cloud.conditions.requests = {"Describe": Limit(burst=2, refill=0), "Describe*": Limit(burst=1, refill=0)}
    ec2 = cloud.client("ec2", config=ONCE)
    ec2.describe_instances()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        ec2.describe_instances()
    for _ in range(2):
        ec2.describe_instances(MaxResults=5)
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        ec2.describe_instances(MaxResults=5)


def test_a_launch_is_not_listed_at_once_nor_known_by_its_id(cloud: Cloud) -> None:
    old = run(cloud)
    cloud.conditions.launch_lag = lambda: 3600.0
    (young,) = run(cloud, ClientToken="young")
    assert [one["InstanceId"] for one in listed(cloud)] == old
    assert listed(cloud, Filters=[{"Name": "client-token", "Values": ["young"]}]) == []
    for ask in ("describe_instances", "terminate_instances"):
        with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
            getattr(cloud.client("ec2"), ask)(InstanceIds=[young])
    assert run(cloud, ClientToken="young") == [young]
    cloud.heal()
    assert {one["InstanceId"] for one in listed(cloud)} == {*old, young}


def test_an_instance_that_ended_is_listed_as_it_was_until_the_news_is_there(cloud: Cloud) -> None:
    cloud.conditions.end_lag = lambda: 3600.0
    (instance_id,) = run(cloud)
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert reason(cloud, instance_id) == ("running", "")
    assert listed(cloud, Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert cloud.history.states()[instance_id].state == "terminated"
    cloud.heal()
    assert reason(cloud, instance_id) == ("terminated", "Client.UserInitiatedShutdown")


def test_a_launch_that_was_granted_fails_later_and_says_why(cloud: Cloud) -> None:
    codes = iter(["Client.InternalError", None])

    def fate(_: Offer) -> Failure | None:
        code = next(codes)
        return Failure(after=0.0, code=code, message="Client error on launch") if code else None

    cloud.conditions.fate = fate
    doomed, sound = run(cloud, MaxCount=2)
    assert cloud.history.states()[doomed].state == "pending"
    assert reason(cloud, doomed) == ("terminated", "Client.InternalError")
    assert (
        listed(cloud, InstanceIds=[doomed])[0]["StateReason"]["Message"]
        == "Client.InternalError: Client error on launch"
    )
    assert reason(cloud, sound) == ("running", "")
    assert [event.state for event in cloud.history.events if event.instance_id == doomed] == ["pending", "terminated"]


def test_a_launch_that_will_fail_is_pending_until_then(cloud: Cloud) -> None:
    cloud.conditions.fate = lambda _: Failure(after=3600.0)
    (instance_id,) = run(cloud)
    assert reason(cloud, instance_id)[0] == "pending"
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert reason(cloud, instance_id) == ("terminated", "Client.UserInitiatedShutdown")
