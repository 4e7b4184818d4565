"""Who asks, who will run, and would EC2 do it? Pure: answers of AWS in, findings out."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ....finding import Finding, failed, ok
from ..recipe import Rung
from ..refusals import PASSING, Meaning, Refusal
from .asker import not_told

#: EC2's yes to a dry run.
GRANTED = "DryRunOperation"
#: Dry runs for one pool: they count against the same bucket as launches, five a second at first and two after.
MOST_TRIES = 12


def caller(answer: Mapping[str, Any] | Refusal, place: str) -> Finding:
    """Tell who this is to AWS. Asking needs no right."""
    if not isinstance(answer, Refusal):
        return ok("credentials", f"{answer.get('Arn')} in {place}")
    if answer.meaning in PASSING:
        return not_told("credentials", answer)
    said = ": ".join(filter(None, (answer.code, answer.message)))
    return failed("credentials", f"{answer.action}: {said}", answer.remedy)


def region(name: str, options_name_it: bool, environ: Mapping[str, str], session: str | None) -> str:
    """Say which region it is and who names it."""
    if options_name_it:
        return f"{name} (option 'region')"
    if session is None:
        return f"{name} (this instance's metadata)"
    return f"{name} (AWS_DEFAULT_REGION)" if environ.get("AWS_DEFAULT_REGION") else f"{name} (AWS configuration file)"


def profile(answer: Mapping[str, Any] | Refusal | None, name: str) -> Finding:
    """Tell whether the instance profile is there and has a role; None where nobody names one."""
    check = "instance profile"
    if answer is None:
        told = "none: a runner has no credentials to fetch the bundle with"
        return failed(check, told, "set 'iam_instance_profile' to a profile whose role may read the bundle")
    if isinstance(answer, Refusal):
        return not_told(check, answer)
    found = roles(answer)
    if not found:
        remedy = (
            f"add a role to it: aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name ..."
        )
        return failed(check, f"{name} has no role", remedy)
    return ok(check, f"{name} with {', '.join(found)}")


def roles(answer: Mapping[str, Any]) -> list[str]:
    """Return the ARNs of an instance profile's roles."""
    return [str(role.get("Arn")) for role in answer.get("InstanceProfile", {}).get("Roles", ())]


def sample(rungs: Iterable[Rung], most: int = MOST_TRIES) -> list[Rung]:
    """Return at most so many rungs, first those that name a market, type or subnet no earlier one names."""
    seen: set[tuple[str, str | None]] = set()
    fresh: list[Rung] = []
    others: list[Rung] = []
    for rung in rungs:
        words = {("market", rung.market), ("type", rung.instance_type), ("subnet", rung.subnet_id)}
        (others if words <= seen else fresh).append(rung)
        seen |= words
    return [*fresh, *others][:most]


def launches(answers: Collection[tuple[Rung, Refusal]], all_there_are: int) -> Iterator[Finding]:
    """Tell what EC2 says to the dry runs; alike refusals once."""
    alike: dict[str, list[tuple[Rung, Refusal]]] = defaultdict(list)
    for rung, answer in answers:
        alike[GRANTED if answer.code == GRANTED else f"{answer.code} {answer.message}"].append((rung, answer))
    if granted := alike.pop(GRANTED, []):
        of = f"{len(granted)} of {all_there_are} requests tried" if all_there_are > len(answers) else "every request"
        what = of if len(granted) == len(answers) else ", ".join(str(rung) for rung, _ in granted)
        yield ok("launch", f"EC2 would grant {what} (dry run: capacity and quotas do not show)")
    for refused in alike.values():
        yield _refused(refused, everything=len(refused) == len(answers))


def _refused(refused: list[tuple[Rung, Refusal]], *, everything: bool) -> Finding:
    answer = refused[0][1]
    if answer.meaning in PASSING or answer.meaning is Meaning.CREDENTIALS:
        return not_told("launch", answer)
    what = "every request" if everything else ", ".join(str(rung) for rung, _ in itertools.islice(refused, 4))
    said = ": ".join(filter(None, (answer.code, answer.message)))
    return failed("launch", f"EC2 refuses {what}: {said}", _remedy(answer))


def _remedy(answer: Refusal) -> str:
    if not answer.forbidden:
        return answer.remedy
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    named = re.search(r"perform:? (\w+:\w+)(?: on resource:? (\S+))?", answer.message)
    right, resource = (named[1], named[2]) if named else (answer.action, None)
    on = f" on {resource}" if resource else ""
    beside = "" if named else ", with ec2:CreateTags and iam:PassRole,"
    return f"allow {right}{on}{beside} to whoever launches; `celery flame iam-policy` prints the policy"
