"""What does every command take? Prints docs/commands.md from the code: `python docs/commands.py > docs/commands.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from celery.worker.control import Panel

from celery_flame_ec2.cli import flame

INTRODUCTION = """\
# Commands

What can be asked of flame, and with which options. Each is run as `celery -A proj.app flame ...`, from any machine with
the app's settings, and tells the same with `--help`. Exit code 0 says that it went well; 1 that it did not, and one
line on standard error why; 2 that the command line is wrong; 69 that broker, AWS or a runner did not answer.

This page is printed from the code by `python docs/commands.py`.
"""
REMOTE = """\
## Over remote control

Parents that are workers answer to these, from any machine that reaches the broker: see
[Status](status.md#pause-resume-scale).

| command | |
|---|---|"""


def main() -> None:
    print(INTRODUCTION)
    print("| command | |\n|---|---|")
    for name, command in commands("flame", flame):
        print(f"| [`{name}`](#{name.replace(' ', '-')}) | {(command.help or '').strip().splitlines()[0]} |")
    print()
    for name, command in commands("flame", flame):
        print(f"## `{name}`\n\n```\n{usage(name, command)}\n```\n\n{inspect.cleandoc(command.help or '')}\n")
        print_options(command)
    print(REMOTE)
    for name, info in sorted(Panel.meta.items()):
        if name.startswith("flame"):
            print(f"| {code(f'celery -A proj.app {info.type} {name}', info.signature)} | {info.help} |")


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield each command below this one by its whole name; itself where none is below it."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for below in command.list_commands(context):
        if found := command.get_command(context, below):
            yield from commands(f"{name} {below}", found)


def usage(name: str, command: click.Command) -> str:
    return " ".join((name, *command.collect_usage_pieces(click.Context(command))))


def print_options(command: click.Command) -> None:
    options = [each for each in command.params if isinstance(each, click.Option)]
    if not options:
        return
    print("| option | |\n|---|---|")
    for option in options:
        names = " / ".join(", ".join(names) for names in (option.opts, option.secondary_opts) if names)
        print(f"| {code(names, value(option))} | {meaning(option)} |")
    print()


def value(option: click.Option) -> str | None:
    """Return what stands behind an option, in capitals or as the choice there is; None for a flag."""
    if option.is_flag:
        return None
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return option.metavar or option.type.name.split()[0].upper()


def meaning(option: click.Option) -> str:
    """Return an option's help with its bounds and its default, as `--help` shows them."""
    text = option.help or ""
    if isinstance(option.type, (click.IntRange, click.FloatRange)):
        bounds = (("from", option.type.min), ("to", option.type.max))
        text += f" {' '.join(f'{word} {bound:g}' for word, bound in bounds if bound is not None).capitalize()}."
    if isinstance(option.default, (str, int, float)) and not option.is_flag and "default:" not in text:
        text += (
            f" [default: {option.default:g}]" if isinstance(option.default, float) else f" [default: {option.default}]"
        )
    return text + " [required]" * option.required


def code(*words: str | None) -> str:
    return f"`{' '.join(filter(None, words))}`".replace("|", "\\|")


if __name__ == "__main__":
    main()
