"""The record of `pipeline.ct_preparation` in sentences, for logs and the report's provenance."""

from typing import Any


def in_words(record: dict[str, Any]) -> list[str]:
    """One sentence a step, in the order of the steps."""
    steps = [_values(record), *_flat(record), _bad(record), _noise(record), _rings(record), _centre(record)]
    if record.get("truncated"):
        steps.append("projections are cut off: FBP continues them, other methods have a wider image")
    if "bins_joined" in record:
        steps.append(f"bins joined by {record['bins_joined']}")
    if "views" in record:
        steps.append(f"{record['views']} of {record['views_measured']} views chosen")
    return steps


def _values(record: dict[str, Any]) -> str:
    raised = record.get("raised_share", 0.0)
    words = {
        "counts": "counts to line integrals by flat and dark field",
        "transmission": "transmission to line integrals",
        "log": "line integrals as measured",
    }[record["values"]]
    return f"{words}; {100 * raised:.2g} % of the samples were raised to the least count" if raised else words


def _flat(record: dict[str, Any]) -> list[str]:
    if "flat_frames" not in record:
        return []
    drift = record["flat_drift"]
    words = f"{record['flat_frames']} flat frames"
    return [words if drift is None else f"{words}, {100 * drift:+.2g} % from before to after, interpolated"]


def _bad(record: dict[str, Any]) -> str:
    return f"{record['bad_bins']} bad bins, {100 * record['bad_share']:.2g} % of the samples without weight"


def _noise(record: dict[str, Any]) -> str:
    if "photons_per_count" in record:
        return f"noise from counts, {record['photons_per_count']:.4g} photons a count ({record['gain']})"
    return f"noise of {record['photons_of_an_open_ray']:.4g} photons a ray through air, {record['noise']}"


def _rings(record: dict[str, Any]) -> str:
    if record["rings"] == "none":
        return f"rings not suppressed; bins are off by {record['stripes']:.2g}"
    before, after = record["stripes"], record["stripes_left"]
    return f"rings suppressed ({record['rings']}): bins off by {before:.2g} before, {after:.2g} after"


def _centre(record: dict[str, Any]) -> str:
    words = f"axis of rotation: {record['centre_of_rotation']}"
    if "axis_on_detector_mm" not in record:
        return words
    words += f", {record['axis_on_detector_mm']:+.4g} mm from the detector's middle"
    spread = record.get("axis_spread_mm")
    return words if spread is None else f"{words}, slices differ by {spread:.2g} mm"
