"""What would a pool's instances be, as far as options, template and metadata tell?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....config import Ec2Options, PoolSettings
from ....errors import BackendError, MetadataError
from ....finding import Finding, Verdict, failed, ok, unknown
from ....imds import Identity, Metadata
from ....parent import Parent
from .. import lookups
from ..recipe import Recipe, recipe
from ..refusals import Refusal
from ..template import Template
from .asker import Asker, not_told


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One pool under examination. Where the rest is unreadable its recipe says what options do, and is not `whole`."""

    pool: PoolSettings
    letter: Parent
    asker: Asker
    recipe: Recipe
    whole: bool = True

    @property
    def interface(self) -> Mapping[str, Any]:
        """Return what the template says of the primary network interface."""
        return self.recipe.template.primary if self.recipe.template else {}

    @property
    def subnets(self) -> tuple[str, ...]:
        """Return the subnets the instances may be in; none where EC2 chooses."""
        named = tuple(filter(None, self.recipe.subnet_ids))
        return named or tuple(filter(None, (self.interface.get("SubnetId"),)))

    @property
    def groups(self) -> tuple[str, ...]:
        """Return their security groups; none where EC2 takes the default one, or a template names them otherwise."""
        of_template = self.interface.get("Groups") or self.recipe.template_data.get("SecurityGroupIds") or ()
        return self.recipe.security_group_ids or tuple(of_template)

    @property
    def public(self) -> bool | None:
        """Return whether they get a public address; None where the subnet decides."""
        asked: bool | None = self.recipe.associate_public_ip
        return self.interface.get("AssociatePublicIpAddress") if asked is None else asked

    @property
    def profile(self) -> str | None:
        """Return the name of their instance profile."""
        of_template = self.recipe.template_data.get("IamInstanceProfile") or {}
        named = self.recipe.iam_instance_profile or of_template.get("Arn") or of_template.get("Name")
        return named.rpartition("/")[2] if named else None


class Reader:
    """Reads what a recipe is made from, and keeps what was found on the way."""

    def __init__(self, asker: Asker, environ: Mapping[str, str]) -> None:
        self._asker, self._environ = asker, environ
        self.findings: list[Finding] = []

    def read(self, options: Ec2Options) -> Recipe:
        """Return the recipe; one of the options alone where the rest cannot be had."""
        identity, template = self._identity(options), self._template(options)
        try:
            return recipe(options, template, identity) if self.is_whole else _of_options(options)
        except BackendError as exc:
            self.findings.append(failed("recipe", str(exc), "change the options it names, or the launch template"))
            return _of_options(options)

    @property
    def is_whole(self) -> bool:
        """Return whether everything could be read and goes together."""
        return all(finding.verdict is Verdict.OK for finding in self.findings)

    def _identity(self, options: Ec2Options) -> Identity | None:
        if not options.auto_configure:
            return None
        url, token_url = options.instance_metadata_url, options.instance_metadata_token_url
        try:
            found = Metadata(url=url, token_url=token_url, environ=self._environ).identity()
        except MetadataError as exc:
            remedy = "run this where the parent runs, or give what it would read: image_id, subnet_id, ..."
            self.findings.append(failed("auto_configure", str(exc), remedy))
            return None
        self.findings.append(
            ok("auto_configure", f"this is {found.instance_id}, {found.instance_type} in {found.zone}")
        )
        return found

    def _template(self, options: Ec2Options) -> Template | None:
        if not options.launch_template_id:
            return None
        client, version = self._asker.clients.ec2(self._asker.place), options.launch_template_version
        action = "ec2:DescribeLaunchTemplateVersions"
        found = self._asker.ask(action, lookups.template, client, options.launch_template_id, version)
        if isinstance(found, Refusal):
            self.findings.append(not_told("launch template", found, needed=True))
            return None
        self.findings.append(ok("launch template", f"{found.id} version {found.version}"))
        return found


def _of_options(options: Ec2Options) -> Recipe:
    return Recipe(
        image=options.image_id or "",
        image_id=options.image_id,
        markets=options.market,
        instance_types=options.instance_type or (None,),
        subnet_ids=options.subnet_id or (None,),
        security_group_ids=options.security_group_id,
        associate_public_ip=options.associate_public_ip,
        iam_instance_profile=options.iam_instance_profile,
    )


def described_image(subject: Subject) -> Mapping[str, Any] | Finding:
    """Return what EC2 describes of the image the instances boot, or why it cannot."""
    image, asker = subject.recipe.image, subject.asker
    if not image:
        return unknown("image", "nobody could be asked which it is", "mend what failed above")
    if image.startswith(lookups.RESOLVE):
        named = asker.ask("ssm:GetParameter", lookups.image_id, asker.clients.ssm(asker.place), image)
        if isinstance(named, Refusal):
            return not_told("image", named, needed=True)
        image = named
    client = asker.clients.ec2(asker.place)
    answer: Any = asker.ask("ec2:DescribeImages", client.describe_images, ImageIds=[image])
    if isinstance(answer, Refusal):
        return not_told("image", answer, needed=True)
    if not answer.get("Images"):
        return failed("image", f"there is no {image} in this region", "check options 'image_id' and 'region'")
    described: Mapping[str, Any] = answer["Images"][0]
    return described
