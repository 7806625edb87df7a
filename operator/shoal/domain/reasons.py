"""One documented constant for every reason Shoal gives. Conditions, events and tests use these and no other strings."""

from __future__ import annotations

import enum


class HoldReason(enum.StrEnum):
    """Why a target is frozen."""

    METRICS_STALE = "MetricsStale"  # less than 90 % of the engines answered lately
    INVENTORY_UNREADABLE = "InventoryUnreadable"  # the GPUs of a pool could not be listed
    PAUSED = "Paused"
    MOVES_LIMITED = "MovesLimited"  # the operator-wide limit on concurrent moves is reached
    MOVE_IN_FLIGHT = "MoveInFlight"  # a change of mix waits for the last one to end


class Binding(enum.StrEnum):
    """What keeps a plan from being cheaper, or a wish from being met."""

    DEMAND = "Demand"  # nothing else: replicas follow the request rate
    FLOOR = "MinReplicas"
    LIMIT = "MaxGPUs"
    QUOTA = "Quota"
    STOCK = "Stock"
    PRIORITY = "Priority"  # others of higher priority took the stock
    LATENCY = "LatencyFloor"  # no configuration is fast enough, even when idle
    MEMORY = "Memory"  # the weights and one context fit nowhere
    PROFILE = "Profile"  # a measured profile is required and missing
    POOL = "Pool"  # no pool may be used
    MANUAL = "Manual"


class Rejection(enum.StrEnum):
    """Why a configuration is not in the plan."""

    DOES_NOT_FIT = "DoesNotFit"
    LINK_TOO_SLOW = "LinkTooSlow"
    TTFT_FLOOR = "TTFTFloor"
    ITL_FLOOR = "ITLFloor"
    NOT_MEASURED = "NotMeasured"
    ESTIMATE_MAY_NOT_SHARE = "EstimateMayNotShare"
    NARROWED = "NarrowedBySpec"
    NEEDS_ENVOY = "NeedsEnvoy"  # engines that share a pod need routing per engine
    CANNOT_SHARE_DEVICE = "CannotShareDevice"  # extended resources cannot be shared by containers
    ISLAND_TOO_SMALL = "IslandTooSmall"
    DOMINATED = "Dominated"
    COSTLIER = "Costlier"
    NO_STOCK = "NoStock"
    MOVE_NOT_WORTH_IT = "MoveNotWorthIt"


class ProfileState(enum.StrEnum):
    """Status of condition Profiled, as its reason."""

    MEASURED = "Measured"
    LEARNED = "Learned"
    ESTIMATED = "Estimated"
    SIMULATED = "Simulated"
    MISSING = "Missing"
    STALE = "Stale"
