"""Reasons of conditions and events that no decision gives; the others are in `shoal.domain.reasons`."""

from __future__ import annotations

import enum


class ConditionType(enum.StrEnum):
    """Every condition of a ModelService. Those after OBSERVED stand there only while they are true."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SCALING = "Scaling"
    SLO_MET = "SLOMet"
    DEGRADED = "Degraded"
    PROFILED = "Profiled"
    OBSERVED = "Observed"
    NAME_TAKEN = "NameTaken"
    REVISION_NOT_PINNED = "RevisionNotPinned"


class ConditionReason(enum.StrEnum):
    """Why a condition is as it is."""

    NOT_DECIDED = "NotDecided"  # the first plan is still to come
    SERVING = "Serving"
    STARTING = "Starting"
    ENGINES_FAILING = "EnginesFailing"  # pods that crash or cannot start
    STOPPED = "Stopped"  # zero replicas, as asked for
    OBSERVE_ONLY = "ObserveOnly"  # mode Observe
    APPLY_FAILED = "ApplyFailed"  # the API server refused a write
    NAME_TAKEN = "NameTaken"
    REACHED = "Reached"  # this generation of the wish was reached once
    NEW_GENERATION = "NewGeneration"
    NOTHING_WRONG = "NothingWrong"
    SETTLED = "Settled"
    MOVING = "Moving"
    WITHIN_OBJECTIVE = "WithinObjective"
    TTFT_OVER_OBJECTIVE = "TTFTOverObjective"
    ITL_OVER_OBJECTIVE = "ITLOverObjective"
    NO_TRAFFIC = "NoTraffic"
    AS_PLANNED = "AsPlanned"
    HOT = "Hot"
    FRESH = "Fresh"
    NOTHING_RUNS = "NothingRuns"
    REVISION_IS_BRANCH = "RevisionIsBranch"


class ProblemReason(enum.StrEnum):
    """Why a ModelService cannot be planned or made into pods at all."""

    POOL_NOT_FOUND = "PoolNotFound"
    POOL_NOT_ADMITTED = "PoolNotAdmitted"
    ENGINE_CLASS_NOT_FOUND = "EngineClassNotFound"
    SOURCE_NOT_ALLOWED = "SourceNotAllowed"
    ARGUMENT_NOT_ALLOWED = "ArgumentNotAllowed"
    NOT_READABLE = "NotReadable"  # the object does not match the operator's schema
    NOT_RENDERABLE = "NotRenderable"  # the plan cannot be made into pods
    PLANNING_FAILED = "PlanningFailed"  # a defect of Shoal's own: what runs stays as it is
    MODEL_SIZE_UNKNOWN = "ModelSizeUnknown"  # of a ProfileRun: neither name nor parameters tell it
    DOES_NOT_FIT = "DoesNotFit"  # of a ProfileRun: into no number of the pool's GPUs
    NO_PROFILER_IMAGE = "NoProfilerImage"  # the operator was not told which image measures


class RunReason(enum.StrEnum):
    """Why condition Ready of a ProfileRun is as it is, where no problem and no taken name says so."""

    WAITING_FOR_PLANS = "WaitingForPlans"  # what services need is not known yet
    WAITING_FOR_GPUS = "WaitingForGPUs"  # services need them, or somebody else has them
    PAUSED = "Paused"
    STARTING = "Starting"
    MEASURING = "Measuring"
    MEASURED = "Measured"
    PARTLY_MEASURED = "PartlyMeasured"  # some configurations failed, or ended early
    NOTHING_MEASURED = "NothingMeasured"


class EventReason(enum.StrEnum):
    """Reasons of Events that are not those of a condition."""

    PLANNED = "Planned"
