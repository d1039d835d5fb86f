"""What there is to choose from: surveys, networks, trained models; for programs and in words."""

from __future__ import annotations

from typing import Any

from lensfinder.errors import counted

Listed = tuple[list[dict[str, Any]], list[str]]


def surveys() -> Listed:
    """List the surveys that are known."""
    from lensfinder import survey

    known = [survey.load(name) for name in survey.names()]
    width = max(len(item.name) for item in known)
    lines = []
    for item in known:
        bands = ",".join(item.bands)
        lines.append(f"{item.name:{width}} {item.title}: {bands}, {item.pixel_scale_arcsec}″")
        lines.append(f"{'':{width}} {item.source}")
    return [item.model_dump(mode="json") for item in known], lines


def networks(bands: int, size: int) -> Listed:
    """List the networks, with size and cost for stamps of so many bands and pixels a side."""
    from lensfinder.networks import describe

    known = describe(bands, size)
    lines = [f"of stamps with {counted(bands, 'band')} and {size} pixels a side (--bands, --size):"]
    for item in known:
        cost = (
            f"{item['parameters']:>12,} parameters {item['multiply_adds']:>16,} multiply-adds"
            if "reason" not in item
            else item["reason"]
        )
        lines += [f"{item['name']:13} {cost}", f"{'':13} {item['citation']}"]
    return known, lines


def models() -> Listed:
    """List the trained models that come along, with the thresholds of their own mocks."""
    from lensfinder.checkpoint import describe_shipped

    known = describe_shipped()
    lines = []
    for item in known:
        pixels = "8-bit pictures" if item["stretched"] else "fluxes"
        lines.append(
            f"{item['name']:14} {','.join(item['bands'])} {pixels}, {item['size']} px of "
            f"{item['pixel_scale_arcsec']:g} arcsec, {item['network']}"
        )
        lines.append(f"{'':14} {item['card']}")
        lines += [
            f"{'':14} of its own mocks, {at['fpr']:g} of non-lenses and {at['tpr']:.0%} of lenses "
            f"have a logit of {at['logit']:.2f} or more"
            for at in item["thresholds"]
        ]
    return known, lines
