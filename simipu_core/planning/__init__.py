"""What an experiment will take, told before anything runs."""

from simipu_core.planning.plan import Device, Plan, StagePlan, plan

__all__ = ["Device", "Plan", "StagePlan", "plan"]
