"""A launch template's user data: what goes along, byte for byte, and what is refused."""

from __future__ import annotations

import base64
import email
import gzip
import random
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_flame_ec2 import boot, userdata
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.parent import Parent
from tests.unit.test_boot import literal

LETTER = Parent(owner="shop@redis/0", pool="video", backend="ec2", queues=("video",), concurrency=2)
STARTS = [
    "#!",
    "#cloud-config",
    "#Cloud-Config-Archive",
    "#include",
    "#cloud-boothook",
    "## template: jinja",
    "\n \n#!",
]
ODD = "--==flame==\n--===flame==--\n\nContent-Type: text/x\r\n\r\x0c\x1c\x85\u2028grüße \ufeff\0\n\n"


def document(**options: Any) -> dict[str, Any]:
    return boot.document(LETTER, Ec2Options(app="proj", s3_bundle_url="s3://releases/proj/1.tar.gz", **options))


def sent(theirs: bytes) -> list[Message]:
    """The parts as cloud-init finds them: it reads the message as text, and walks through what has parts."""
    packed = boot.user_data(document(), userdata.part(theirs))
    message = email.message_from_string(gzip.decompress(packed).decode())
    assert message.defects == []
    return [part for part in message.walk() if not part.is_multipart()]


def payload(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


@settings(deadline=None)
@given(st.sampled_from(STARTS), st.text(st.characters(exclude_categories=["Cs"])))
@example("#!", "/bin/sh\necho plain\n")
@example("#!", ODD)
@example("#cloud-config", "\r\nruncmd:\r\n- ls\r\n")
def test_what_cloud_init_knows_by_its_start_arrives_byte_for_byte_after_ours(start: str, rest: str) -> None:
    theirs = (start + rest).encode()
    *ours, part = sent(theirs)
    assert payload(part) == theirs
    assert (part.get_content_type(), part.get_filename()) == ("text/plain", userdata.NAME)
    assert [each.get_filename() for each in ours] == ["boothook.sh", "bootstrap.py"]


@settings(deadline=None)
@given(st.binary())
def test_a_script_with_anything_in_it_arrives_byte_for_byte(rest: bytes) -> None:
    theirs = b"#!/bin/sh\n" + rest
    assert payload(sent(theirs)[-1]) == theirs


def test_packed_user_data_is_unpacked_first() -> None:
    assert payload(sent(gzip.compress(b"#!/bin/sh\n"))[-1]) == b"#!/bin/sh\n"


def multipart(*texts: str) -> MIMEMultipart:
    message = MIMEMultipart(boundary=None)
    for text in texts:
        message.attach(MIMEText(text, "x-shellscript"))
    return message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_parts_of_a_multipart_are_taken_over_with_their_headers(pack: Any) -> None:
    message = multipart("#!/bin/sh\necho one\n", "#!/bin/sh\necho zwölf\n")
    message.get_payload()[0].add_header("Merge-Type", "list()+dict()")  # type: ignore[union-attr,index]
    _, _, one, two = sent(pack(message.as_bytes()))
    assert (one.get_content_type(), one["Merge-Type"]) == ("text/x-shellscript", "list()+dict()")
    assert payload(one) == b"#!/bin/sh\necho one\n"
    assert payload(two).decode() == "#!/bin/sh\necho zwölf\n"


def test_a_template_that_holds_user_data_of_ours_is_told_from_ours() -> None:
    theirs = boot.multipart(document()).encode()
    names = [part.get_filename() for part in sent(theirs)]
    assert names == ["boothook.sh", "bootstrap.py"] * 2


@pytest.mark.parametrize("empty", [b"", b" \n\t\n", gzip.compress(b"", mtime=0)])
def test_empty_user_data_changes_nothing(empty: bytes) -> None:
    assert userdata.part(empty) == ""
    assert boot.user_data(document(), "") == boot.user_data(document())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<powershell>secret</powershell>", "it is a script for Windows"),
        (b"\n<script>secret</script>", "it is a script for Windows"),
        (b'[settings.host]\nsecret = "x"\n', "it is TOML, as for Bottlerocket"),
        (b"apt-get install secret\n", "it begins with nothing that cloud-init knows"),
        ("\ufeff#!/bin/sh secret".encode(), "it begins with nothing that cloud-init knows"),
        (b"\x1f\x8bsecret", "it looks like gzip and cannot be unpacked"),
        (gzip.compress(b"#!/bin/sh secret", mtime=0)[:-9], "it looks like gzip and cannot be unpacked"),
        (b"MIME-Version: 1.0\nContent-Type: text/plain\n\n\xff secret", "it is a MIME multipart that is not UTF-8"),
    ],
)
def test_what_cloud_init_cannot_run_is_refused_without_a_word_out_of_it(raw: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        userdata.part(raw)
    assert "secret" not in str(caught.value)


def test_the_bootstrap_waits_for_the_template_where_it_has_user_data_and_only_there() -> None:
    assert literal(str(payload(sent(b"#!/bin/sh\n")[1]), "ascii"))["prepared_by_template"] is True
    alone = email.message_from_string(boot.multipart(document()))
    assert literal(str(payload(alone.get_payload()[1]), "ascii"))["prepared_by_template"] is False  # type: ignore


def noise(count: int) -> str:
    return base64.b64encode(random.Random(1).randbytes(count)).decode()


def test_both_together_above_the_bound_are_refused_with_both_sizes_and_a_remedy() -> None:
    theirs = userdata.part(f"#!/bin/sh\n: {noise(9000)}\n".encode())
    with pytest.raises(SettingsError) as caught:
        boot.user_data(document(), theirs)
    (problem,) = caught.value.problems
    ours = len(boot.user_data(document()))
    assert problem.startswith("option 'launch_template_id': user data has ")
    assert f"EC2 takes 16384 (packed: {ours} ours, " in problem
    assert " the launch template's own)" in problem
    assert "into the image" in problem


def test_where_ours_alone_is_above_the_bound_env_is_named() -> None:
    with pytest.raises(SettingsError, match="option 'env'"):
        boot.user_data(document(env={"LONG": noise(20000)}), userdata.part(b"#!/bin/sh\n"))


def test_five_kilobytes_of_a_templates_own_that_no_packing_makes_smaller_fit() -> None:
    theirs = b"#!/bin/sh\n" + base64.b64encode(random.Random(1).randbytes(5120)) + b"\n"
    assert len(boot.user_data(document(), userdata.part(theirs))) <= boot.MAX_USER_DATA
