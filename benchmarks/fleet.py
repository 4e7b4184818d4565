"""What do a fleet's runners say, and what does EC2 list of them? Played by a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection as Pipe
from urllib.parse import parse_qs

import redis
from celery import Celery

from celery_flame_ec2.backends.ec2.backend import PAGE
from celery_flame_ec2.backends.ec2.instances import DEADLINE, LAUNCH, OWNER, POOL, WARM
from celery_flame_ec2.presence import REPEAT, Word, say
from celery_flame_ec2.runner import RunnerState

START_TIMEOUT = 120.0  #: seconds in which ten thousand runners have said their first word
STEP = 0.02  #: seconds between two turns of those that speak
AGE = 3600.0  #: seconds since their launch
#: One instance as EC2 describes it, with one interface and one disk; about 3 kB.
INSTANCE = """<item><reservationId>r-{id:017x}</reservationId><ownerId>123456789012</ownerId><groupSet/><instancesSet>
<item><instanceId>i-{id:017x}</instanceId><imageId>ami-0abcdef1234567890</imageId>
<instanceState><code>16</code><name>running</name></instanceState>
<privateDnsName>ip-10-0-0-1.eu-central-1.compute.internal</privateDnsName><dnsName/><reason/>
<amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>c7i.large</instanceType><launchTime>{at}</launchTime>
<placement><availabilityZone>eu-central-1a</availabilityZone><groupName/><tenancy>default</tenancy></placement>
<monitoring><state>disabled</state></monitoring><subnetId>subnet-0aaaaaaaa</subnetId><vpcId>vpc-0aaaaaaaa</vpcId>
<privateIpAddress>10.0.0.1</privateIpAddress><sourceDestCheck>true</sourceDestCheck>
<groupSet><item><groupId>sg-0aaaaaaaa</groupId><groupName>runners</groupName></item></groupSet>
<architecture>x86_64</architecture><rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName>
<blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-{id:017x}</volumeId>
<status>attached</status><attachTime>{at}</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item>
</blockDeviceMapping><instanceLifecycle>spot</instanceLifecycle>
<spotInstanceRequestId>sir-abcdefgh</spotInstanceRequestId><virtualizationType>hvm</virtualizationType>
<clientToken>{token}</clientToken><tagSet>{tags}</tagSet><hypervisor>xen</hypervisor>
<networkInterfaceSet><item><networkInterfaceId>eni-{id:017x}</networkInterfaceId><subnetId>subnet-0aaaaaaaa</subnetId>
<vpcId>vpc-0aaaaaaaa</vpcId><description/><ownerId>123456789012</ownerId><status>in-use</status>
<macAddress>02:00:00:00:00:01</macAddress><privateIpAddress>10.0.0.1</privateIpAddress>
<sourceDestCheck>true</sourceDestCheck>
<groupSet><item><groupId>sg-0aaaaaaaa</groupId><groupName>runners</groupName></item></groupSet>
<attachment><attachmentId>eni-attach-{id:017x}</attachmentId><deviceIndex>0</deviceIndex><status>attached</status>
<attachTime>{at}</attachTime><deleteOnTermination>true</deleteOnTermination></attachment>
<privateIpAddressesSet><item><privateIpAddress>10.0.0.1</privateIpAddress><primary>true</primary></item>
</privateIpAddressesSet></item></networkInterfaceSet>
<iamInstanceProfile><arn>arn:aws:iam::123456789012:instance-profile/runner</arn><id>AIPAAAAAAAAAAAAAAAAAA</id>
</iamInstanceProfile><ebsOptimized>false</ebsOptimized><enaSupport>true</enaSupport>
<cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions><capacityReservationSpecification>
<capacityReservationPreference>open</capacityReservationPreference></capacityReservationSpecification>
<hibernationOptions><configured>false</configured></hibernationOptions><metadataOptions><state>applied</state>
<httpTokens>required</httpTokens><httpPutResponseHopLimit>1</httpPutResponseHopLimit>
<httpEndpoint>enabled</httpEndpoint></metadataOptions><enclaveOptions><enabled>false</enabled></enclaveOptions></item>
</instancesSet></item>""".replace("\n", "")


@contextlib.contextmanager
def fleet(broker: str, owner: str, pools: Sequence[str], runners: int) -> Iterator[str]:
    """Have so many runners, spread over the pools in turn, that speak; give the endpoint of the EC2 that lists them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_play, args=(theirs, broker, owner, pools, runners), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_TIMEOUT):
            raise TimeoutError(f"{runners} runners did not speak within {START_TIMEOUT:g} s")
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        ours.close()  # which tells it to end
        process.join()


def name(number: int) -> str:
    return f"i-{number:017x}"


def _play(pipe: Pipe, broker: str, owner: str, pools: Sequence[str], runners: int) -> None:
    listing = _serve(_pages(owner, pools, runners))
    channel, words = _words(broker, owner, pools, runners)
    pipe.send(listing.server_port)
    began, said = time.monotonic(), 0
    with redis.Redis.from_url(broker) as client:
        while not pipe.poll(STEP):  # also true once the other end is closed
            due = int((time.monotonic() - began) * runners / REPEAT)
            with client.pipeline(transaction=False) as together:
                for number in range(said, due):
                    together.publish(channel, words[number % runners])
                together.execute()
            said = due


def _words(broker: str, owner: str, pools: Sequence[str], runners: int) -> tuple[bytes, list[bytes]]:
    """Have every runner speak once as it does; return what arrives in Redis, to be sent again and again."""
    app = Celery(broker=broker, set_as_current=False)
    heard = []
    with (
        redis.Redis.from_url(broker).pubsub(ignore_subscribe_messages=True) as ear,
        app.connection_for_write() as mouth,
    ):
        ear.psubscribe("*celeryev*")
        dispatcher = app.events.Dispatcher(mouth)
        for number in range(runners):
            pool = pools[number % len(pools)]
            word = Word(runner_id=name(number), pool=pool, owner=owner, state=RunnerState.UP, active=1, taken=100)
            say(dispatcher, word)
            while (message := ear.get_message(timeout=1.0)) is None:
                pass
            heard.append(message)
    return heard[0]["channel"], [message["data"] for message in heard]


def _pages(owner: str, pools: Sequence[str], runners: int) -> list[bytes]:
    """Return EC2's answers to a paged DescribeInstances."""
    starts = range(0, runners, PAGE)
    return [
        "".join((
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId>',
            "<reservationSet>",
            *(_instance(number, owner, pools) for number in range(start, min(runners, start + PAGE))),
            "</reservationSet>",
            f"<nextToken>{page + 1}</nextToken>" if page + 1 < len(starts) else "",
            "</DescribeInstancesResponse>",
        )).encode()
        for page, start in enumerate(starts)
    ]  # fmt: skip


def _instance(number: int, owner: str, pools: Sequence[str]) -> str:
    pool, token = pools[number % len(pools)], f"{number // 100:032x}"
    tags = {
        "Name": f"flame {pool}", OWNER: owner, POOL: pool, DEADLINE: f"{time.time() + 86400:.0f}", WARM: "false",
        LAUNCH: token,
    }  # fmt: skip
    return INSTANCE.format(
        id=number,
        at=datetime.fromtimestamp(time.time() - AGE, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        token=token,
        tags="".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items()),
    )


def _serve(pages: Sequence[bytes]) -> ThreadingHTTPServer:
    """Answer every POST with the page it asks for, on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # botocore keeps its connections

        def do_POST(self) -> None:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            page = pages[int(asked.get("NextToken", ["0"])[0])]
            self.send_response(200)
            self.send_header("Content-Type", "text/xml;charset=UTF-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
