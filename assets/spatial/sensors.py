"""Mirrors into `target_sections` a section key that somebody added in the UI."""

import dagster as dg

from partitions import SECTIONS, TARGET_SECTIONS, PartitionKeyError, section_keys, valid_key


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def mirror_section_keys(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Add to `target_sections` the keys that only `sections` has; keys that cannot name a section are named."""
    targets = set(context.instance.get_dynamic_partitions(TARGET_SECTIONS.name or ""))
    missing, refused = [], []
    for key in section_keys(context.instance):
        try:
            if valid_key(key) not in targets:
                missing.append(key)
        except PartitionKeyError as error:
            refused.append(str(error))
    if missing:
        return dg.SensorResult(dynamic_partitions_requests=[TARGET_SECTIONS.build_add_request(missing)])
    return dg.SkipReason("; ".join(refused) or f"both dimensions hold the keys of {SECTIONS.name}")
