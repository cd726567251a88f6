"""Who does a role: what answers in this process, and what is checked before a run starts, its endpoint, its
key, and whether it can judge the pictures that it will be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.config import Config, Role, RoleName
from safer_steer.errors import UserError

if TYPE_CHECKING:
    from safer_steer.bench.suites import Suite
    from safer_steer.endpoints.transport import Transport
    from safer_steer.files.images import Trial


async def check_role(
    config: Config, role: RoleName, pictures: Callable[[], Iterable[Path | bytes | None]]
) -> None:
    """Check that each model of a role can be asked, and, if it is the sandbox's agent, that it knows every
    picture: files or their bytes, None for a script without one. Raises `UserError` that names the role."""
    for settings in config.models_of(role).values():
        await _check_model(role, settings, pictures)


async def _check_model(
    role: RoleName, settings: Role, pictures: Callable[[], Iterable[Path | bytes | None]]
) -> None:
    if settings.who == "sandbox":
        from safer_steer.sandbox.world import from_png

        for picture in pictures():
            if picture is None:
                raise UserError(
                    f"roles.{role}: the sandbox's agent needs a picture, and a script has none;"
                    " name a model and its base_url"
                )
            try:
                from_png(picture if isinstance(picture, bytes) else picture.read_bytes())
            except (ValueError, OSError):
                name = "an embedded one" if isinstance(picture, bytes) else picture
                raise UserError(
                    f"roles.{role}: the sandbox's agent knows only the sandbox's pictures, not {name};"
                    " name a model and its base_url"
                ) from None
    elif settings.who == "endpoint":
        from safer_steer.endpoints.endpoint import EndpointTransport

        try:
            transport = EndpointTransport(settings)
            try:
                await transport.check()
            finally:
                await transport.aclose()
        except UserError as error:
            raise UserError(f"roles.{role}: {error}") from None


def in_process(role: Role) -> Transport | None:
    """What answers for a role in this process, without a cache; None for a role behind an endpoint."""
    if role.who == "sandbox":
        from safer_steer.sandbox.agents import SandboxTransport

        return SandboxTransport(role.model)
    if role.who == "stub":
        from safer_steer.run.stub import StubTransport

        return StubTransport()
    return None


def own_pictures(config: Config, trial: Trial | None = None) -> Iterator[bytes | None]:
    """The pictures of `seeds.scripts`, decoded and tried on the student; None for a script without one."""
    from safer_steer.data.seeds.own_scripts import own_scripts, script_pictures

    for seed in own_scripts(config):
        pictures = script_pictures(config, seed, trial)
        yield from (picture.data for picture in pictures)
        if not pictures:
            yield None


def source_pictures(config: Config, use: str | None = None) -> Iterator[Path | bytes]:
    """The pictures of all sources except the sandbox, optionally only of sources for one use."""
    from safer_steer.data.sources.load import load_pairs

    return (pair.image for pair in load_pairs(config) if not callable(pair.image) and use in (None, pair.use))


def suite_pictures(suites: list[Suite]) -> Iterator[Path | None]:
    """The pictures of all scripts; None for a script without one."""
    for suite in suites:
        for seed in suite.seeds:
            yield from (suite.folder / image for image in seed.all_images)
            if not seed.all_images:
                yield None
