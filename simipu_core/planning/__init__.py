"""What an experiment will take, told before anything runs."""

from simipu_core.planning.plan import GPUS, Device, Plan, StagePlan, plan

__all__ = ["GPUS", "Device", "Plan", "StagePlan", "plan"]
