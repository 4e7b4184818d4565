"""What does an operator do with releases in S3?"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..backends.ec2 import library
from ..backends.ec2.checkup import bundle
from ..backends.ec2.clients import Refused
from ..backends.ec2.push import push as push_file
from ..backends.ec2.push import push_unpacked
from ..backends.ec2.refusals import PASSING
from ..backends.ec2.shelf import ARCHIVES, Shelved, Uses, newest_first, to_prune
from ..backends.ec2.store import Store
from ..edition import Edition, edition_of, key_of
from ..errors import NoRoom, ReleaseError
from ..finding import Finding, failed, unknown, warning
from ..release.inspection import AGAIN, fits, inspect
from .doctor import exit_code, show
from .shop import Shop, opened

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = "[s3://BUCKET/PREFIX/]"
#: Of what uses a release, so much is told in a line.
FEW = 3


def option(*names: str, **words: Any) -> Callable[[F], F]:
    """Declare an option as Celery's commands show theirs."""
    return click.option(*names, cls=CeleryOption, help_group="Release", **words)


@click.command(cls=CeleryCommand)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", required=False, metavar=FOLDER)
@option("--unpacked", is_flag=True, help="Put its files under PREFIX/NAME/, release.json last.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def push(ctx: click.Context, file: Path, folder: str | None, unpacked: bool, **_: Any) -> None:
    """Put FILE, a built release, into S3 under its own name, beside the bundle that the settings name.

    Nothing that is there is overwritten: the same bytes are well, others an error that names both checksums.
    Prints the options to set.
    """
    if not file.name.endswith(ARCHIVES):
        raise ReleaseError(f"{file.name} is no release: it is to end in {', '.join(ARCHIVES)}")
    with opened(ctx) as shop, progress(f"pushing {file.name}", file.stat().st_size) as tell:
        store, key = shop.store(shop.folder(folder))
        what = {"app": shop.name(store.url(key)), "program": shop.program(store.url(key))}
        if unpacked:
            pushed = push_unpacked(store, file, f"{key}{_plain(file.name)}/", progress=tell, **what)
        else:
            pushed = push_file(store, file, key + file.name, progress=tell, **what)
    click.echo(f"{pushed.url} {'is there now' if pushed.new else 'was there already'}", err=True)
    click.echo(f'"s3_bundle_url": "{pushed.url}",')
    if not unpacked:
        click.echo(f'"s3_bundle_sha256": "{pushed.sha256}",')


def _plain(name: str) -> str:
    """Return a file's name without what says how it is packed."""
    return next(name.removesuffix(end) for end in ARCHIVES if name.endswith(end))


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far it is; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@click.command(cls=CeleryCommand)
@click.argument("url", required=False)
@option("--quick", is_flag=True, help="Believe what S3 tells; fetch nothing.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def check(ctx: click.Context, url: str | None, quick: bool, as_json: bool, **_: Any) -> None:
    """Check the release at URL (those that the settings name): there, whole, every file of it, fit for its image.

    Exit code 1 says that something failed, 69 that AWS did not answer.
    """
    with opened(ctx) as shop:
        urls = [url] if url else shop.urls()
        if not urls:
            raise ReleaseError("the settings name no bundle: give its URL")
        found = [finding for each in urls for finding in _checked(shop, each, quick=quick)]
    show(found, as_json=as_json)
    ctx.exit(exit_code(found))


def _checked(shop: Shop, url: str, *, quick: bool) -> Iterator[Finding]:
    store, key = shop.store(url)
    try:
        head = store.head(key_of(key))
        bare = head is None and key.endswith("/") and any(store.listed(key))
    except Refused as exc:
        yield bundle.file(exc.refusal, url, None)
        return
    if bare:
        yield warning("bundle", f"under {url} is no release.json: it is not pinned, or was pushed half", AGAIN)
    else:
        yield bundle.there(head, url, shop.options(url).s3_bundle_sha256)
    if head is None and not bare:
        return
    edition = edition_of(url, head or {})
    if not quick:
        yield from _fetched(shop, store, edition, int((head or {}).get("ContentLength", 0)))
    yield from fits(edition.facts, shop.architecture(url))


def _fetched(shop: Shop, store: Store, edition: Edition, size: int) -> Iterator[Finding]:
    try:
        with progress("fetching", size) as tell:
            contents = library.fetched(store, edition, tell)
    except Refused as exc:
        silent = exc.refusal.meaning in PASSING
        yield unknown("contents", str(exc), "see that this machine reaches S3, and may read it", silent=silent)
    except NoRoom as exc:
        yield unknown("contents", str(exc), f"it needs some {size / 1e6:,.0f} MB there, or say --quick")
    except ReleaseError as exc:
        yield failed("contents", str(exc), AGAIN)
    else:
        yield from inspect(contents, shop.program(edition.url))


@click.command(cls=CeleryCommand, name="list")
@click.argument("folder", required=False, metavar=FOLDER)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def list_(ctx: click.Context, folder: str | None, as_json: bool, **_: Any) -> None:
    """List the releases in a folder (the one of the settings), the newest first, and who uses them.

    Exit code 69 says that not everybody who may use one could be asked.
    """
    with opened(ctx) as shop:
        store, key = shop.store(shop.folder(folder))
        shelved, uses = newest_first(library.shelved(store, key)), shop.uses()
    untold = uses.untold(shelved)
    if as_json:
        fields = [_fields(each, uses, certain=not untold) for each in shelved]
        click.echo(json.dumps({"releases": fields, "unknown": list(untold)}, indent=2))
    else:
        _tell(shelved, uses)
        _tell_unknown(untold)
    ctx.exit(EX_UNAVAILABLE if untold else 0)


@click.command(cls=CeleryCommand)
@click.argument("folder", required=False, metavar=FOLDER)
@option("--keep", type=click.IntRange(min=0), required=True, metavar="N", help="So many of the newest stay.")
@option("--dry-run", is_flag=True, help="Only say what would go.")
@option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def prune(ctx: click.Context, folder: str | None, keep: int, dry_run: bool, yes: bool, **_: Any) -> None:
    """Delete pushed releases of this app: not the N newest, and never one that settings, a parent or a runner uses.

    Where it is not known who uses them nothing is deleted, with exit code 69.
    """
    with opened(ctx) as shop:
        store, key = shop.store(shop.folder(folder))
        shelved = library.shelved(store, key)
        uses = _known_uses(ctx, shop, shelved)
        going = to_prune(shelved, uses, app=shop.name(store.url(key)), keep=keep)
        _tell(going, uses)
        if going and not dry_run and not yes:
            click.confirm(f"delete {len(going)} of {len(shelved)} releases?", abort=True, err=True)
            uses = _known_uses(ctx, shop, shelved)  # the answer may have taken long
            going = [each for each in going if not uses.of(each)]
        for each in () if dry_run else going:
            library.remove(store, each)
    click.echo(f"{len(going)} of {len(shelved)} {'would be' if dry_run else ''} deleted".replace("  ", " "), err=True)


def _known_uses(ctx: click.Context, shop: Shop, shelved: Sequence[Shelved]) -> Uses:
    uses = shop.uses()
    if untold := uses.untold(shelved):
        _tell_unknown((*untold, "nothing is deleted"))
        ctx.exit(EX_UNAVAILABLE)
    return uses


def _tell(shelved: Sequence[Shelved], uses: Uses) -> None:
    for each in shelved:
        who = uses.of(each)
        used = ", ".join(who[:FEW]) + (f" and {len(who) - FEW} more" if len(who) > FEW else "")
        at = f"{datetime.fromtimestamp(each.at, timezone.utc):%Y-%m-%d %H:%M} UTC"
        sha256 = (each.edition.sha256 or "-")[:12]
        click.echo(f"{at}  {each.size / 1e6:8.1f} MB  {sha256:12}  {each.url}  {used}".rstrip())


def _tell_unknown(untold: tuple[str, ...]) -> None:
    for why in untold:
        click.echo(f"note: {why}", err=True)


def _fields(each: Shelved, uses: Uses, *, certain: bool) -> dict[str, Any]:
    who, edition = uses.of(each), each.edition
    return {
        "url": each.url,
        "size": each.size,
        "at": datetime.fromtimestamp(each.at, timezone.utc).isoformat(),
        "sha256": edition.sha256,
        "version": edition.version,
        "facts": dict(edition.facts),
        "in_use": True if who else False if certain else None,
        "used_by": list(who),
    }
