"""Where and of what are a pool's instances made, by all that settings, AWS and this machine say?"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...config import Ec2Options, PoolSettings
from ...errors import BackendError, MetadataError
from ...imds import Identity, Metadata
from . import lookups
from .clients import Clients, Place, Refused, asking
from .conflicts import conflicts_of_place
from .recipe import Recipe, recipe
from .refusals import Meaning, Refusal

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

logger = logging.getLogger(__name__)

#: Seconds a recipe holds: templates, image parameters and an instance's own metadata change, if seldom.
RECIPE_TTL = 300.0


class Cookbook:
    """Recipes by pool, each looked up when it is first asked for and kept for a while."""

    def __init__(self, clients: Clients, *, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._clients, self._environ, self._clock = clients, environ, clock
        self._identities: dict[str, Identity] = {}
        self._recipes: dict[str, tuple[float, Recipe]] = {}
        self._vcpus: dict[tuple[str, ...], int] = {}
        self._zones_forbidden = False

    def place(self, options: Ec2Options) -> Place:
        """Return where instances with these options live.

        Raises:
            BackendError: nothing names a region.
        """
        region = options.region
        if region is None:
            with asking("looking for a region"):
                region = self._clients.region()
        if region is None and options.auto_configure:
            region = self._identity(options).region
        if region is None:
            raise BackendError("no AWS region; give option 'region', or set AWS_DEFAULT_REGION")
        return Place(region=region, endpoint=options.ec2_service_endpoint)

    def recipe(self, pool: PoolSettings) -> Recipe:
        """Return what the pool's instances are made of.

        Raises:
            BackendError: template, image or metadata cannot be read, or do not go together.
        """
        held_until, made = self._recipes.get(pool.name, (-math.inf, None))
        if made is None or self._clock() >= held_until:
            made = self._look_up(pool.ec2)
            if problems := tuple(conflicts_of_place(made, runners=pool.max)):
                raise BackendError("; ".join(problems))
            self._recipes[pool.name] = (self._clock() + RECIPE_TTL, made)
        return made

    def known(self, pool: PoolSettings) -> Recipe | None:
        """Return the recipe that was last looked up, however long ago."""
        return self._recipes.get(pool.name, (0.0, None))[1]

    def forget(self, pool: PoolSettings) -> None:
        """Look everything up again for the next recipe: this one was refused."""
        if pool.name in self._recipes:
            self._recipes[pool.name] = (-math.inf, self._recipes[pool.name][1])

    def vcpus(self, pool: PoolSettings) -> int:
        """Return the vCPUs of the smallest type the pool may get.

        Raises:
            BackendError: EC2 does not say what the type is.
        """
        types = self.recipe(pool).known_types
        if types not in self._vcpus:
            self._vcpus[types] = lookups.vcpus(self._clients.ec2(self.place(pool.ec2)), types)
        return self._vcpus[types]

    def _look_up(self, options: Ec2Options) -> Recipe:
        place = self.place(options)
        client = self._clients.ec2(place)
        identity = self._identity(options) if options.auto_configure else None
        template = None
        if options.launch_template_id:
            template = lookups.template(client, options.launch_template_id, options.launch_template_version)
        made = recipe(options, template, identity)
        image = made.image
        if image.startswith(lookups.RESOLVE):
            image = lookups.image_id(self._clients.ssm(place), image)
        root_disk = lookups.root_disk(client, image)
        zones = self._zones(client, [subnet for subnet in made.subnet_ids if subnet])
        # What a template names by a parameter is sent by its id: a launch sent twice must mean the same one.
        image_id = image if made.image_id or image != made.image else None
        return dataclasses.replace(made, image_id=image_id, root_disk=root_disk, zones=zones)

    def _zones(self, client: EC2Client, subnet_ids: list[str]) -> dict[str, str]:
        try:
            return lookups.zones(client, subnet_ids) if subnet_ids else {}
        except Refused as exc:
            if not exc.refusal.forbidden:
                raise
            # Only the memory of refusals wants zones, and makes do with subnets.
            log = logger.debug if self._zones_forbidden else logger.info
            log("want of capacity is remembered by subnet, not by zone: %s", exc)
            self._zones_forbidden = True
            return {}

    def _identity(self, options: Ec2Options) -> Identity:
        url, token_url = options.instance_metadata_url, options.instance_metadata_token_url
        if url not in self._identities:
            metadata = Metadata(url=url, token_url=token_url, environ=self._environ)
            try:
                self._identities[url] = metadata.identity()
            except MetadataError as exc:
                action = "option 'auto_configure'"
                raise Refused(Refusal(meaning=Meaning.UNCLEAR, action=action, code="", message=str(exc))) from exc
        return self._identities[url]
