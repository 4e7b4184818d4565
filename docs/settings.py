"""What does every option mean? Prints docs/settings.md from the code: `python docs/settings.py > docs/settings.md`."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from typing import Any

from celery_flame_ec2.config import PREFIX, Ec2Options, PoolSettings, RootVolume, Settings

INTRODUCTION = """\
# Settings

Every option: what it means, what it may be, and what it is where you say nothing. Lower-case in `app.conf` or a config
module, `CELERY_FLAME_...` under a namespace such as Django's. Times are seconds. All are read once, at start; every
problem is reported at once, and then nothing starts.

This page is printed from the code by `python docs/settings.py`.
"""
SECTIONS = (
    ("`flame_...`", "Beside `flame_pools`, a dict of pools by name, and `flame_ec2`, a dict.", PREFIX, Settings),
    (
        "`flame_pools[name]`",
        "A pool may also hold any option of `flame_ec2`, which goes for it alone before the one that all share. "
        "No queue is in two pools.",
        "",
        PoolSettings,
    ),
    (
        "`flame_ec2`",
        "What instances are made of, for all pools. With the `ec2` backend `s3_bundle_url` and `app` are required and, "
        "without `launch_template_id` or `auto_configure`, `image_id`, `subnet_id` and `security_group_id` too. "
        "`image_id` and `launch_template_id` do not go together.",
        "",
        Ec2Options,
    ),
    ("`root_volume`", "Inside `flame_ec2` or a pool.", "", RootVolume),
)


def main() -> None:
    print(INTRODUCTION)
    for title, text, prefix, kind in SECTIONS:
        print(f"## {title}\n\n{text}\n\n| option | | is | default |\n|---|---|---|---|")
        for option in fields(kind):
            if "check" in option.metadata:
                print(f"| `{prefix}{option.name}` | {meaning(option)} | {expected(option)} | {default(option)} |")
        print()


def default(option: Field[Any]) -> str:
    if option.default is MISSING:
        return "required" if option.default_factory is MISSING else f"`{option.default_factory()!r}`"
    value = list(option.default) if isinstance(option.default, tuple) else option.default
    return "" if value in ([], "") else f"`{value!r}`"


def expected(option: Field[Any]) -> str:
    """Return what the option must be, in the words its check refuses a wrong value with."""
    try:
        option.metadata["check"](object())
    except ValueError as exc:
        return re.split(r" \((?:not|in it:) ", str(exc))[0].replace("|", "\\|")
    return "anything"


def meaning(option: Field[Any]) -> str:
    """Return what the option says of itself, as Markdown and with links to other pages."""
    return re.sub(r"see (\w+)\.md", r"see [\1](\1.md)", option.metadata["doc"].replace("<", "\\<"))


if __name__ == "__main__":
    main()
