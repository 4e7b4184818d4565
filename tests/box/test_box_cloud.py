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
