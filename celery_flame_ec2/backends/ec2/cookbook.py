"""Where and of what are a pool's instances made, by all that settings, AWS and this machine say?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from ...config import Ec2Options, PoolSettings
from ...errors import BackendError, MetadataError
from ...imds import Identity, Metadata
from . import lookups
from .clients import Clients, Place, asking
from .recipe import Recipe, recipe

#: Seconds a recipe holds: templates, image parameters and an instance's own metadata change, if seldom.
RECIPE_TTL = 300.0


class Cookbook:
    """Recipes by pool, each looked up when it is first asked for and kept for a while."""

    def __init__(self, clients: Clients, *, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._clients, self._environ, self._clock = clients, environ, clock
        self._identities: dict[str, Identity] = {}
        self._recipes: dict[str, tuple[float, Recipe]] = {}
        self._vcpus: dict[tuple[str, ...], int] = {}

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
        held_until, made = self._recipes.get(pool.name, (0.0, None))
        if made is None or self._clock() >= held_until:
            made = self._look_up(pool.ec2)
            self._recipes[pool.name] = (self._clock() + RECIPE_TTL, made)
        return made

    def forget(self, pool: PoolSettings) -> None:
        """Look everything up again for the next recipe: this one was refused."""
        self._recipes.pop(pool.name, None)

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
        root_disk = lookups.root_disk(client, image) if made.shapes_root else None
        return dataclasses.replace(made, image_id=made.image_id and image, root_disk=root_disk)

    def _identity(self, options: Ec2Options) -> Identity:
        url, token_url = options.instance_metadata_url, options.instance_metadata_token_url
        if url not in self._identities:
            metadata = Metadata(url=url, token_url=token_url, environ=self._environ)
            try:
                self._identities[url] = metadata.identity()
            except MetadataError as exc:
                raise BackendError(f"option 'auto_configure': {exc}") from exc
        return self._identities[url]
