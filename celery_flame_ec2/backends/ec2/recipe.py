"""What are the instances of a pool made of? Pure: options, template and metadata in, a recipe out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ... import userdata
from ...config import Ec2Options, RootVolume
from ...errors import BackendError
from ...imds import Identity
from .conflicts import conflicts
from .offers import Offer
from .template import Template

#: Where nobody names a type: neither user, template nor metadata.
SMALLEST_TYPE = "t3.nano"


@dataclass(frozen=True, kw_only=True, slots=True)
class RootDisk:
    """The disk an image boots from: its name there, and its size in GiB where the image tells."""

    name: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything of a launch that is the same for all of a pool's instances.

    None and () are not sent: the launch template says it, or EC2's own default holds. `image` is what the instances
    boot, also where the template says so; `root_disk` is the image's, None where nothing is to be said of it.
    """

    image: str
    template: Template | None = None
    image_id: str | None = None
    root_disk: RootDisk | None = None
    root_volume: RootVolume | None = None
    markets: tuple[str | None, ...] = (None,)
    instance_types: tuple[str | None, ...] = (None,)
    subnet_ids: tuple[str | None, ...] = (None,)
    security_group_ids: tuple[str, ...] = ()
    associate_public_ip: bool | None = None
    iam_instance_profile: str | None = None
    key_name: str | None = None
    zones: Mapping[str, str] = field(default_factory=dict)  #: of its subnets, where they are known
    user_data: str = ""  #: the template's own, as `userdata.part` gives it

    @property
    def template_data(self) -> Mapping[str, Any]:
        """Return what the launch template says; nothing where there is none."""
        return self.template.data if self.template else {}

    @property
    def known_types(self) -> tuple[str, ...]:
        """Return the types the instances may be of, the template's included."""
        of_template = self.template_data.get("InstanceType")
        return tuple(name for name in (kind or of_template for kind in self.instance_types) if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One thing to ask EC2 for. None: as the template says, or as EC2 does by itself."""

    market: str | None
    instance_type: str | None
    subnet_id: str | None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.market, self.instance_type, self.subnet_id))) or "as the template says"


def offer_of(made: Recipe, rung: Rung) -> Offer:
    """Say what a rung asks for, with what the template says in the place of what nobody else does."""
    kind = rung.instance_type or made.template_data.get("InstanceType")
    zone = made.zones.get(rung.subnet_id, rung.subnet_id) if rung.subnet_id else None
    return Offer(market=rung.market, instance_type=kind, zone=zone, subnet_id=rung.subnet_id)


def offer_taken(made: Recipe | None, instance: Mapping[str, Any]) -> Offer:
    """Say which offer an instance came of, from how EC2 describes it; that tells no subnet of one that is gone."""
    market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
    zone = (instance.get("Placement") or {}).get("AvailabilityZone")
    return Offer(
        market=None if made and made.markets == (None,) else market,
        instance_type=instance.get("InstanceType"),
        zone=None if made and made.subnet_ids == (None,) else zone,
        subnet_id=instance.get("SubnetId"),
    )


def recipe(options: Ec2Options, template: Template | None, identity: Identity | None) -> Recipe:
    """Say what the instances are made of: the user's word first, then the template's, then this instance's own.

    Raises:
        BackendError: options and template cannot go together.
    """
    data = template.data if template else {}
    image_id = options.image_id or _missing(data, "ImageId", identity.image_id if identity else None)
    profile = identity.instance_profile_arn if identity else None
    made = Recipe(
        template=template,
        image=_image(image_id, template),
        image_id=image_id,
        root_volume=options.root_volume,
        markets=_markets(options.market, data),
        instance_types=options.instance_type or (_type(data, identity),),
        subnet_ids=options.subnet_id or (_subnet(template, identity),),
        security_group_ids=options.security_group_id or _security_groups(template, identity),
        associate_public_ip=options.associate_public_ip,
        iam_instance_profile=options.iam_instance_profile or _missing(data, "IamInstanceProfile", profile),
        key_name=options.key_name,
        user_data=_user_data(template),
    )
    if problems := tuple(conflicts(made)):
        raise BackendError("; ".join(problems))
    return made


def rungs(made: Recipe) -> Iterator[Rung]:
    """Give what to ask for, best first: by market, then by type, then by subnet, each in the user's order."""
    for market, instance_type, subnet_id in itertools.product(made.markets, made.instance_types, made.subnet_ids):
        yield Rung(market=market, instance_type=instance_type, subnet_id=subnet_id)


def _missing(data: Mapping[str, Any], name: str, value: str | None) -> str | None:
    return None if data.get(name) else value


def _markets(wanted: tuple[str, ...], data: Mapping[str, Any]) -> tuple[str | None, ...]:
    # On-demand alone is also what a user gets who never spoke of markets: then the template's word holds.
    return (None,) if data.get("InstanceMarketOptions") and wanted == ("on-demand",) else wanted


def _type(data: Mapping[str, Any], identity: Identity | None) -> str | None:
    return _missing(data, "InstanceType", identity.instance_type if identity else SMALLEST_TYPE)


def _subnet(template: Template | None, identity: Identity | None) -> str | None:
    return None if identity is None or (template and template.places_itself) else identity.subnet_id


def _security_groups(template: Template | None, identity: Identity | None) -> tuple[str, ...]:
    return () if identity is None or (template and template.has_security_groups) else identity.security_group_ids


def _image(image_id: str | None, template: Template | None) -> str:
    image = image_id or (template.data.get("ImageId") if template else None)
    if not image:
        where = f"{template} names" if template else "the options name"
        raise BackendError(f"{where} no image; give option 'image_id'")
    return str(image)


def _user_data(template: Template | None) -> str:
    try:
        return userdata.part(template.user_data) if template else ""
    except ValueError as exc:
        raise BackendError(
            f"{template} has user data that cannot go to cloud-init beside ours: {exc}; runners need an image with "
            "cloud-init and user data it runs, which begins with #!, #cloud-config, #include, #cloud-boothook or "
            "## template: jinja, or is a MIME multipart; name a version without it in option 'launch_template_version'"
        ) from exc
